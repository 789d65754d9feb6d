"""The fold pass: the same numbers from fewer nodes; by hand where they are few, against ONNX Runtime elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite.fold import absorb_constants, fold
from edge_retina.rewrite.heads import cut_heads
from edge_retina.rewrite.infer import infer_types

FIXTURES = Path(__file__).parents[1] / "fixtures"


def graph_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    shape: tuple[Any, ...] = ("batch", 2, 3, 3),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
) -> gs.Graph:
    """A graph from `x` to the outputs, through nodes in the order given."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)  # the checker wants outputs with a shape
    del model.graph.value_info[:]
    return gs.import_onnx(model)


def run(graph: gs.Graph, x: np.ndarray) -> list[np.ndarray]:
    """Without the optimizations of ONNX Runtime, which fold too."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {graph.inputs[0].name: x})


def assert_folds(graph: gs.Graph, x: np.ndarray, tolerance: float = 1e-5) -> gs.Graph:
    """The outputs stay what they were, and a second run is idle."""
    before = run(graph, x)
    assert fold(graph) > 0
    assert_idle(graph)
    for new, old in zip(run(graph, x), before, strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=tolerance * max(np.abs(old).max(), 1))
    return graph


def assert_idle(graph: gs.Graph) -> None:
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert fold(graph) == 0
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def ops(graph: gs.Graph) -> dict[str, int]:
    return dict(Counter(node.op for node in graph.nodes))


node = helper.make_node
X = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)
ONE_BY_ONE = np.array([[1, 2], [3, 4]], np.float32).reshape(2, 2, 1, 1)


def test_nothing_to_do() -> None:
    graph = graph_of([node("Relu", ["x"], ["y"])])
    assert_idle(graph)
    assert ops(graph) == {"Relu": 1}


def test_an_empty_graph() -> None:
    assert fold(gs.Graph()) == 0


# -- constants and nodes that do nothing


def test_constant_nodes_become_initializers() -> None:
    values = {"value": numpy_helper.from_array(np.array([1, 2], np.float32)), "value_float": 3.0, "value_floats": [4.0]}
    nodes = [node("Constant", [], [kind], **{kind: value}) for kind, value in values.items()]
    nodes += [node("Sum", ["x", *values], ["y"])]
    graph = graph_of(nodes, shape=(2, 2))
    before = run(graph, X[0, 0, :2, :2])
    assert absorb_constants(graph) == 3
    assert absorb_constants(graph) == 0
    assert {t.name: t.values.tolist() for t in graph.nodes[0].inputs[1:]} == {
        "value": [1, 2],
        "value_float": 3,
        "value_floats": [4],
    }
    np.testing.assert_array_equal(run(graph, X[0, 0, :2, :2])[0], before[0])


def test_identity_and_idle_dropout_go_and_a_graph_output_keeps_its_name() -> None:
    nodes = [
        node("Identity", ["x"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Dropout", ["b"], ["c"]),
        node("Neg", ["c"], ["z"]),
        node("Identity", ["c"], ["y"]),
    ]
    graph = assert_folds(graph_of(nodes, outputs=("y", "z")), X)
    assert [(n.op, [t.name for t in n.inputs], n.outputs[0].name) for n in graph.nodes] == [
        ("Relu", ["x"], "y"),
        ("Neg", ["y"], "z"),
    ]


@pytest.mark.parametrize("outputs", [("y",), ("y", "z")])
def test_an_identity_stays_where_it_alone_gives_an_output_its_name(outputs: tuple[str, ...]) -> None:
    """From an input to an output; two names for one tensor."""
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", ["y"], ["z"])][: len(outputs)]
    graph = graph_of(nodes, outputs=outputs)
    assert_idle(graph)
    assert len(graph.nodes) == len(outputs)


def test_dropout_that_trains_or_whose_mask_is_read_stays() -> None:
    mask = [node("Dropout", ["x"], ["a", "m"]), node("Cast", ["m"], ["n"], to=1), node("Add", ["a", "n"], ["y"])]
    assert fold(graph_of(mask)) == 0
    weights = {"ratio": np.float32(0.5), "training": np.array(True)}
    assert fold(graph_of([node("Dropout", ["x", "ratio", "training"], ["y"])], weights)) == 0


def test_weights_computed_through_nodes_become_one_constant() -> None:
    """Weight normalisation, as some trainers export it: g * v / |v|; |(3, 4)| = 5."""
    weights = {"v": np.array([[3, 4], [0, 2]], np.float32).reshape(2, 2, 1, 1), "g": np.array([10, 1], np.float32)}
    nodes = [
        node("ReduceL2", ["v", "axes"], ["length"]),
        node("Div", ["v", "length"], ["unit"]),
        node("Reshape", ["g", "shape"], ["gain"]),
        node("Mul", ["unit", "gain"], ["w"]),
        node("Conv", ["x", "w"], ["y"]),
    ]
    weights |= {"axes": np.array([1, 2, 3]), "shape": np.array([2, 1, 1, 1])}
    graph = assert_folds(graph_of(nodes, weights), X)
    assert ops(graph) == {"Conv": 1}
    np.testing.assert_allclose(graph.nodes[0].inputs[1].values.reshape(2, 2), [[6, 8], [0, 1]], rtol=1e-6)


@pytest.mark.parametrize(("side", "stays"), [(512, False), (513, True)])
def test_a_result_over_one_mebibyte_stays_a_computation(side: int, stays: bool) -> None:
    nodes = [
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("Neg", ["zeros"], ["more"]),
        node("Add", ["x", "more"], ["y"]),
    ]
    graph = graph_of(nodes, {"shape": np.array([side, side])}, shape=(1, 1))
    assert bool(fold(graph)) is not stays
    assert ops(graph) == ({"ConstantOfShape": 1, "Neg": 1, "Add": 1} if stays else {"Add": 1})


def test_a_large_weight_is_evaluated_as_long_as_it_does_not_grow() -> None:
    weights = {"w": np.ones((600, 600), np.float32)}
    graph = graph_of([node("Neg", ["w"], ["v"]), node("MatMul", ["x", "v"], ["y"])], weights, shape=(1, 600))
    assert fold(graph) == 1
    assert ops(graph) == {"MatMul": 1}


def test_random_numbers_and_chosen_precision_stay() -> None:
    noise = [node("RandomNormal", [], ["r"], shape=[2, 1, 1]), node("Add", ["x", "r"], ["y"])]
    assert fold(graph_of(noise)) == 0
    weights = {"q": np.ones((2, 2, 1, 1), np.int8), "s": np.float32(0.5), "z": np.int8(0)}
    quantized = [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("Conv", ["x", "w"], ["y"])]
    assert fold(graph_of(quantized, weights)) == 0


def test_a_constant_that_is_an_output_stays() -> None:
    nodes = [node("Neg", ["w"], ["z"]), node("Relu", ["x"], ["y"])]
    assert fold(graph_of(nodes, {"w": np.ones(2, np.float32)}, outputs=("y", "z"))) == 0


def test_shape_arithmetic_with_a_free_batch() -> None:
    """As torchvision's GroupNorm and FPN are exported: back to the shape before, up to twice the size."""
    nodes = [
        node("Reshape", ["x", "groups"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["b", "shape"], ["c"]),
        node("Slice", ["shape", "zero", "two"], ["outer"]),
        node("Concat", ["outer", "six"], ["sizes"], axis=0),
        node("Resize", ["c", "", "", "sizes"], ["d"], mode="nearest", coordinate_transformation_mode="asymmetric"),
        node("Gather", ["shape", "one"], ["channels"]),
        node("Cast", ["channels"], ["number"], to=TensorProto.FLOAT),
        node("Mul", ["d", "number"], ["y"]),
    ]
    weights = {"groups": np.array([0, 1, -1]), "zero": np.array([0]), "two": np.array([2]), "six": np.array([6, 6])}
    graph = assert_folds(graph_of(nodes, weights | {"one": np.array(1)}), X)
    assert ops(graph) == {"Reshape": 2, "Relu": 1, "Resize": 1, "Mul": 1}
    constants = {n.op: n.inputs[-1].values.tolist() for n in graph.nodes if n.op != "Relu"}
    assert constants == {"Reshape": [-1, 2, 3, 3], "Resize": [1, 1, 2, 2], "Mul": 2}


def test_a_resize_that_is_no_multiple_keeps_its_sizes() -> None:
    nodes = [
        node("Shape", ["x"], ["outer"], start=0, end=2),
        node("Concat", ["outer", "five"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    assert fold(graph_of(nodes, {"five": np.array([5, 5])})) == 0


def test_a_reshape_with_two_free_sides_stays() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Shape", ["x"], ["s"]), node("Reshape", ["a", "s"], ["y"])]
    assert fold(graph_of(nodes, shape=("batch", 2, "height", 3))) == 0


# -- what follows a Conv


def conv_then(*after: onnx.NodeProto, bias: bool = True, **weights: Any) -> gs.Graph:
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    weights = {"w": ONE_BY_ONE, **({"b": np.array([1, -1], np.float32)} if bias else {}), **weights}
    return graph_of([node("Conv", inputs, ["c"]), *after], weights)


BN = {
    "gamma": np.array([2, 3], np.float32),
    "beta": np.array([10, 20], np.float32),
    "mean": np.array([1, 2], np.float32),
    "var": np.array([3, 8], np.float32),
}
# With epsilon 1: 2 / sqrt(3 + 1) = 1 and 3 / sqrt(8 + 1) = 1; shifts 10 - 1 and 20 - 2.


@pytest.mark.parametrize(("bias", "shift"), [(False, [9, 18]), (True, [10, 17])])
def test_batch_norm_by_hand(bias: bool, shift: list[float]) -> None:
    graph = conv_then(node("BatchNormalization", ["c", *BN], ["y"], epsilon=1.0), bias=bias, **BN)
    assert_folds(graph, X)
    (conv,) = graph.nodes
    assert conv.op == "Conv"
    assert conv.outputs[0].name == "y"
    np.testing.assert_array_equal(conv.inputs[1].values, ONE_BY_ONE)
    np.testing.assert_array_equal(conv.inputs[2].values, shift)


def test_frozen_batch_norm_by_hand() -> None:
    """(w x + b) * (2, 4) + (5, 6)."""
    after = [node("Mul", ["c", "m"], ["d"]), node("Add", ["a", "d"], ["y"])]
    scale, shift = (np.array(v, np.float32).reshape(1, 2, 1, 1) for v in ([2, 4], [5, 6]))
    graph = assert_folds(conv_then(*after, m=scale, a=shift), X)
    (conv,) = graph.nodes
    assert conv.inputs[1].values.ravel().tolist() == [2, 4, 12, 16]
    assert conv.inputs[2].values.tolist() == [7, 2]
    assert [t.name for t in conv.inputs] == ["x", "w", "b"]
    assert conv.inputs[1].values.dtype == conv.inputs[2].values.dtype == np.float32


@pytest.mark.parametrize(
    ("op", "inputs", "weight", "bias"),
    [
        ("Mul", ["c", "k"], [2, 4, 6, 8], [2, -2]),
        ("Mul", ["k", "c"], [2, 4, 6, 8], [2, -2]),
        ("Add", ["k", "c"], [1, 2, 3, 4], [3, 1]),
        ("Sub", ["c", "k"], [1, 2, 3, 4], [-1, -3]),
        ("Sub", ["k", "c"], [-1, -2, -3, -4], [1, 3]),
        ("Div", ["c", "k"], [0.5, 1, 1.5, 2], [0.5, -0.5]),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (2, 1, 1), (1, 2, 1, 1)])
def test_each_operator_with_two(op: str, inputs: list[str], weight: list, bias: list, shape: tuple[int, ...]) -> None:
    graph = assert_folds(conv_then(node(op, inputs, ["y"]), k=np.full(shape, 2, np.float32)), X)
    (conv,) = graph.nodes
    assert conv.inputs[1].values.ravel().tolist() == weight
    assert conv.inputs[2].values.tolist() == bias


@pytest.mark.parametrize(
    ("op", "inputs", "k"),
    [
        ("Div", ["k", "c"], np.float32(2)),
        ("Div", ["c", "k"], np.float32(0)),
        ("Pow", ["c", "k"], np.float32(2)),
        ("Mul", ["c", "k"], np.float32(3e38)),
        ("Add", ["c", "k"], np.ones(3, np.float32)),  # along the width
        ("Add", ["c", "k"], np.ones((3, 1), np.float32)),  # along the height
        ("Add", ["c", "k"], np.ones((2, 1, 1, 1), np.float32)),  # along the batch
        ("Add", ["c", "k"], np.ones((1, 1, 1, 1, 1), np.float32)),  # one axis more
    ],
)
def test_what_is_no_factor_or_shift_per_channel_stays(op: str, inputs: list[str], k: np.ndarray) -> None:
    assert fold(conv_then(node(op, inputs, ["y"]), k=k)) == 0


def test_a_constant_that_makes_more_channels_stays() -> None:
    weights = {"w": ONE_BY_ONE[:1], "k": np.ones((1, 3, 1, 1), np.float32)}
    assert fold(graph_of([node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "k"], ["y"])], weights)) == 0


def test_a_conv_that_others_read_stays() -> None:
    more = [node("Mul", ["c", "k"], ["d"]), node("Add", ["d", "c"], ["y"])]
    assert fold(conv_then(*more, k=np.float32(2))) == 0
    assert fold(conv_then(node("Add", ["c", "c"], ["y"]))) == 0
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["y"])]
    assert fold(graph_of(nodes, {"w": ONE_BY_ONE, "k": np.float32(2)}, outputs=("y", "c"))) == 0


def test_batch_norm_in_training_and_after_something_else_stays() -> None:
    training = node("BatchNormalization", ["c", *BN], ["y", "m", "v"], training_mode=1)
    assert fold(conv_then(training, **BN)) == 0
    assert fold(graph_of([node("BatchNormalization", ["x", *BN], ["y"])], BN)) == 0


def test_conv_transpose_and_a_conv_with_computed_weights_stay() -> None:
    nodes = [node("ConvTranspose", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["y"])]
    assert fold(graph_of(nodes, {"w": ONE_BY_ONE, "k": np.float32(2)})) == 0
    nodes = [node("Relu", ["x"], ["w"]), node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["y"])]
    assert fold(graph_of(nodes, {"k": np.float32(2)})) == 0


def test_a_half_precision_weight_stays_one_and_is_not_pushed_over_its_range() -> None:
    weights = {"w": ONE_BY_ONE.astype(np.float16), "k": np.float16(2), "l": np.float16(30000)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["d"]), node("Mul", ["d", "l"], ["y"])]
    graph = graph_of(nodes, weights, kind=TensorProto.FLOAT16)
    assert fold(graph) == 1
    assert ops(graph) == {"Conv": 1, "Mul": 1}
    assert graph.nodes[0].inputs[1].values.dtype == graph.nodes[0].inputs[2].values.dtype == np.float16
    assert graph.nodes[0].inputs[1].values.ravel().tolist() == [2, 4, 6, 8]


def shared(first: dict[str, Any], second: dict[str, Any]) -> gs.Graph:
    """Two Convs with one weight and bias, each followed by a BatchNormalization of its own."""
    nodes, weights = [], {"w": ONE_BY_ONE, "b": np.array([1, -1], np.float32)}
    for i, values in enumerate((first, second)):
        names = [f"{key}_{i}" for key in values]
        weights |= dict(zip(names, values.values(), strict=True))
        source = "x" if i == 0 else "y0"
        nodes.append(node("Conv", [source, "w", "b"], [f"c{i}"], f"conv_{i}"))
        nodes.append(node("BatchNormalization", [f"c{i}", *names], [f"y{i}"], epsilon=1.0))
    return graph_of(nodes, weights, outputs=("y0", "y1"))


def test_shared_weights_with_equal_folds_stay_shared_under_their_name() -> None:
    graph = assert_folds(shared({**BN, "gamma": BN["gamma"] * 2}, {**BN, "gamma": BN["gamma"] * 2}), X)
    first, second = graph.nodes
    assert first.inputs[1] is second.inputs[1]
    assert first.inputs[2] is second.inputs[2]
    assert [t.name for t in first.inputs[1:]] == ["w", "b"]


def test_shared_weights_with_two_batch_norms_part() -> None:
    """Factors 1 and 2 as above; the first needs no other weight than the one that is there."""
    graph = assert_folds(shared(BN, {**BN, "gamma": BN["gamma"] * 2}), X)
    first, second = graph.nodes
    assert first.inputs[1].name == "w"
    np.testing.assert_array_equal(first.inputs[1].values, ONE_BY_ONE)
    np.testing.assert_array_equal(second.inputs[1].values, 2 * ONE_BY_ONE)
    assert first.inputs[2].values.tolist() == [10, 17]
    assert second.inputs[2].values.tolist() == [2 * 1 + 10 - 2, 2 * -1 + 20 - 4]
    assert len({t.name for t in (*first.inputs[1:], *second.inputs[1:])}) == 4


def test_equal_weights_but_other_shifts_share_the_weight() -> None:
    graph = assert_folds(shared(BN, {**BN, "beta": BN["beta"] + 1}), X)
    first, second = graph.nodes
    assert first.inputs[1] is second.inputs[1]
    assert first.inputs[2] is not second.inputs[2]


def test_a_weight_that_another_operator_reads_too_stays_for_that() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["d"]), node("ConvTranspose", ["d", "w"], ["y"])]
    graph = assert_folds(graph_of(nodes, {"w": ONE_BY_ONE, "k": np.float32(2)}), X)
    assert ops(graph) == {"Conv": 1, "ConvTranspose": 1}
    np.testing.assert_array_equal(graph.nodes[1].inputs[1].values, ONE_BY_ONE)


def test_names_that_are_taken_are_left_alone() -> None:
    nodes = [node("Conv", ["x", "w"], ["w/bias"]), node("Mul", ["w/bias", "k"], ["w/folded_1"])]
    nodes += [node("Add", ["w/folded_1", "k"], ["y"])]
    graph = assert_folds(graph_of(nodes, {"w": ONE_BY_ONE, "k": np.float32(2)}), X)
    assert len(graph.tensors()) == 4


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v1_raw_dynamo", "tv_v2_whole_ts"])
def test_torchvision(name: str) -> None:
    source = load_onnx(FIXTURES / f"{name}.onnx")
    found = import_model(source)
    graph = source.graph
    cut_heads(graph, found)
    images = np.random.default_rng(0).standard_normal((2, 3, *found.spec.input_size)).astype(np.float32)
    heads = [t.name for t in graph.outputs]
    assert_folds(graph, images, 1e-4)
    assert [t.name for t in graph.outputs] == heads
    left = set(ops(graph))
    norm = {"InstanceNormalization", "Reshape", "Mul"} if "v2" in name else set()
    assert left == {"Conv", "Relu", "Add", "MaxPool", "Resize"} | norm
    producers = {t.inputs[0].op for n in graph.nodes if n.op == "Mul" for t in n.inputs if t.inputs}
    assert producers <= {"Reshape"}
    # The head weights, five levels each, are still there once.
    readers = Counter(id(n.inputs[1]) for n in graph.nodes if n.op == "Conv")
    assert sorted(readers.values(), reverse=True)[:11] == [5] * 10 + [1]


@st.composite
def chains(draw: st.DrawFn) -> tuple[gs.Graph, np.ndarray, int]:
    """A Conv, grouped, padded or strided as it likes, and up to five affine nodes, of which all can be folded."""
    group = draw(st.sampled_from([1, 1, 2, 4]))
    channels, out = group * draw(st.integers(1, 2)), group * draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weights: dict[str, Any] = {"w": rng.standard_normal((out, channels // group, 2, 3))}
    inputs = ["x", "w"]
    if draw(st.booleans()):
        weights["b"] = rng.standard_normal(out)
        inputs.append("b")
    pads = draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    nodes = [node("Conv", inputs, ["t0"], group=group, pads=pads, strides=[1, draw(st.integers(1, 2))])]
    steps = draw(st.lists(st.sampled_from(["Mul", "Add", "Sub", "Div", "BatchNormalization"]), min_size=1, max_size=5))
    for i, op in enumerate(steps):
        if op == "BatchNormalization":
            names = [f"{what}{i}" for what in "gbmv"]
            weights |= {name: rng.uniform(0.5, 2, out) for name in names}
            operands = [f"t{i}", *names]
        else:
            shape = draw(st.sampled_from([(), (1, 1), (out, 1, 1), (1, out, 1, 1)]))
            weights[f"k{i}"] = rng.uniform(0.5, 2, shape) * (1 if draw(st.booleans()) else -1)
            operands = [f"t{i}", f"k{i}"]
            if op != "Div" and draw(st.booleans()):
                operands.reverse()
        nodes.append(node(op, operands, [f"t{i + 1}"]))
    nodes[-1].output[0] = "y"
    typed = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    x = rng.standard_normal((2, channels, 4, 5)).astype(np.float32)
    return graph_of(nodes, typed, shape=("batch", channels, 4, 5)), x, len(steps)


@settings(max_examples=40, deadline=None)
@given(chains())
def test_any_chain_gives_the_same_numbers(case: tuple[gs.Graph, np.ndarray, int]) -> None:
    graph, x, steps = case
    before = run(graph, x)[0]
    assert fold(graph) == steps
    np.testing.assert_allclose(run(graph, x)[0], before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    assert fold(graph) == 0


# -- types


def test_types_and_sizes_of_tensors() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Shape", ["c"], ["s"]), node("Cast", ["s"], ["y"], to=1)]
    types = infer_types(graph_of(nodes, {"w": np.ones((2, 2, 1, 1), np.float32)}))
    assert (types["c"].dtype, types["c"].shape, types["c"].nbytes) == (np.float32, ("batch", 2, 3, 3), None)
    assert (types["s"].dtype, types["s"].shape, types["s"].nbytes) == (np.int64, (4,), 32)
    assert types["w"].shape == (2, 2, 1, 1)
