"""The half pass: which tensors become float16, where Casts stand, and that detections stay what they were."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from models import tiny_model
from onnx import TensorProto, helper, numpy_helper
from rtx import build

from edge_retina.errors import ModelError
from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.frame_input import cast_first
from edge_retina.rewrite.half import LARGEST_CALIBRATED, Half, half_overflow, to_half

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "samples" / "digits"
FIXTURES = ROOT / "tests" / "fixtures"
FRAME = (64, 64)
node = helper.make_node


def rewritten(path: Path, frame: tuple[int, int] | None = FRAME, nms: str = "operator") -> gs.Graph:
    source = load_onnx(path)
    return gs.import_onnx(rewrite(source.graph, import_model(source), frame, nms))


def tiny(
    folder: Path,
    nodes: Sequence[onnx.NodeProto] = (),
    weights: dict[str, Any] | None = None,
    opset: int = 19,
    nms: str = "operator",
) -> gs.Graph:
    """The tiny RetinaNet rewritten, with nodes between `stem` (a Conv) and its Relu, from `stem` to `y`."""
    model = tiny_model(opset=opset)[0]
    add(model, nodes, weights or {}, "stem", 1)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "m.onnx")
    return rewritten(folder / "m.onnx", nms=nms)


def add(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], weights: dict[str, Any], behind: str, place: int
) -> None:
    """Put nodes into a model, from tensor `behind` to `y`; their readers are what read `behind` so far."""
    if nodes:
        for reader in model.graph.node:
            reader.input[:] = ["y" if name == behind else name for name in reader.input]
    for new in reversed(nodes):
        model.graph.node.insert(place, new)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def types(graph: gs.Graph) -> dict[str, int]:
    """ONNX element type of every tensor, by strict inference, apart from what the pass believes."""
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    known = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*known.input, *known.value_info, *known.output)}
    return found | {t.name: t.data_type for t in known.initializer}


def of_type(graph: gs.Graph, kind: int) -> set[str]:
    """Names, without their prefix, of the trunk's variables of a type."""
    written = {t.name for n in graph.nodes for t in n.outputs}
    found = types(graph)
    return {
        name.removeprefix("model/")
        for name in written
        if found[name] == kind and name.startswith(("model/", "logits_", "deltas_"))
    }


def casts(graph: gs.Graph) -> list[tuple[str, str]]:
    """Input and output of every Cast outside the frame input; they make no pair, and none is there twice."""
    made = [n for n in graph.nodes if n.op == "Cast" and not n.name.startswith("frame/")]
    for cast in made:
        assert not any(producer.op == "Cast" for producer in cast.inputs[0].inputs)
        assert cast.outputs[0].outputs
    assert len({(cast.inputs[0].name, str(cast.attrs["to"])) for cast in made}) == len(made)
    return sorted((cast.inputs[0].name, cast.outputs[0].name) for cast in made)


def detections(graph: gs.Graph, frames: np.ndarray | None = None) -> list[np.ndarray]:
    if frames is None:
        frames = np.random.default_rng(0).integers(0, 256, (2, *FRAME, 3), dtype=np.uint8)
    session = ort.InferenceSession(gs.export_onnx(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frames})


def assert_idle(graph: gs.Graph, done: Half) -> None:
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert to_half(graph) == Half(0, done.kept)
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_a_graph_without_a_decoder_is_an_error() -> None:
    with pytest.raises(ModelError, match="decode pass"):
        to_half(gs.import_onnx(tiny_model()[0]))


@pytest.mark.parametrize(
    ("ranges", "names"),
    [
        ({}, ()),
        ({"a": 1.0, "b": LARGEST_CALIBRATED}, ()),
        ({"b": LARGEST_CALIBRATED + 1, "a": -70000.0, "c": 3.0}, ("a", "b")),
        ({"nan": math.nan, "inf": math.inf}, ("inf", "nan")),
    ],
)
def test_what_would_overflow(ranges: dict[str, float], names: tuple[str, ...]) -> None:
    assert half_overflow(ranges) == names
    assert np.finfo(np.float16).max >= 2 * LARGEST_CALIBRATED


def test_the_trunk_is_float16_and_nothing_else_changes(tmp_path) -> None:
    graph = tiny(tmp_path)
    before, full = detections(graph), gs.export_onnx(graph)
    done = to_half(graph)
    half = gs.export_onnx(graph)
    heads = {"logits_0", "logits_1", "deltas_0", "deltas_1"}
    assert of_type(graph, TensorProto.FLOAT16) == {"stem", "stem.relu", "down_1", "down_1.relu"}
    assert of_type(graph, TensorProto.FLOAT) == heads
    entry = next(name for name, _ in casts(graph) if name.startswith("frame/"))
    assert casts(graph) == sorted([(entry, f"half/{entry}"), *((f"half/{name}", name) for name in heads)])
    # 5 Casts; weight and bias of stem, down_1 and the two shared head Convs.
    assert done == Half(5 + 8, ())
    assert half.functions == full.functions
    assert {t.name for t in half.graph.initializer} == {t.name for t in full.graph.initializer}
    weights = {t.name for t in half.graph.initializer if t.data_type == TensorProto.FLOAT16}
    assert weights == {f"model/{n}.{p}" for n in ("stem", "down_1", "classes", "boxes") for p in ("weight", "bias")}
    assert_idle(graph, done)
    assert_near(detections(graph), before)


def assert_near(new: list[np.ndarray], old: list[np.ndarray], score: float = 5e-3) -> None:
    """Rows may change places where scores nearly tie, so the best is compared, and how scores fall off."""
    np.testing.assert_allclose(new[0][:, 0], old[0][:, 0], atol=0.2)
    np.testing.assert_allclose(new[1], old[1], atol=score)
    assert old[1].max() > 0.1
    assert np.abs(new[3] - old[3]).max() <= 2


def test_digits() -> None:
    graph = rewritten(DIGITS / "digits.onnx", None)
    frames = cv2.imread(str(DIGITS / "test" / "test_00000.jpg"))[None]
    boxes, scores, labels, count = (a[0] for a in detections(graph, frames))
    size = gs.export_onnx(graph).ByteSize()
    done = to_half(graph)
    assert done.kept == ()
    assert gs.export_onnx(graph).ByteSize() < 0.56 * size  # the rest is anchors
    new_boxes, new_scores, new_labels, new_count = (a[0] for a in detections(graph, frames))
    sure = int((scores > 0.3).sum())
    assert sure >= 3
    assert abs(int(count) - int(new_count)) <= 2
    np.testing.assert_allclose(new_scores[:sure], scores[:sure], atol=5e-3)
    np.testing.assert_array_equal(new_labels[:sure], labels[:sure])
    np.testing.assert_allclose(new_boxes[:sure], boxes[:sure], atol=1)
    assert_idle(graph, done)


# -- what stays float32


def test_a_node_that_writes_or_reads_a_kept_tensor_is_float32(tmp_path) -> None:
    graph = tiny(tmp_path)
    before = detections(graph)
    done = to_half(graph, ["model/stem", "model/nowhere"])
    # The Relu reads what float16 cannot hold; what it writes is small again, and cast once for its three readers.
    assert done.kept == ("model/stem", "model/stem.relu")
    made = casts(graph)
    assert ("model/stem.relu", "half/model/stem.relu") in made
    assert len(made) == 1 + 4  # none behind the frame input: the stem reads it as it is
    assert types(graph)["model/stem.weight"] == TensorProto.FLOAT
    assert_idle(graph, done)
    assert_near(detections(graph), before)


def test_a_kept_head_needs_no_cast(tmp_path) -> None:
    graph = tiny(tmp_path)
    done = to_half(graph, ["logits_1"])
    assert done.kept == ("logits_1",)
    assert ("model/down_1.relu", "full/model/down_1.relu") in casts(graph)
    # logits_0 is float16 and shares the weights of logits_1.
    found = types(graph)
    assert found["half/model/classes.weight"] == TensorProto.FLOAT16
    assert found["model/classes.weight"] == TensorProto.FLOAT
    assert_idle(graph, done)


def test_everything_kept_is_no_edit(tmp_path) -> None:
    graph = tiny(tmp_path)
    trunk = of_type(graph, TensorProto.FLOAT)
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    done = to_half(graph, [*(f"model/{name}" for name in trunk), *trunk])
    assert done.edits == 0
    assert {name.removeprefix("model/") for name in done.kept} == trunk
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_too_large_a_tensor_stays_so_behind_what_only_moves_it(tmp_path) -> None:
    nodes = [
        node("MaxPool", ["stem"], ["pooled"], kernel_shape=[3, 3], pads=[1] * 4),
        node("Transpose", ["pooled"], ["turned"], perm=[0, 1, 3, 2]),
        node("Tanh", ["turned"], ["y"]),
    ]
    graph = tiny(tmp_path, nodes)
    done = to_half(graph, ["model/stem"])
    assert done.kept == tuple(f"model/{name}" for name in ("stem", "pooled", "turned", "y"))


def test_group_norm_is_an_island_as_large_as_its_statistics(tmp_path) -> None:
    nodes = [
        node("Reshape", ["stem", "groups"], ["grouped"]),
        node("InstanceNormalization", ["grouped", "ones", "zeros"], ["normal"]),
        node("Reshape", ["normal", "back"], ["flat"]),
        node("Mul", ["flat", "gain"], ["scaled"]),
        node("Add", ["scaled", "gain"], ["y"]),
    ]
    weights = {"groups": np.array([-1, 3, 128]), "back": np.array([-1, 6, 8, 8])}
    weights |= {"ones": np.ones(3, np.float32), "zeros": np.zeros(3, np.float32)}
    graph = tiny(tmp_path, nodes, {**weights, "gain": np.ones((6, 1, 1), np.float32)})
    before = detections(graph)
    done = to_half(graph)
    assert done.kept == ("model/normal",)
    assert {("model/grouped", "full/model/grouped"), ("model/normal", "half/model/normal")} < set(casts(graph))
    found = types(graph)
    assert (found["model/ones"], found["model/gain"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    assert_idle(graph, done)
    assert_near(detections(graph), before)


def test_neighbouring_islands_are_one(tmp_path) -> None:
    """Softmax over a map's width, then the mean: no Cast between them, and one for both readers of `stem`."""
    nodes = [
        node("Softmax", ["stem"], ["soft"]),
        node("GlobalAveragePool", ["soft"], ["mean"]),
        node("GlobalAveragePool", ["stem"], ["other"]),
        node("Mul", ["stem", "mean"], ["product"]),
        node("Add", ["product", "other"], ["y"]),
    ]
    graph = tiny(tmp_path, nodes)
    assert set(to_half(graph).kept) == {"model/soft", "model/mean", "model/other"}
    inner = [pair for pair in casts(graph) if pair[0].startswith("model/")]
    assert inner == [
        ("model/mean", "half/model/mean"),
        ("model/other", "half/model/other"),
        ("model/stem", "full/model/stem"),
    ]


@pytest.mark.parametrize(
    ("op", "constant", "stays"),
    [
        ("Add", 1e-9, True),
        ("Add", 0.0, False),
        ("Mul", 65504.0, False),
        ("Mul", 7e4, True),
        ("Min", math.inf, False),
    ],
)
def test_a_constant_that_float16_cannot_hold(tmp_path, op: str, constant: float, stays: bool) -> None:
    # Behind a Relu, or the Conv would have taken it in.
    nodes = [node("Relu", ["stem"], ["bent"]), node(op, ["bent", "k"], ["y"])]
    graph = tiny(tmp_path, nodes, {"k": np.float32(constant)})
    assert to_half(graph).kept == (("model/y",) if stays else ())
    assert types(graph)["model/k"] == (TensorProto.FLOAT if stays else TensorProto.FLOAT16)


@pytest.mark.parametrize(("value", "stays"), [(1e-9, False), (7e4, True)])
def test_a_weight_may_vanish_but_not_saturate(tmp_path, value: float, stays: bool) -> None:
    weights = {"w": np.eye(6, dtype=np.float32).reshape(6, 6, 1, 1) * value}
    assert bool(to_half(tiny(tmp_path, [node("Conv", ["stem", "w"], ["y"])], weights)).kept) is stays


def test_shape_arithmetic_and_scales_stay(tmp_path) -> None:
    """As interpolate(scale_factor=2) is exported; 2049 would be no float16."""
    nodes = [
        node("Shape", ["stem"], ["shape"]),
        node("Cast", ["shape"], ["float"], to=TensorProto.FLOAT),
        node("Mul", ["float", "by"], ["larger"]),
        node("Cast", ["larger"], ["sizes"], to=TensorProto.INT64),
        node("Resize", ["stem", "", "", "sizes"], ["big"], mode="nearest"),
        node("Resize", ["big", "", "scales"], ["y"], mode="nearest"),
    ]
    weights = {"by": np.array([1, 1, 2, 2], np.float32), "scales": np.array([1, 1, 0.5, 0.5], np.float32)}
    graph = tiny(tmp_path, nodes, weights)
    before = detections(graph)
    assert to_half(graph).kept == ()
    found = types(graph)
    assert {found[f"model/{name}"] for name in ("float", "by", "larger", "scales")} == {TensorProto.FLOAT}
    assert {found[f"model/{name}"] for name in ("big", "y")} == {TensorProto.FLOAT16}
    assert_near(detections(graph), before)


def test_an_operator_of_another_domain(tmp_path) -> None:
    graph = tiny(tmp_path)
    relu = next(n for n in graph.nodes if n.op == "Relu")
    relu.domain = "com.example"
    relu.outputs[0].dtype = np.dtype(np.float32)
    assert to_half(graph).kept == ("model/stem.relu",)


def test_control_flow_is_an_error(tmp_path) -> None:
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
    branches = [helper.make_graph([node(op, ["stem"], ["r"])], op, [], [result]) for op in ("Abs", "Neg")]
    choice = node("If", ["yes"], ["y"], "choice", then_branch=branches[0], else_branch=branches[1])
    graph = tiny(tmp_path, [choice], {"yes": np.array(True)})
    with pytest.raises(ModelError, match="without control flow, found If 'choice'"):
        to_half(graph)


def test_casts_of_a_half_precision_export_are_replaced(tmp_path) -> None:
    model = tiny_model()[0]
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    graph = rewritten(tmp_path / "half.onnx")
    before = detections(graph)
    done = to_half(graph, ["model/stem"])
    assert done.kept == ("model/stem", "model/stem.relu")
    assert len(casts(graph)) == 5
    assert types(graph)["model/stem.weight"] == TensorProto.FLOAT
    assert_idle(graph, done)
    assert_near(detections(graph), before)


# -- with Q/DQ


def quantized(
    folder: Path, *, scale: float = 0.125, opset: int = 19, nms: str = "operator", weight_scale: float = 2**-6
) -> gs.Graph:
    """down_1 quantized: the Relu before it, whom the heads read too, and its weights per channel."""
    model = tiny_model(opset=opset)[0]
    relu = next(n for n in model.graph.node if n.op_type == "Relu").output[0]
    conv = next(n for n in model.graph.node if n.name == "down_1")
    weight = next(t for t in model.graph.initializer if t.name == "down_1.weight")
    values = np.clip(np.round(numpy_helper.to_array(weight) / weight_scale), -127, 127).astype(np.int8)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    more = {"s": np.float32(scale), "z": np.int8(0), "ws": np.full(6, weight_scale, np.float32)}
    more["wz"] = np.zeros(6, np.int8)
    nodes = [
        node("QuantizeLinear", [relu, "s", "z"], ["q"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], "dq"),
        node("DequantizeLinear", ["down_1.weight", "ws", "wz"], ["w"], "w", axis=0),
    ]
    conv.input[1] = "w"
    add(model, nodes, more, relu, 2)
    onnx.save(model, folder / "q.onnx")
    return rewritten(folder / "q.onnx", nms=nms)


def test_scales_become_float16_and_integers_stay(tmp_path) -> None:
    graph = quantized(tmp_path)
    before = detections(graph)
    done = to_half(graph)
    assert done.kept == ()
    found = types(graph)
    half = {"s", "ws", "y", "w", "down_1", "down_1.bias", "stem.relu"}
    assert {found[f"model/{name}"] for name in half} == {TensorProto.FLOAT16}
    assert {found[f"model/{name}"] for name in ("q", "z", "wz", "down_1.weight")} == {TensorProto.INT8}
    assert len(casts(graph)) == 5
    assert_idle(graph, done)
    if not quantizes_float16_as_onnx_says():
        quantize_in_float32(graph)
    # What lies between two steps of 0.125 may be rounded to the other one.
    assert_near(detections(graph), before, 2e-2)


def quantizes_float16_as_onnx_says() -> bool:
    """ONNX rounds to the nearest step; ONNX Runtime 1.23, the last for Python 3.10, drops the fraction of float16."""
    x, q = (helper.make_tensor_value_info(*v, [2]) for v in (("x", TensorProto.FLOAT16), ("q", TensorProto.INT8)))
    scale = [numpy_helper.from_array(np.float16(0.125), "s"), numpy_helper.from_array(np.int8(0), "z")]
    graph = helper.make_graph([node("QuantizeLinear", ["x", "s", "z"], ["q"])], "one", [x], [q], scale)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (codes,) = session.run(None, {"x": np.float16([9.75, 9.25]) * np.float16(0.125)})
    assert codes.tolist() in ([10, 9], [9, 9])
    return codes.tolist() == [10, 9]


def quantize_in_float32(graph: gs.Graph) -> None:
    """The same codes by way of float32, which holds every float16 and every quotient by a power of two."""
    for quantizer in [n for n in graph.nodes if n.op == "QuantizeLinear" and n.inputs[1].dtype == np.float16]:
        value, scale, zero = quantizer.inputs
        whole = gs.Variable(f"{value.name}.float32", np.float32)
        graph.nodes.append(gs.Node("Cast", whole.name, {"to": np.float32}, [value], [whole]))
        wide = gs.Constant(f"{scale.name}.float32", scale.values.astype(np.float32))
        quantizer.inputs = [whole, wide, zero]
    graph.toposort()


def test_quantizers_beside_an_island_keep_float32_scales(tmp_path) -> None:
    """The Q reads a float32 Relu; where down_1 is float32 too, so are the DQs that it alone reads."""
    graph = quantized(tmp_path)
    assert to_half(graph, ["model/stem"]).kept == ("model/stem", "model/stem.relu")
    (q,) = [n for n in graph.nodes if n.op == "QuantizeLinear"]
    dq = next(n for n in graph.nodes if n.name == "dq")
    assert [q.inputs[1].dtype, dq.inputs[1].dtype] == [np.float32, np.float16]
    assert q.inputs[0].name == "model/stem.relu"
    graph = quantized(tmp_path)
    to_half(graph, ["model/down_1"])
    weight = next(n for n in graph.nodes if n.name == "w")
    assert weight.inputs[1].dtype == np.float32
    # Half for the heads, and one Cast for down_1.
    assert ("model/y", "full/model/y") in casts(graph)
    assert types(graph)["model/y"] == TensorProto.FLOAT16


def test_what_a_dequantizer_gives_is_as_large_as_what_went_in(tmp_path) -> None:
    graph = quantized(tmp_path, scale=1024.0)
    kept = to_half(graph, ["model/stem.relu"]).kept
    assert set(kept) >= {"model/stem.relu", "model/y", "model/down_1", "logits_0", "deltas_0"}
    assert Counter(n.inputs[1].dtype for n in graph.nodes if "Linear" in n.op) == {np.dtype(np.float32): 3}
    types(graph)


@pytest.mark.parametrize("scale", [0.1, 1e-9, 1e6])
def test_a_scale_that_is_no_float16_is_an_error(tmp_path, scale: float) -> None:
    with pytest.raises(ModelError, match=r"scale 'model/s' .* not exact in float16"):
        to_half(quantized(tmp_path, scale=scale))


def test_an_opset_without_float16_scales_is_an_error(tmp_path) -> None:
    with pytest.raises(ModelError, match="opset 19 or newer, found 18"):
        to_half(quantized(tmp_path, opset=18))


# -- what TensorRT makes of it


@pytest.mark.parametrize("keep", [(), ("model/stem",), ("model/down_1",)])
@pytest.mark.parametrize("make", [tiny, quantized])
def test_strongly_typed_tensorrt_takes_it(tmp_path, make: Any, keep: tuple[str, ...]) -> None:
    graph = make(tmp_path, nms="fixpoint")
    cast_first(graph)
    to_half(graph, keep)
    profile = {"frames": [[1, *FRAME, 3]] * 3}
    built = build(gs.export_onnx(graph).SerializeToString(), profiles=profile, parse_only=keep != ())
    assert built.ok, built.error
