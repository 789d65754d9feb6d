"""Part of the fold pass: shape arithmetic whose result is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.rewrite.infer import TensorType, infer_types

__all__ = ["fold_shapes"]

# A shape, or one side of it: an int, or the name of a side that is free, as the batch is, None where it has none.
Shape = npt.NDArray[np.object_]


def fold_shapes(graph: gs.Graph) -> int:
    """Make constants of shape arithmetic, of Reshape targets with one free side, and of Resize sizes with a free batch.

    Rule: values are followed from Shape through Gather, Slice, Concat, Squeeze, Unsqueeze and Cast to int64. -1 stands
    for the free side of a Reshape; a Resize to a multiple of its input gets scales for sizes. `graph` must be in order.
    Scope: main graph. Returns the number of tensors made constant and of nodes changed.
    """
    if not any(node.op == "Shape" for node in graph.nodes):
        return 0
    types, taken, edits = infer_types(graph), set(graph.tensors()), 0
    shapes: dict[int, Shape] = {}
    plain = [node for node in graph.nodes if node.domain in (None, "", "ai.onnx")]
    for node in plain:
        value = _value(node, types, shapes)
        if value is not None:
            shapes[id(node.outputs[0])] = value
    for node in plain:
        result = node.outputs[0]
        found = shapes.get(id(result))
        if found is not None:
            if all(isinstance(side, int) for side in found.ravel()) and not _is_output(graph, result):
                result.to_constant(found.astype(np.int64))
                node.outputs.clear()
                edits += 1
            continue
        name = f"{result.name}/{'scales' if node.op == 'Resize' else 'shape'}"
        target = shapes.get(id(node.inputs[-1])) if node.inputs else None
        if target is None or name in taken:
            continue
        if node.op == "Reshape":
            whole = _reshape_target(node, target)
            inputs = None if whole is None else [node.inputs[0], gs.Constant(name, whole)]
        elif node.op == "Resize" and len(node.inputs) == 4:
            scales = _resize_scales(node, target, types.get(node.inputs[0].name))
            inputs = None if scales is None else [*node.inputs[:2], gs.Constant(name, scales)]
        else:
            continue
        if inputs is not None:
            node.inputs = inputs
            edits += 1
    graph.nodes = [node for node in graph.nodes if node.outputs]
    return edits


def _is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return any(tensor is output for output in graph.outputs)


def _reshape_target(node: gs.Node, target: Shape) -> npt.NDArray[np.int64] | None:
    sides = [side if isinstance(side, int) else None for side in target.ravel()]
    if sides.count(None) != 1 or -1 in sides or (0 in sides and node.attrs.get("allowzero", 0)):
        return None
    return np.array([-1 if side is None else side for side in sides], np.int64)


def _resize_scales(node: gs.Node, target: Shape, kind: TensorType | None) -> npt.NDArray[np.float32] | None:
    """Scales that mean the same as sizes; None unless all are whole, for then no rounding comes in."""
    policy = node.attrs.get("keep_aspect_ratio_policy", "stretch")
    if kind is None or kind.shape is None or len(kind.shape) != target.size or "axes" in node.attrs:
        return None
    if policy != "stretch" or node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    scales = []
    for new, old in zip(target.tolist(), kind.shape, strict=True):
        if isinstance(new, int) and isinstance(old, int) and old > 0 and new > 0 and new % old == 0:
            scales.append(new // old)
        elif isinstance(new, str) and new == old:
            scales.append(1)
        else:
            return None
    return np.array(scales, np.float32)


def _value(node: gs.Node, types: dict[str, TensorType], shapes: dict[int, Shape]) -> Shape | None:
    """Result of one node of shape arithmetic; None where it is something else."""
    if node.op == "Shape":
        kind = types.get(node.inputs[0].name)
        if kind is None or kind.shape is None:
            return None
        return np.array(kind.shape, object)[node.attrs.get("start", 0) : node.attrs.get("end")]
    if node.op not in _ARITHMETIC:
        return None
    # At least one input comes from a Shape: a chain of constants alone is evaluated.
    if not any(id(t) in shapes for t in node.inputs):
        return None
    inputs = [_input(t, shapes) for t in node.inputs]
    if any(value is None for value in inputs):
        return None
    return _ARITHMETIC[node.op](node, *inputs)


def _input(tensor: gs.Tensor, shapes: dict[int, Shape]) -> Shape | None:
    if isinstance(tensor, gs.Constant):
        return tensor.values.astype(object) if tensor.values.ndim < 2 else None
    return shapes.get(id(tensor))


def _gather(node: gs.Node, x: Shape, index: Shape) -> Shape | None:
    whole = index.ravel().tolist()
    if x.ndim != 1 or not all(isinstance(i, int) and -x.size <= i < x.size for i in whole):
        return None
    return np.array([x[i] for i in whole], object).reshape(index.shape)


def _slice(node: gs.Node, x: Shape, start: Shape, stop: Shape, axis: Any = 0, step: Any = 1) -> Shape | None:
    bounds = [np.ravel(v).tolist() for v in (start, stop, axis, step)]
    if x.ndim != 1 or any(len(v) != 1 or not isinstance(v[0], int) for v in bounds):
        return None
    (first,), (last,), _, (stride,) = bounds
    # ONNX spells "to the beginning", which only a negative step needs, in a way of its own.
    return x[first:last:stride] if stride > 0 else None


def _concat(node: gs.Node, *parts: Shape) -> Shape | None:
    return np.concatenate(parts) if all(part.ndim == 1 for part in parts) else None


def _unsqueeze(node: gs.Node, x: Shape, axes: Any = None) -> Shape | None:
    return x.reshape(1) if x.ndim == 0 else None


def _squeeze(node: gs.Node, x: Shape, axes: Any = None) -> Shape | None:
    return x.reshape(()) if x.shape == (1,) else None


def _cast(node: gs.Node, x: Shape) -> Shape | None:
    # As an ONNX element type or a NumPy one, by where the node comes from.
    return x if node.attrs["to"] in (7, np.int64) else None


_ARITHMETIC: dict[str, Callable[..., Shape | None]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _cast,
}
