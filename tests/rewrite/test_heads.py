"""The heads pass: what lies outside trunk and heads goes, names and batch axis are ours, a second run is idle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from models import tiny_model

from edge_retina.errors import ModelError
from edge_retina.importer import Imported, import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.heads import TRUNK_INPUT, cut_heads

WHOLE = Path(__file__).parents[1] / "fixtures" / "tv_v2_whole_ts.onnx"


def bytes_of(graph: gs.Graph) -> bytes:
    return gs.export_onnx(graph).SerializeToString(deterministic=True)


@pytest.fixture
def tiny(tmp_path) -> tuple[gs.Graph, Imported]:
    tiny_model(tmp_path / "m.onnx")
    source = load_onnx(tmp_path / "m.onnx")
    return source.graph, import_model(source)


def test_a_tensor_that_is_not_there_is_an_error(tiny):
    graph, found = tiny
    with pytest.raises(ModelError, match="nowhere"):
        cut_heads(graph, replace(found, logits=("nowhere", *found.logits[1:])))


def test_runs_once(tiny):
    graph, found = tiny
    assert cut_heads(graph, found) > 0
    before = bytes_of(graph)
    assert cut_heads(graph, found) == 0
    assert bytes_of(graph) == before
    assert [t.name for t in graph.inputs] == [TRUNK_INPUT]
    assert [t.name for t in graph.outputs] == ["logits_0", "logits_1", "deltas_0", "deltas_1"]


def test_head_values_are_those_of_the_users_model(tiny, tmp_path):
    graph, found = tiny
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    theirs = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    wanted = theirs.run([*found.logits, *found.deltas], {found.trunk_input: images})
    cut_heads(graph, found)
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    ours = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for a, b in zip(ours.run(None, {TRUNK_INPUT: images}), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_whole_export_loses_its_transform_and_post_processing():
    source = load_onnx(WHOLE)
    found = import_model(source)
    before = len(source.graph.nodes)
    assert cut_heads(source.graph, found) > before / 2
    operators = {node.op for node in source.graph.nodes}
    assert not operators & {"NonMaxSuppression", "If", "NonZero", "TopK"}
    model = gs.export_onnx(source.graph)
    onnx.checker.check_model(model, full_check=True)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in dimensions] == ["batch", 3, 192, 320]


def rename(model: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for values in (model.graph.input, model.graph.output, model.graph.initializer, model.graph.value_info):
        for value in values:
            value.name = new if value.name == old else value.name
    return model


def built(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    onnx.save(model, folder / "m.onnx")
    source = load_onnx(folder / "m.onnx")
    return rewrite(source.graph, import_model(source))


def detections(model: onnx.ModelProto) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)})


@pytest.mark.parametrize(
    "name", ["boxes", "scores", "labels", "count", "frames", "geometry", "deltas_0", "frame/cast_0"]
)
@pytest.mark.parametrize("old", ["stem.relu", "stem.weight"])
def test_a_name_of_ours_that_the_user_took_makes_no_difference(tmp_path, old, name):
    wanted = detections(built(tiny_model()[0], tmp_path))
    for ours, theirs in zip(detections(built(rename(tiny_model()[0], old, name), tmp_path)), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_fresh_model_that_uses_our_names_is_cut_all_the_same(tmp_path):
    """Its batch of 1 must become free, though inputs and outputs are called as ours."""
    model = tiny_model()[0]
    for kind in ("logits", "deltas"):
        for level in (0, 1):
            rename(model, f"{kind}_{level + 3}", f"{kind}_{level}")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "m.onnx")
    source = load_onnx(tmp_path / "m.onnx")
    assert cut_heads(source.graph, import_model(source)) > 0
    assert source.graph.inputs[0].shape[0] == "batch"


def test_a_half_precision_model_gets_casts_at_its_ends(tmp_path):
    model = tiny_model()[0]
    for weight in model.graph.initializer:
        weight.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), weight.name)
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    half, full = (detections(built(m, tmp_path)) for m in (model, tiny_model()[0]))
    assert abs(int(half[3][0]) - int(full[3][0])) <= 2
    np.testing.assert_allclose(half[1][0, :5], full[1][0, :5], atol=5e-3)


def test_initializers_that_are_inputs_too(tmp_path):
    """As IR version 3 wants it and keep_initializers_as_inputs=True does."""
    model = tiny_model(opset=17)[0]
    model.ir_version = 3
    for w in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)))
    assert built(model, tmp_path).ir_version >= 8


def test_heads_that_need_another_input_are_refused(tmp_path):
    model = tiny_model()[0]
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    model.graph.input.append(onnx.helper.make_tensor_value_info("im_info", onnx.TensorProto.FLOAT, [1]))
    added = onnx.helper.make_node("Mul", [relu.output[0], "im_info"], ["scaled"])
    for node in model.graph.node:
        node.input[:] = ["scaled" if name == relu.output[0] else name for name in node.input]
    model.graph.node.insert(list(model.graph.node).index(relu) + 1, added)
    with pytest.raises(ModelError, match=r"more than 'images': im_info"):
        built(model, tmp_path)


def test_infinity_in_what_is_cut_off_is_nobodys_business(tmp_path):
    model = tiny_model()[0]
    head = model.graph.output[0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(-np.inf, np.float32), "lowest"))
    model.graph.node.append(onnx.helper.make_node("Max", [head.name, "lowest"], ["after"]))
    after = model.graph.output.add()
    after.CopyFrom(head)
    after.name = "after"
    built(model, tmp_path)


@pytest.mark.parametrize("frame", [None, (48, 80)])
@pytest.mark.parametrize("form", ["operator", "fixpoint"])
def test_the_rewritten_model_passes_checker_and_strict_shape_inference(tiny, frame, form):
    graph, found = tiny
    model = rewrite(graph, found, frame, form)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [o.name for o in inferred.graph.output] == ["boxes", "scores", "labels", "count"]
    assert [i.name for i in inferred.graph.input] == ["frames"]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
