"""Scaling and shifting after a Conv: worked out by hand, and any chain of them against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from graphs import X, assert_folds, graph_of, ops, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge_retina.rewrite.fold import fold

node = helper.make_node
ONE_BY_ONE = np.array([[1, 2], [3, 4]], np.float32).reshape(2, 2, 1, 1)


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
