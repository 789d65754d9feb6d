"""A RetinaNet with ResNet trunk, shaped as torchvision's retinanet_resnet50_fpn, with random weights; NumPy and onnx.

`python tests/retinanet.py OUT.onnx [--size 640x640]` writes it: 136 MB for ResNet-50, which is why it is a script.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edge_retina.spec import METADATA_KEY, DetectorSpec, cell_anchors

F32 = npt.NDArray[np.float32]

# Bottlenecks per stage; 26 is the smallest ResNet of bottlenecks.
DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
LEVELS, TOWER = 5, 4
# torchvision/models/detection/retinanet.py, _default_anchorgen: three octaves, three ratios.
SIZES = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
RATIOS = (0.5, 1.0, 2.0)
ANCHORS = len(SIZES[0]) * len(RATIOS)
# Focal loss paper, section 3.3, prior 0.01: -log(0.99 / 0.01).
PRIOR = -4.595
# ImageNet, for pixels 0..255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Of max(0, x) for a standard normal x: 1/2 - 1/(2 pi).
RECTIFIED_VARIANCE = 0.5 - 0.5 / np.pi
# Of the two last convs, so that on a frame of noise some logits pass 0.05 and boxes stay near their anchors.
LOGIT_GAIN, DELTA_GAIN = 0.05, 0.02
# Of the last conv of a bottleneck: sums over sixteen residual branches stay of the size of their terms.
BRANCH_GAIN = 0.5


def retinanet_r50(
    path: Path | None = None,
    *,
    classes: int = 91,
    input_size: tuple[int, int] = (640, 640),
    channels: int = 256,
    depth: int = 50,
    width: float = 1.0,
    seed: int = 0,
    opset: int = 18,
    norm: str = "none",
) -> tuple[onnx.ModelProto, DetectorSpec]:
    """A RetinaNet in our own export's form: raw heads per level, spec in the metadata, batch axis free.

    ResNet bottlenecks with the stride in the 3x3, FPN on C3..C5, P6 from P5 and P7 from P6, class and box towers of
    four 3x3 convs shared over five levels. input_size: (H, W), multiples of 32, so that every FPN sum is of a doubled
    map. channels: of FPN and heads. depth: one of DEPTHS. width: factor on the trunk's channels. norm: "none" (folded
    into the convs) or "batch" (BatchNormalization after each conv of the trunk). path: also saved there.
    """
    if any(side % 32 for side in input_size):
        raise ValueError(f"input_size wants multiples of 32, found {input_size}")
    net = _Net(np.random.default_rng(seed), norm == "batch")
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, *input_size])
    pyramid = _fpn(net, _trunk(net, "images", DEPTHS[depth], width), channels)
    outputs = []
    shapes = [tuple(-(-side // (8 << level)) for side in input_size) for level in range(LEVELS)]
    for kind, per_anchor, gain, bias in (
        ("logits", classes, LOGIT_GAIN, PRIOR),
        ("deltas", 4, DELTA_GAIN, 0.0),
    ):
        tower = [net.weights(f"{kind}.tower_{i}", channels, channels, 3) for i in range(TOWER)]
        last = net.weights(f"{kind}.last", ANCHORS * per_anchor, channels, 3, gain=gain, bias=bias)
        for level, (x, shape) in enumerate(zip(pyramid, shapes, strict=True)):
            for i, parameters in enumerate(tower):
                x = net.relu(net.conv(f"{kind}_{level}.tower_{i}", x, parameters, 3))
            name = net.conv(f"{kind}_{level + 3}", x, last, 3)
            sizes = ["batch", ANCHORS * per_anchor, *shape]
            outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes))
    spec = DetectorSpec(
        family="edge_retina",
        labels=tuple(f"class_{i}" for i in range(classes)),
        input_size=input_size,
        mean=MEAN,
        std=STD,
        pad_value=MEAN,
        strides=tuple((input_size[0] // h, input_size[1] // w) for h, w in shapes),
        level_shapes=tuple(shapes),
        cell_anchors=tuple(cell_anchors(sizes, RATIOS, rounded=True) for sizes in SIZES),
    )
    graph = helper.make_graph(net.nodes, "retinanet", [images], outputs, net.initializers)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tests")
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    if path is not None:
        path.write_bytes(model.SerializeToString())
    return model, spec


class _Net:
    """Nodes and weights so far."""

    def __init__(self, rng: np.random.Generator, batch_norm: bool) -> None:
        self.rng, self.batch_norm = rng, batch_norm
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weights(
        self, name: str, out: int, channels: int, kernel: int, *, gain: float = 1.0, bias: float = 0.0
    ) -> list[str]:
        """Normal, less the mean per output channel, so scaled that a conv after a ReLU keeps the variance at gain 1.

        What is common to all channels after a ReLU would otherwise grow from layer to layer until the picture is lost.
        """
        deviation = np.float32(gain / np.sqrt(RECTIFIED_VARIANCE * channels * kernel * kernel))
        array = self.rng.standard_normal((out, channels, kernel, kernel), dtype=np.float32) * deviation
        array -= array.mean(axis=(1, 2, 3), keepdims=True)
        return [
            self.constant(f"{name}.weight", array),
            self.constant(f"{name}.bias", np.full(out, bias, np.float32)),
        ]

    def conv(self, name: str, x: str, parameters: list[str], kernel: int, stride: int = 1) -> str:
        pads, sides = [kernel // 2] * 4, [kernel, kernel]
        return self.add("Conv", [x, *parameters], name, kernel_shape=sides, strides=[stride, stride], pads=pads)

    def relu(self, x: str) -> str:
        return self.add("Relu", [x], f"{x}.relu")

    def block(self, name: str, x: str, out: int, channels: int, kernel: int, stride: int = 1, gain: float = 1.0) -> str:
        """Conv, and BatchNormalization where it is not folded."""
        x = self.conv(name, x, self.weights(name, out, channels, kernel, gain=gain), kernel, stride)
        if not self.batch_norm:
            return x
        values = (
            ("scale", self.rng.uniform(0.7, 1.4, out)),
            ("shift", self.rng.normal(0, 0.1, out)),
            ("mean", self.rng.normal(0, 0.1, out)),
            ("var", self.rng.uniform(0.7, 1.4, out)),
        )
        constants = [self.constant(f"{name}.norm.{key}", value.astype(np.float32)) for key, value in values]
        return self.add("BatchNormalization", [x, *constants], f"{name}.norm")


def _trunk(net: _Net, x: str, blocks: tuple[int, ...], width: float) -> list[tuple[str, int]]:
    """C3, C4, C5 and their channels."""
    stem = round(64 * width)
    x = net.relu(net.block("stem", x, stem, 3, 7, stride=2))
    x = net.add("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels, features = stem, []
    for stage, count in enumerate(blocks):
        inner, out = stem << stage, 4 * (stem << stage)
        for i in range(count):
            name, stride = f"layer{stage + 1}.{i}", 2 if stage and not i else 1
            y = net.relu(net.block(f"{name}.conv1", x, inner, channels, 1))
            y = net.relu(net.block(f"{name}.conv2", y, inner, inner, 3, stride))
            y = net.block(f"{name}.conv3", y, out, inner, 1, gain=BRANCH_GAIN)
            if not i:
                x = net.block(f"{name}.downsample", x, out, channels, 1, stride, gain=np.sqrt(0.5))
            x, channels = net.relu(net.add("Add", [y, x], f"{name}.add")), out
        features.append((x, channels))
    return features[1:]


def _fpn(net: _Net, features: list[tuple[str, int]], channels: int) -> list[str]:
    """P3..P7, all of `channels` channels."""
    twice = net.constant("fpn.scales", np.array([1, 1, 2, 2], np.float32))
    pyramid: list[str] = []
    above = ""
    for level in (5, 4, 3):
        x, found = features[level - 3]
        x = net.conv(f"fpn.inner_{level}", x, net.weights(f"fpn.inner_{level}", channels, found, 1), 1)
        if above:
            nearest = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
            up = net.add("Resize", [above, "", twice], f"fpn.up_{level}", **nearest)
            x = net.add("Add", [x, up], f"fpn.add_{level}")
        above = x
        parameters = net.weights(f"fpn.layer_{level}", channels, channels, 3, gain=np.sqrt(0.5))
        pyramid.insert(0, net.conv(f"fpn.layer_{level}", x, parameters, 3))
    p6 = net.conv("fpn.p6", pyramid[-1], net.weights("fpn.p6", channels, channels, 3), 3, stride=2)
    p7 = net.conv("fpn.p7", net.relu(p6), net.weights("fpn.p7", channels, channels, 3), 3, stride=2)
    return [*pyramid, p6, p7]


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(height), int(width)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=_size, default=(640, 640), metavar="WIDTHxHEIGHT")
    parser.add_argument("--depth", type=int, choices=sorted(DEPTHS), default=50)
    options = parser.parse_args()
    retinanet_r50(options.out, input_size=options.size, depth=options.depth)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB")
