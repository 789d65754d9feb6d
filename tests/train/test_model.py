from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch
from torch import nn

from edge_retina.errors import UsageError
from edge_retina.train.model import PRESETS, Block, ModelConfig, RetinaNet, Subnet, make_spec


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def on_paper(preset: str, classes: int) -> RetinaNet:
    with torch.device("meta"):  # shapes only, no memory
        return RetinaNet(PRESETS[preset], classes)


# Of torchvision's resnetNN without its last layer (512 or 2048 x 1000 + 1000).
@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
    ],
)
def test_bottom_up_is_resnet(preset: str, expected: int) -> None:
    model = on_paper(preset, 80)
    assert parameters(model.stem, model.stages) == expected


def test_the_rest_of_the_paper_s_network() -> None:
    model = on_paper("resnet50", 80)
    conv = 256 * 256 * 9 + 256
    assert parameters(model.boxes) == 4 * conv + 256 * 36 * 9 + 36
    assert parameters(model.classes) == 4 * conv + 256 * 720 * 9 + 720
    # Convs without bias, then weight and bias of BatchNorm: P3-P5 lateral, P3-P5 output, P6 from C5, P7 from P6.
    assert parameters(model.lateral) == (512 + 1024 + 2048) * 256 + 3 * 512
    assert parameters(model.output) == 3 * (256 * 256 * 9 + 512)
    assert parameters(model.p6, model.p7) == (2048 + 256) * 256 * 9 + 2 * 512


def test_narrow_is_small() -> None:
    # 12 MB of float32 at most.
    assert parameters(on_paper("narrow", 10)) < 3_000_000


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (64, 224)])
def test_heads_have_the_shapes_that_the_spec_says(size: tuple[int, int], tiny: str) -> None:
    config = PRESETS[tiny]
    spec = make_spec(config, ("a", "b", "c"), size)
    with torch.inference_mode():
        logits, deltas = RetinaNet(config, 3).eval()(torch.zeros(2, 3, *size))
    assert len(logits) == len(deltas) == spec.num_levels == 5
    for level, (height, width) in enumerate(spec.level_shapes):
        assert logits[level].shape == (2, 9 * 3, height, width)
        assert deltas[level].shape == (2, 9 * 4, height, width)


def test_every_anchor_starts_with_the_prior() -> None:
    model = RetinaNet(ModelConfig(blocks=(1, 1, 1, 1), widths=(8, 8, 8, 8), pyramid=8), 4)
    torch.testing.assert_close(torch.sigmoid(model.classes.last.bias), torch.full((36,), 0.01))
    assert not model.boxes.last.bias.any()
    with torch.inference_mode():
        logits, _ = model.eval()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert float(torch.sigmoid(logits[0]).mean()) == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_block_starts_as_identity(bottleneck: bool) -> None:
    block = Block(16, 4 if bottleneck else 16, 1, bottleneck).eval()
    x = torch.rand(1, 16, 8, 8)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_stride_sits_in_the_3x3_conv(bottleneck: bool) -> None:
    block = Block(8, 8, 2, bottleneck)
    strides = [(conv[0].kernel_size[0], conv[0].stride[0]) for conv in block.convs]
    assert strides == ([(1, 1), (3, 2), (1, 1)] if bottleneck else [(3, 2), (3, 1)])
    assert block.skip[0].stride == (2, 2)


def test_subnet_keeps_the_size() -> None:
    assert Subnet(8, 2, 5, 0.0)(torch.zeros(1, 8, 3, 4)).shape == (1, 5, 3, 4)


def test_spec_by_hand() -> None:
    spec = make_spec(PRESETS["resnet50"], ("a",), (320, 480))
    assert spec.strides == ((8, 8), (16, 16), (32, 32), (64, 64), (128, 128))
    assert spec.level_shapes == ((40, 60), (20, 30), (10, 15), (5, 8), (3, 4))
    # 32 pixels on P3 to 512 on P7; ratio 1 comes second, scale 1 first.
    assert spec.cell_anchors[0][3] == pytest.approx((-16, -16, 16, 16))
    assert spec.cell_anchors[4][3] == pytest.approx((-256, -256, 256, 256))
    assert {len(cell) for cell in spec.cell_anchors} == {9}


@pytest.mark.parametrize("size", [(0, 32), (320, 300), (-32, 32), (31, 32)])
def test_sizes_that_do_not_divide(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        make_spec(PRESETS["narrow"], ("a",), size)


def test_anchors_follow_the_config() -> None:
    config = replace(PRESETS["narrow"], ratios=(1.0,), scales=(1.0,))
    assert [cell[0][2] for cell in make_spec(config, ("a",), (64, 64)).cell_anchors] == [8, 16, 32, 64, 128]
