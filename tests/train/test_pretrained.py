from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch

from edge_retina.errors import InputError
from edge_retina.train.model import PRESETS, RetinaNet
from edge_retina.train.pretrained import load_backbone

BASIC = replace(PRESETS["resnet18"], widths=(4, 4, 8, 8), pyramid=8)
BOTTLENECK = replace(PRESETS["resnet50"], widths=(4, 4, 4, 4), pyramid=8)


def torchvision_names(bottleneck: bool) -> dict[str, str]:
    """Our parameter names to torchvision's, of the first block of each stage and the stem, written down by hand."""
    names = {"stem.0.weight": "conv1.weight", "stem.1.weight": "bn1.weight", "stem.1.running_var": "bn1.running_var"}
    for stage in range(4):
        for conv in range(3 if bottleneck else 2):
            theirs = f"layer{stage + 1}.0"
            names[f"stages.{stage}.0.convs.{conv}.0.weight"] = f"{theirs}.conv{conv + 1}.weight"
            names[f"stages.{stage}.0.convs.{conv}.1.bias"] = f"{theirs}.bn{conv + 1}.bias"
        if bottleneck or stage > 0:
            names[f"stages.{stage}.0.skip.0.weight"] = f"{theirs}.downsample.0.weight"
            names[f"stages.{stage}.0.skip.1.running_mean"] = f"{theirs}.downsample.1.running_mean"
    return names


def theirs(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "stem":
        return ("conv1." if rest[0] == "0" else "bn1.") + rest[2:]
    stage, block, kind, tail = rest.split(".", 3)
    layer = f"layer{int(stage) + 1}.{block}"
    if kind == "skip":
        return f"{layer}.downsample.{tail}"
    conv, which, leaf = tail.split(".")
    return f"{layer}.{'conv' if which == '0' else 'bn'}{int(conv) + 1}.{leaf}"


def state(model: RetinaNet) -> dict[str, torch.Tensor]:
    """A state dict as torchvision has it, of random numbers, with its classifier."""
    generator = torch.Generator().manual_seed(0)
    found = {
        theirs(name): torch.rand(value.shape, generator=generator).to(value.dtype)
        for name, value in model.state_dict().items()
        if name.startswith(("stem", "stages"))
    }
    return {**found, "fc.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(10)}


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def test_an_empty_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"they lack stem\.0\.weight, .* more; choose the --model"):
        load_backbone(RetinaNet(BASIC, 2), saved(tmp_path / "w.pth", {}))


@pytest.mark.parametrize("config", [BASIC, BOTTLENECK])
def test_every_tensor_lands_in_its_place(tmp_path: Path, config: object) -> None:
    model = RetinaNet(config, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = state(model)
    assert load_backbone(model, saved(tmp_path / "w.pth", weights)) == len(weights) - 2
    after = model.state_dict()
    for ours, name in torchvision_names(config.bottleneck).items():
        assert torch.equal(after[ours], weights[name]), ours
    changed = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"stem", "stages"}


def test_counters_may_be_missing(tmp_path: Path) -> None:
    model = RetinaNet(BASIC, 2)
    weights = {name: value for name, value in state(model).items() if not name.endswith("num_batches_tracked")}
    assert load_backbone(model, saved(tmp_path / "w.pth", weights)) == len(weights) - 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"they lack stages\.0\.0\.convs\.0\.0\.weight;"),
        ({"layer1.7.conv1.weight": torch.zeros(1)}, r"they have unknown stages\.0\.7\.convs\.0\.0\.weight;"),
        ({"features.0.weight": torch.zeros(1)}, r"they have unknown features\.0\.weight;"),
        ({"conv1.weight": torch.zeros(4, 3, 3, 3)}, r"they have another shape for stem\.0\.weight;"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    model = RetinaNet(BASIC, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value for name, value in {**state(model), **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        load_backbone(model, saved(tmp_path / "w.pth", weights))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_wrong_depth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="they lack"):
        load_backbone(RetinaNet(BOTTLENECK, 2), saved(tmp_path / "w.pth", state(RetinaNet(BASIC, 2))))


@pytest.mark.parametrize("content", [None, b"", b"not a state dict"])
def test_files_that_are_something_else(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth: wanted a PyTorch state dict, found"):
        load_backbone(RetinaNet(BASIC, 2), path)


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3, "state_dict": {}}])
def test_values_that_are_no_state_dict(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match="names to tensors"):
        load_backbone(RetinaNet(BASIC, 2), saved(tmp_path / "w.pth", value))
