from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")
pytest.importorskip("onnxscript", reason="the export needs onnxscript: pip install 'edge-retina[train]'")

import torch
from torch import nn

from edge_retina.errors import OutputError
from edge_retina.importer import import_model, load_onnx
from edge_retina.spec import METADATA_KEY, DetectorSpec
from edge_retina.train.export import export_onnx, fold_batch_norm
from edge_retina.train.model import PRESETS, ModelConfig, RetinaNet, make_spec

LABELS = ("a", "b")
NAMES = [f"{kind}_{level}" for kind in ("logits", "deltas") for level in range(3, 8)]


def lively(config: ModelConfig, seed: int = 0) -> RetinaNet:
    """A network whose BatchNorm statistics and residual branches are not those of initialisation."""
    torch.manual_seed(seed)
    model = RetinaNet(config, len(LABELS)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model


def heads(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    logits, deltas = model(images)
    return [*logits, *deltas]


@pytest.fixture
def exported(tiny: str, tmp_path: Path) -> tuple[RetinaNet, DetectorSpec, Path]:
    config = PRESETS[tiny]
    model, spec = lively(config), make_spec(config, LABELS, (64, 96))
    export_onnx(model, spec, tmp_path / "new" / "model.onnx")
    return model, spec, tmp_path / "new" / "model.onnx"


def test_batch_norm_of_nothing() -> None:
    model = nn.Sequential()
    assert fold_batch_norm(model) is model


def test_folding_changes_no_output(tiny: str) -> None:
    model, folded = lively(PRESETS[tiny]), fold_batch_norm(lively(PRESETS[tiny]))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for a, b in zip(heads(model, images), heads(folded, images), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_graph(exported: tuple[RetinaNet, DetectorSpec, Path]) -> None:
    _, spec, path = exported
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [v.name for v in proto.graph.input] == ["images"]
    assert [v.name for v in proto.graph.output] == NAMES
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.output]
    shapes = [[height, width] for height, width in spec.level_shapes]
    assert dims == [["batch", 18, *s] for s in shapes] + [["batch", 36, *s] for s in shapes]
    ops = Counter(node.op_type for node in proto.graph.node)
    # Convolutions, the pool, the two upsamplings and the two kinds of sums; nothing that computes a shape.
    assert set(ops) <= {"Conv", "Relu", "MaxPool", "Resize", "Add", "Constant"}
    assert (ops["Resize"], ops["MaxPool"]) == (2, 1)
    assert not [node for node in proto.graph.node if node.domain]


def test_the_spec_is_in_the_metadata(exported: tuple[RetinaNet, DetectorSpec, Path]) -> None:
    _, spec, path = exported
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert DetectorSpec.from_json(metadata[METADATA_KEY]) == spec
    imported = import_model(load_onnx(path))
    assert imported.spec == spec
    assert (imported.trunk_input, imported.logits + imported.deltas) == ("images", tuple(NAMES))


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_agrees(exported: tuple[RetinaNet, DetectorSpec, Path], batch: int) -> None:
    model, _, path = exported
    images = np.random.default_rng(batch).normal(size=(batch, 3, 64, 96)).astype(np.float32)
    found = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(NAMES, {"images": images})
    with torch.inference_mode():
        wanted = heads(model, torch.from_numpy(images))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-4)


def test_the_model_stays_as_it_is(exported: tuple[RetinaNet, DetectorSpec, Path], tiny: str) -> None:
    model = exported[0]
    assert list(model.state_dict()) == list(RetinaNet(PRESETS[tiny], 2).state_dict())


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_depth_exports(preset: str, tmp_path: Path) -> None:
    # Its blocks at a fraction of their width.
    config = replace(PRESETS[preset], widths=(4, 4, 4, 4), pyramid=8)
    spec = make_spec(config, LABELS, (32, 32))
    export_onnx(lively(config), spec, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    convs = 1 + sum(config.blocks) * (3 if config.bottleneck else 2)
    projections = 4 if config.bottleneck else 3
    # Pyramid: three lateral, three output, P6, P7; subnets: five levels of two times five.
    wanted = convs + projections + 8 + 5 * 2 * (config.subnet_convs + 1)
    assert sum(node.op_type == "Conv" for node in proto.graph.node) == wanted


def test_a_folder_that_cannot_be(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = make_spec(PRESETS[tiny], LABELS, (32, 32))
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx"):
        export_onnx(RetinaNet(PRESETS[tiny], 2), spec, tmp_path / "file" / "model.onnx")


def test_nothing_half_written(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()  # cannot be replaced by a file
    spec = make_spec(PRESETS[tiny], LABELS, (32, 32))
    with pytest.raises(OutputError):
        export_onnx(RetinaNet(PRESETS[tiny], 2), spec, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
