"""The part of a rewritten graph between frame input and decoder."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.rewrite.decode import DOMAIN, FUNCTION
from edge_retina.rewrite.frame_input import GEOMETRY
from edge_retina.rewrite.infer import infer_types

__all__ = ["F16", "F32", "Trunk"]

F16, F32 = np.dtype(np.float16), np.dtype(np.float32)


class Trunk:
    """The nodes before the heads, in order, and which of them the picture goes through."""

    def __init__(self, graph: gs.Graph) -> None:
        call = next((node for node in graph.nodes if (node.domain, node.op) == (DOMAIN, FUNCTION)), None)
        if call is None:
            raise ModelError("the half pass needs the decode pass to run before it")
        self.graph, self.call = graph, call
        self.heads = [t for t in call.inputs if t.name != GEOMETRY]
        self.nodes = _before(graph, self.heads)
        self.types = {name: kind.dtype for name, kind in infer_types(graph).items()}
        inside = {id(t) for node in self.nodes for t in node.outputs}
        self.data = {
            id(t)
            for node in self.nodes
            for t in node.inputs
            if isinstance(t, gs.Variable) and not t.is_empty() and id(t) not in inside
        }
        for node in self.nodes:
            if node.op not in ("Shape", "Size") and any(id(t) in self.data for t in node.inputs):
                self.data.update(id(t) for t in node.outputs)

    def is_data(self, node: gs.Node) -> bool:
        """True for a node that the picture goes through: not for weights and shape arithmetic."""
        return any(id(t) in self.data for t in node.outputs)

    def is_float(self, tensor: gs.Tensor) -> bool:
        """True for float16 and float32."""
        if tensor.is_empty():
            return False
        dtype = tensor.values.dtype if isinstance(tensor, gs.Constant) else self.types.get(tensor.name, tensor.dtype)
        if dtype is None:
            raise ModelError(f"the type of {tensor.name!r} cannot be inferred; please report this model")
        return dtype in (F16, F32)


def _before(graph: gs.Graph, heads: Iterable[gs.Tensor]) -> list[gs.Node]:
    """Nodes that heads depend on, in the graph's order, which is topological, back to the frame input."""
    found: set[int] = set()
    waiting = list(heads)
    while waiting:
        for node in waiting.pop().inputs:
            if id(node) not in found and not node.outputs[0].name.startswith("frame/"):
                found.add(id(node))
                waiting.extend(node.inputs)
    return [node for node in graph.nodes if id(node) in found]
