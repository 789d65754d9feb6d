"""Small graphs for the passes: made of a few nodes, run as they stand, folded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edge_retina.rewrite.fold import fold

X = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)


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
    assert_folded(graph)
    for new, old in zip(run(graph, x), before, strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=tolerance * max(np.abs(old).max(), 1))
    return graph


def assert_folded(graph: gs.Graph) -> None:
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert fold(graph) == 0
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def ops(graph: gs.Graph) -> dict[str, int]:
    return dict(Counter(node.op for node in graph.nodes))
