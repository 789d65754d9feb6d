"""Exporters for a trainer's environment: what they say where it is missing, and the frame that most of them share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge_retina import importer
from edge_retina.errors import MissingPackage, SpecError
from edge_retina.importer import HeadLayout, import_model, load_onnx
from edge_retina.importer.exporters.heads import export_heads, level_shapes, require
from edge_retina.spec import DetectorSpec, cell_anchors

FAMILIES = sorted(
    path.stem
    for path in (Path(importer.__file__).parent / "exporters").glob("[a-z]*.py")
    if path.stem not in ("attach", "heads")
)
TRAINERS = (
    "detectron2",
    "effdet",
    "keras",
    "keras_retinanet",
    "mmdet",
    "tensorflow",
    "tf2onnx",
    "torch",
    "torchvision",
)
# What each looks for first, in an environment that has edge-retina and no trainer.
MISSING = dict.fromkeys(FAMILIES, "torch") | {"keras_hub": "keras", "keras_retinanet": "keras-retinanet"}

WITHOUT_TRAINERS = """
import importlib, json, sys
from types import SimpleNamespace

trainers, families = sys.argv[1].split(), sys.argv[2].split()
sys.modules.update(dict.fromkeys(trainers))  # importing these fails as if they were not installed
from edge_retina import importer
from edge_retina.errors import MissingPackage

parts = ("anchor_generator", "backbone", "box_coder", "head", "score_thresh", "topk_candidates")
transform = SimpleNamespace(size_divisible=32, fixed_size=None, min_size=(800,), max_size=1333)
model = SimpleNamespace(**dict.fromkeys(parts), transform=transform)
said = {}
for family in families:
    importlib.import_module(f"edge_retina.importer.exporters.{family}")
    sizes = {"size": (64, 64)} if family in ("detectron2", "keras_retinanet", "mmdet", "odtk") else {}
    try:
        getattr(importer, f"export_{family}")(model, "never.onnx", **sizes)
    except MissingPackage as exc:
        said[family] = str(exc)
json.dump(said, sys.stdout)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each exporter says in a process without trainers."""
    folder = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TRAINERS, " ".join(TRAINERS), " ".join(FAMILIES)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert list(folder.iterdir()) == []
    return json.loads(result.stdout)


def test_nothing_is_required_of_those_who_want_nothing() -> None:
    require()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_trainer_is_told_with_the_command_to_install_it(family: str, said: dict[str, str]) -> None:
    wanted = MISSING[family]
    message = f"exporting wants the trainer's environment, found no {wanted}; run: pip install {wanted}"
    assert said[family] == message


def test_a_package_that_lacks_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import not_there_at_all.inside\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPackage, match="run: pip install not-there-at-all"):
        require("json", "half_installed")


SPEC = DetectorSpec(
    family="mine",
    labels=("cat", "dog"),
    input_size=(32, 48),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    pad_value=(0.0, 0.0, 0.0),
    strides=((8, 8), (16, 16)),
    level_shapes=((4, 6), (2, 3)),
    cell_anchors=tuple(cell_anchors([2.0 * stride], (1.0,)) for stride in (8, 16)),
)


@pytest.fixture
def detector():
    """A live model of two levels, in training but for a frozen BatchNorm."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    parts = {"stem": torch.nn.Conv2d(3, 4, 8, 8), "norm": torch.nn.BatchNorm2d(4), "down": torch.nn.Conv2d(4, 4, 2, 2)}
    parts |= {"cls": torch.nn.Conv2d(4, 2, 1), "box": torch.nn.Conv2d(4, 4, 1)}
    model = torch.nn.ModuleDict(parts).train()
    model["norm"].eval()
    return model


def maps(model, images):
    fine = model["norm"](model["stem"](images))
    levels = [fine, model["down"](fine)]
    return [model["cls"](level) for level in levels], [model["box"](level) for level in levels]


def modes(model):
    return {name: part.training for name, part in model.named_modules()}


def test_levels_of_a_live_model(detector) -> None:
    before = modes(detector)
    assert level_shapes(detector, maps, (32, 48)) == SPEC.level_shapes
    assert modes(detector) == before
    assert before["norm"] is False


@pytest.mark.filterwarnings("ignore")  # torch has some for its own exporters
def test_heads_and_spec_of_a_live_model(detector, tmp_path: Path) -> None:
    import torch

    before = modes(detector)
    path = tmp_path / "m.onnx"
    assert export_heads(detector, maps, path, SPEC, {"opset_version": 17}) == SPEC
    assert modes(detector) == before
    found = import_model(load_onnx(path))
    assert found.spec == SPEC
    assert (found.trunk_input, found.layout) == ("images", HeadLayout())
    batch = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ours = session.run([*found.logits, *found.deltas], {"images": batch})
    with torch.no_grad():
        logits, deltas = maps(detector.eval(), torch.from_numpy(batch))
    for one, other in zip(ours, [*logits, *deltas], strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_another_layout_is_written_beside_the_spec(detector, tmp_path: Path) -> None:
    layout = HeadLayout(delta_order=(1, 0, 3, 2))
    export_heads(detector, maps, tmp_path / "m.onnx", SPEC, {}, layout)
    assert import_model(load_onnx(tmp_path / "m.onnx")).layout == layout


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_fails_is_left_as_it_was(detector, tmp_path: Path) -> None:
    def wrong(_model, _images):
        raise SpecError("three kinds of maps")

    before = modes(detector)
    with pytest.raises(SpecError, match="three kinds"):
        export_heads(detector, wrong, tmp_path / "m.onnx", SPEC, {})
    assert modes(detector) == before
