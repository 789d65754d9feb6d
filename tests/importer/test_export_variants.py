"""The same detector exported in other ways: each gives the same detections, or is refused with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from matching import match
from models import tiny_model, write_pictures
from onnx import TensorProto, helper, numpy_helper, version_converter

from edge_retina.build import build
from edge_retina.bundle import Bundle
from edge_retina.detector import Detector
from edge_retina.errors import ModelError, SpecError
from edge_retina.importer import import_model, load_onnx

FIXTURES = Path(__file__).parents[1] / "fixtures"
LOW = {"score_threshold": 0.01}
OLDEST, NEWEST = 11, 23


def model_of(name: str) -> onnx.ModelProto:
    return tiny_model(classes=5)[0] if name == "tiny" else onnx.load(FIXTURES / f"{name}.onnx")


def save(model: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def detections(bundle: Bundle) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, *bundle.spec.input_size, 3), dtype=np.uint8)
    with Detector.load(bundle.path, threads=1) as detector:
        found = [detector(frame) for frame in frames]
    return [(d.xyxy, d.scores, d.labels) for d in found]


def assert_same(bundle: Bundle, wanted: Any, px: float = 1e-2, score: float = 1e-4, share: float = 1.0) -> None:
    for got, other in zip(detections(bundle), wanted, strict=True):
        limit = bundle.spec.max_detections
        report = match(got, other, px=px, score=score, threshold=0.01, limit=limit)
        assert report.matched >= share * len(other[1]) > 0, report
        assert report.ok, report


@pytest.fixture(scope="module", params=["tiny", "tv_v1_raw_ts", "tv_v1_raw_dynamo"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, Any]:
    folder = tmp_path_factory.mktemp("good")
    model = model_of(request.param)
    return model, detections(build(save(model, folder), overrides=LOW))


# Opsets


@pytest.mark.parametrize("opset", range(OLDEST, NEWEST + 1))
def test_opsets(opset: int, tmp_path: Path) -> None:
    """Built anew, as an exporter would: the operators of a raw RetinaNet are the same from 11 on."""
    model, _ = tiny_model(classes=5, opset=opset)
    wanted = detections(build(save(model_of("tiny"), tmp_path, "wanted.onnx"), overrides=LOW))
    assert_same(build(save(model, tmp_path), overrides=LOW), wanted)


@pytest.mark.parametrize("opset", [19, 21, NEWEST])
def test_converted_exports(opset: int, good: tuple[onnx.ModelProto, Any], tmp_path: Path) -> None:
    model, wanted = good
    converted = version_converter.convert_version(model, opset)
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    assert_same(build(save(converted, tmp_path), overrides=LOW), wanted)


@pytest.mark.parametrize("opset", [9, 10])
def test_opsets_before(opset: int, tmp_path: Path) -> None:
    """Converted, for the few operators of this model are the same there."""
    model, _ = tiny_model(classes=5, opset=11)
    model.opset_import[0].version = opset
    wanted = detections(build(save(model_of("tiny"), tmp_path, "wanted.onnx"), overrides=LOW))
    assert_same(build(save(model, tmp_path), overrides=LOW), wanted)


def test_an_opset_that_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(version_converter, "convert_version", fails)
    model, _ = tiny_model(opset=11)
    with pytest.raises(ModelError, match=r"opset 11 cannot be converted to 17 \(no adapter\); .* opset_version=17"):
        load_onnx(save(model, tmp_path))


def test_an_opset_that_nobody_knows_yet(tmp_path: Path) -> None:
    model, _ = tiny_model()
    model.opset_import[0].version = 99
    with pytest.raises(ModelError, match=r"opset 99 is newer than the installed onnx .* knows"):
        build(save(model, tmp_path))


# FP16


def halved(model: onnx.ModelProto, *, keep_io: bool) -> onnx.ModelProto:
    """All floats become float16, as converters do; with keep_io a Cast follows the input and precedes each output."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                value = numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(numpy_helper.from_array(value, attribute.t.name))
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    if not keep_io:
        for end in (*graph.input, *graph.output):
            end.type.tensor_type.elem_type = TensorProto.FLOAT16
        return half
    new = {t.name: f"{t.name}/half" for t in (*graph.input, *graph.output)}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    nodes = [helper.make_node("Cast", [t.name], [new[t.name]], to=TensorProto.FLOAT16) for t in graph.input]
    nodes += graph.node
    nodes += [helper.make_node("Cast", [new[t.name]], [t.name], to=TensorProto.FLOAT) for t in graph.output]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return half


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("keep_io", [True, False])
def test_half_exports(keep_io: bool, precision: str, good: tuple[onnx.ModelProto, Any], tmp_path: Path) -> None:
    model, wanted = good
    half = halved(model, keep_io=keep_io)
    onnx.checker.check_model(half, full_check=True)
    bundle = build(save(half, tmp_path), precision=precision, overrides=LOW)
    assert_same(bundle, wanted, px=2.0, score=1e-2, share=0.7)


# External data


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data(one_file: bool, good: tuple[onnx.ModelProto, Any], tmp_path: Path) -> None:
    model, wanted = good
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    options = {"all_tensors_to_one_file": one_file, "size_threshold": 0, "convert_attribute": True}
    if one_file:
        options["location"] = "m.onnx.data"
    onnx.save(copy, tmp_path / "m.onnx", save_as_external_data=True, **options)
    assert len(os.listdir(tmp_path)) == 2 if one_file else len(os.listdir(tmp_path)) > 2
    bundle = build(tmp_path / "m.onnx", overrides=LOW)
    # The bundle is whole without them.
    for path in tmp_path.iterdir():
        if path != bundle.path:
            path.unlink()
    assert_same(bundle, wanted)


# Batch and size


def with_input(model: onnx.ModelProto, *shape: int | str) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    ends = [(copy.graph.input[0], list(shape)), *((output, None) for output in copy.graph.output)]
    for end, sides in ends:
        dims = end.type.tensor_type.shape.dim
        for place, side in enumerate(dims):
            value = sides[place] if sides is not None else (shape[0] if place == 0 else None)
            if value is not None:
                side.CopyFrom(type(side)(**{"dim_value" if isinstance(value, int) else "dim_param": value}))
    return copy


@pytest.mark.parametrize("batch", [1, 4, "batch", "N"])
def test_batches(batch: int | str, tmp_path: Path) -> None:
    """Declared only: the operators take any. The bundle then does as well."""
    model = model_of("tiny")
    wanted = detections(build(save(model, tmp_path, "wanted.onnx"), overrides=LOW))
    bundle = build(save(with_input(model, batch, 3, 64, 64), tmp_path), overrides=LOW)
    assert bundle.manifest.batch_max is None
    assert_same(bundle, wanted)


def with_target(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A batch that is written into a Reshape, as tracing does."""
    copy = with_input(model, batch, 3, 64, 64)
    copy.graph.initializer.append(numpy_helper.from_array(np.int64([batch, 6, 8, 8]), "target"))
    copy.graph.node.insert(1, helper.make_node("Reshape", ["stem", "target"], ["stem.shaped"]))
    copy.graph.node[2].input[0] = "stem.shaped"
    return copy


def test_a_batch_of_one_written_into_the_graph(tmp_path: Path) -> None:
    bundle = build(save(with_target(model_of("tiny"), 1), tmp_path))
    assert bundle.manifest.batch_max == 1
    assert len(detections(bundle)[0][0]) > 0


def test_a_batch_of_four_written_into_the_graph(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="export it for batch 1 or with a free batch axis"):
        build(save(with_target(model_of("tiny"), 4), tmp_path))


@pytest.mark.parametrize("shape", [("batch", 3, "height", "width"), (1, 3, "height", "width"), ("b", "c", "h", "w")])
def test_an_open_size_of_a_model_that_says_its_size(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    model = model_of("tiny")
    wanted = detections(build(save(model, tmp_path, "wanted.onnx"), overrides=LOW))
    open_model = with_input(model, *shape)
    for output in open_model.graph.output:
        for side in output.type.tensor_type.shape.dim[2:]:
            side.Clear()
    assert_same(build(save(open_model, tmp_path), overrides=LOW), wanted)


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v1_raw_dynamo"])
def test_an_open_size_that_nobody_says(name: str, tmp_path: Path) -> None:
    """Refused with what to do; the size may then be given."""
    model = model_of(name)
    wanted = detections(build(save(model, tmp_path, "wanted.onnx"), overrides=LOW))
    path = save(with_input(model, 1, 3, "height", "width"), tmp_path)
    with pytest.raises(SpecError, match="fixed image size"):
        import_model(load_onnx(path))
    assert_same(build(path, overrides={**LOW, "input_size": [160, 224]}), wanted)


# Q/DQ that are there already


def quantized(model: onnx.ModelProto, scales: tuple[float, float] = (2.0**-5, 2.0**-7)) -> onnx.ModelProto:
    """Q/DQ in front of the data and the weight of the stem, as another tool's quantizer puts them."""
    graph = gs.import_onnx(model)
    stem = next(node for node in graph.nodes if node.op == "Conv")
    for place, scale in enumerate(scales):
        x = stem.inputs[place]
        numbers = (
            gs.Constant(f"scale_{place}", np.array(scale, np.float32)),
            gs.Constant(f"zero_{place}", np.array(0, np.int8)),
        )
        q, dq = gs.Variable(f"q_{place}", np.int8), gs.Variable(f"dq_{place}", np.float32)
        graph.nodes.append(gs.Node("QuantizeLinear", f"q_{place}", {}, [x, *numbers], [q]))
        graph.nodes.append(gs.Node("DequantizeLinear", f"dq_{place}", {}, [q, *numbers], [dq]))
        stem.inputs[place] = dq
    made = gs.export_onnx(graph.toposort())
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    return made


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_quantizers_that_are_there_stay(precision: str, tmp_path: Path) -> None:
    notes: list[str] = []
    path = save(quantized(model_of("tiny")), tmp_path)
    bundle = build(path, precision=precision, overrides=LOW, on_note=notes.append)
    assert "quantized already, by 2 QuantizeLinear of its own, which stay as they are" in notes[0]
    ops = [node.op_type for node in onnx.load_from_string(bundle.model()).graph.node]
    assert ops.count("QuantizeLinear") == ops.count("DequantizeLinear") == 2
    wanted = detections(build(save(model_of("tiny"), tmp_path, "wanted.onnx"), overrides=LOW))
    assert_same(bundle, wanted, px=3, score=0.05, share=0.7)


def test_quantizers_that_fp16_cannot_hold(tmp_path: Path) -> None:
    path = save(quantized(model_of("tiny"), (0.03, 0.01)), tmp_path)
    assert build(path).manifest.precision == "fp32"
    with pytest.raises(ModelError, match="is not exact in float16"):
        build(path, precision="fp16")


def test_quantizers_that_are_there_exclude_ours(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 4)
    path = save(quantized(model_of("tiny")), tmp_path)
    with pytest.raises(ModelError, match="already quantized, by 2 QuantizeLinear of its own; build it without --int8"):
        build(path, precision="int8", calib=pictures)


# All at once


def everything(model: onnx.ModelProto) -> onnx.ModelProto:
    return halved(with_input(model, 1, 3, 64, 64), keep_io=True)


@pytest.mark.parametrize("change", [everything])
def test_together(change: Callable[[onnx.ModelProto], onnx.ModelProto], tmp_path: Path) -> None:
    model, _ = tiny_model(classes=5, opset=12)
    onnx.save(change(model), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    wanted = detections(build(save(model_of("tiny"), tmp_path, "wanted.onnx"), overrides=LOW))
    assert_same(build(tmp_path / "m.onnx", overrides=LOW), wanted, px=2.0, score=1e-2, share=0.7)
