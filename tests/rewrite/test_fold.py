"""The fold pass: the same numbers from fewer nodes; by hand where they are few, on real exports elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from graphs import X, assert_folded, assert_folds, graph_of, ops, run
from onnx import TensorProto, helper, numpy_helper

from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite.fold import absorb_constants, fold
from edge_retina.rewrite.heads import cut_heads

FIXTURES = Path(__file__).parents[1] / "fixtures"
node = helper.make_node


def test_nothing_to_do() -> None:
    graph = graph_of([node("Relu", ["x"], ["y"])])
    assert_folded(graph)
    assert ops(graph) == {"Relu": 1}


def test_an_empty_graph() -> None:
    assert fold(gs.Graph()) == 0


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
    assert_folded(graph)
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


def test_a_cast_to_the_type_that_is_there() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["same"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["same"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["back"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = assert_folds(graph_of(nodes), X)
    assert ops(graph) == {"Cast": 2, "Relu": 1}
    assert [t.name for t in graph.outputs] == ["y"]
