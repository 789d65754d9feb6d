"""RetinaNet: a ResNet bottom-up, a feature pyramid P3-P7 and two subnets shared over the levels.

Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4 and figure 3; the bottom-up is
He et al. 2016, table 1. BatchNorm is used in the bottom-up and the pyramid, none in the subnets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from edge_retina.errors import UsageError
from edge_retina.spec import DetectorSpec, cell_anchors

__all__ = ["PRESETS", "ModelConfig", "RetinaNet", "make_spec"]

# ImageNet statistics in pixel units; torchvision's and every ImageNet-trained backbone's convention.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
LEVELS = (3, 4, 5, 6, 7)
# Probability that an anchor is foreground at the start of training: section 4.1, "Initialization".
PRIOR = 0.01


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a RetinaNet.

    blocks: residual blocks per stage C2..C5. bottleneck: 1x1-3x3-1x1 blocks (ResNet-50, -101) or 3x3-3x3.
    widths: channels of the stages before expansion. pyramid: channels of P3..P7 and the subnets.
    subnet_convs: 3x3 convs per subnet before the last one. anchor_base: anchor size / stride of its level.
    ratios: height / width. scales: sizes within an octave.
    """

    blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    bottleneck: bool = False
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    pyramid: int = 256
    subnet_convs: int = 4
    anchor_base: float = 4.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))


PRESETS: dict[str, ModelConfig] = {
    "resnet18": ModelConfig(),
    "resnet34": ModelConfig(blocks=(3, 4, 6, 3)),
    "resnet50": ModelConfig(blocks=(3, 4, 6, 3), bottleneck=True),
    "resnet101": ModelConfig(blocks=(3, 4, 23, 3), bottleneck=True),
    # For an edge CPU and small objects: 2.6 M parameters, anchors from 2 x stride = 16 pixels.
    "narrow": ModelConfig(widths=(32, 64, 128, 192), pyramid=64, subnet_convs=4, anchor_base=2.0),
}


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Residual block of ResNet, basic or bottleneck; the stride sits in the 3x3 conv (as torchvision has it)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        channels = (inputs, width, width, outputs) if bottleneck else (inputs, width, outputs)
        at = kernels.index(3)
        self.convs = nn.ModuleList(
            _conv_bn(channels[i], channels[i + 1], k, stride if i == at else 1) for i, k in enumerate(kernels)
        )
        needs_projection = stride != 1 or inputs != outputs
        self.skip = _conv_bn(inputs, outputs, 1, stride) if needs_projection else nn.Identity()
        nn.init.zeros_(self.convs[-1][1].weight)  # starts as identity: Goyal et al. 2017, 5.1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        y = x
        for conv in self.convs[:-1]:
            y = functional.relu(conv(y))
        return functional.relu(self.convs[-1](y) + self.skip(x))


class Subnet(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Classification or box subnet; one set of weights for all levels, last conv initialised as in the paper."""

    def __init__(self, channels: int, convs: int, outputs: int, bias: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs))
        self.last = nn.Conv2d(channels, outputs, 3, padding=1)
        for conv in self.convs:
            # He initialisation rather than the paper's 0.01, which assumes a pretrained, 256-channel network.
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.constant_(self.last.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, outputs, H, W)."""
        for conv in self.convs:
            x = functional.relu(conv(x))
        return self.last(x)


class RetinaNet(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """The detector of the paper.

    forward: normalised images float32 (B, 3, H, W) to (logits, deltas), each one tensor per level P3..P7:
    logits (B, A * K, h, w), channel a * K + k, before the sigmoid; deltas (B, A * 4, h, w), dx dy dw dh.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        widths = config.widths
        self.stem = _conv_bn(3, widths[0], 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs, stages = widths[0], []
        for i, (count, width) in enumerate(zip(config.blocks, widths, strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(Block(inputs, width, 2 if i > 0 and j == 0 else 1, config.bottleneck))
                inputs = width * 4 if config.bottleneck else width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        expansion = 4 if config.bottleneck else 1
        c3, c4, c5 = (w * expansion for w in widths[1:])
        p = config.pyramid
        self.lateral = nn.ModuleList(_conv_bn(c, p, 1) for c in (c3, c4, c5))
        self.output = nn.ModuleList(_conv_bn(p, p, 3) for _ in range(3))
        self.p6, self.p7 = _conv_bn(c5, p, 3, 2), _conv_bn(p, p, 3, 2)
        anchors = len(config.ratios) * len(config.scales)
        self.classes = Subnet(p, config.subnet_convs, anchors * num_classes, -math.log((1 - PRIOR) / PRIOR))
        self.boxes = Subnet(p, config.subnet_convs, anchors * 4, 0.0)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """See the class."""
        x = self.pool(functional.relu(self.stem(x)))
        bottom_up = []
        for stage in self.stages:
            x = stage(x)
            bottom_up.append(x)
        top_down = self.lateral[2](bottom_up[3])
        merged = [top_down]
        for i in (1, 0):
            lateral = self.lateral[i](bottom_up[i + 1])
            # The input is a multiple of 32, so twice is exact; a size read off a tensor would litter the export.
            top_down = lateral + functional.interpolate(top_down, scale_factor=2.0, mode="nearest")
            merged.insert(0, top_down)
        pyramid = [conv(m) for conv, m in zip(self.output, merged, strict=True)]
        pyramid.append(self.p6(bottom_up[3]))
        pyramid.append(self.p7(functional.relu(pyramid[-1])))
        return [self.classes(level) for level in pyramid], [self.boxes(level) for level in pyramid]


def make_spec(config: ModelConfig, labels: tuple[str, ...], size: tuple[int, int]) -> DetectorSpec:
    """The DetectorSpec of a RetinaNet of this shape, for network input `size` (H, W), multiples of 32.

    Raises UsageError for another size: nearest upsampling would not land on whole cells.
    """
    if any(side % 32 or side <= 0 for side in size):
        raise UsageError(f"input size wants multiples of 32, found {size[0]}x{size[1]}")
    strides = [2**level for level in LEVELS]
    sizes = [[stride * config.anchor_base * scale for scale in config.scales] for stride in strides]
    anchors = [cell_anchors(level, config.ratios) for level in sizes]
    return DetectorSpec(
        family="edge_retina",
        labels=labels,
        input_size=size,
        color_order="rgb",
        mean=MEAN,
        std=STD,
        pad_value=MEAN,
        strides=tuple((s, s) for s in strides),
        level_shapes=tuple((math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in strides),
        cell_anchors=tuple(anchors),
    )
