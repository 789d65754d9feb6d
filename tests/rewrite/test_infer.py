"""What shape inference tells of a graph."""

from __future__ import annotations

import numpy as np
from graphs import graph_of
from onnx import helper

from edge_retina.rewrite.infer import infer_types

node = helper.make_node


def test_types_and_sizes_of_tensors() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Shape", ["c"], ["s"]), node("Cast", ["s"], ["y"], to=1)]
    types = infer_types(graph_of(nodes, {"w": np.ones((2, 2, 1, 1), np.float32)}))
    assert (types["c"].dtype, types["c"].shape, types["c"].nbytes) == (np.float32, ("batch", 2, 3, 3), None)
    assert (types["s"].dtype, types["s"].shape, types["s"].nbytes) == (np.int64, (4,), 32)
    assert types["w"].shape == (2, 2, 1, 1)
