"""Shape arithmetic becomes constant where shapes are known, a free batch left free."""

from __future__ import annotations

import numpy as np
from graphs import X, assert_folds, graph_of, ops
from onnx import TensorProto, helper

from edge_retina.rewrite.fold import fold

node = helper.make_node


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
