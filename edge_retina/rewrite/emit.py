"""Appending ONNX nodes to a graphsurgeon graph or function, one call per node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["Emitter"]

INT64_MAX = np.iinfo(np.int64).max


class Emitter:
    """Appends nodes to `graph`; every name it makes starts with `prefix`, equal constants are made once.

    Python and NumPy numbers given as inputs become constants: int64 for integers, float32 for floats.
    """

    def __init__(self, graph: gs.Graph, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
        self._taken = set(graph.tensors())

    def constant(self, value: Any) -> gs.Constant:
        """A constant tensor; the same one for equal values."""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = gs.Constant(self._name("constant"), np.array(array, order="C"))
        return self._constants[key]

    def __call__(self, op: str, *inputs: Any, **attrs: Any) -> gs.Variable:
        """Append a node with one output and return that."""
        return self.many(op, 1, *inputs, **attrs)[0]

    def many(self, op: str, outputs: int, *inputs: Any, **attrs: Any) -> list[gs.Variable]:
        """Append a node with several outputs and return them; None stands for an input left out."""
        tensors = [self._tensor(value) for value in inputs]
        results = [gs.Variable(self._name(op)) for _ in range(outputs)]
        name = f"{self.prefix}/{op}_{len(self.graph.nodes)}"
        self.graph.nodes.append(gs.Node(op, name, dict(attrs), tensors, results))
        return results

    def reshape(self, tensor: gs.Tensor, shape: Sequence[int]) -> gs.Variable:
        """Reshape; 0 keeps an axis, -1 takes what is left."""
        return self("Reshape", tensor, np.asarray(shape, np.int64))

    def slice(self, tensor: gs.Tensor, axis: int, start: int, stop: int = INT64_MAX) -> gs.Variable:
        """tensor[start:stop] along one axis."""
        return self("Slice", tensor, np.array([start]), np.array([stop]), np.array([axis]))

    def unsqueeze(self, tensor: gs.Tensor, axis: int) -> gs.Variable:
        """Insert an axis of length 1."""
        return self("Unsqueeze", tensor, np.array([axis]))

    def cast(self, tensor: gs.Tensor, dtype: type) -> gs.Variable:
        """Convert to a NumPy dtype."""
        return self("Cast", tensor, to=dtype)

    def reduce(self, op: str, tensor: gs.Tensor, axis: int) -> gs.Variable:
        """ReduceMax or ReduceMin over one axis, which goes away; their spelling changed in opset 18."""
        if self.graph.opset >= 18:
            return self(op, tensor, np.array([axis]), keepdims=0)
        return self(op, tensor, axes=[axis], keepdims=0)

    def _tensor(self, value: Any) -> gs.Tensor:
        if value is None:
            return gs.Variable.empty()
        return value if isinstance(value, gs.Tensor) else self.constant(value)

    def _name(self, what: str) -> str:
        name = f"{self.prefix}/{what.lower()}_{len(self._taken)}"
        self._taken.add(name)
        return name
