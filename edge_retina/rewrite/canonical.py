"""Pass: heads of any layout become [B, A * K, H, W] logits and [B, A * 4, H, W] deltas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.importer import HeadLayout, Imported
from edge_retina.rewrite.emit import Emitter
from edge_retina.spec import DetectorSpec

__all__ = ["canonical_heads"]

# Scores closer to 0 or 1 have no float32 logit that gives them back.
_LEAST, _MOST = np.float32(1e-30), np.float32(1 - 6e-8)


def canonical_heads(graph: gs.Graph, found: Imported) -> Imported:
    """Append what makes the named heads canonical, and return their new names.

    Rule: rows and NHWC are transposed; joined levels are cut apart; channels are put in order in the weights of the
    Conv they come from, or by a Gather where they come from another node; scores get the inverse of the sigmoid; an
    NHWC input gets a Transpose behind a new NCHW one. Scope: main graph. A canonical model is left as it is.
    Raises ModelError when the graph lacks a named tensor.
    """
    layout, spec = found.layout, found.spec
    if layout == HeadLayout():
        return found
    tensors = graph.tensors()
    for name in (found.trunk_input, *found.logits, *found.deltas):
        if name not in tensors:
            raise ModelError(f"the graph has no tensor {name!r}, which its importer or --spec named")
    emit = Emitter(graph, "heads")
    logits = _levels(emit, spec, layout, [tensors[name] for name in found.logits], spec.num_classes)
    deltas = _levels(emit, spec, layout, [tensors[name] for name in found.deltas], 4)
    anchors = [len(cell) for cell in spec.cell_anchors]
    logits = [
        _ordered(emit, t, _class_order(layout, a, spec.num_classes)) for t, a in zip(logits, anchors, strict=True)
    ]
    deltas = [_ordered(emit, t, _delta_order(layout, a)) for t, a in zip(deltas, anchors, strict=True)]
    if layout.activated:
        logits = [_inverse_sigmoid(emit, tensor) for tensor in logits]
    trunk = tensors[found.trunk_input]
    if layout.input == "nhwc":
        trunk = _nchw_input(graph, trunk, spec)
    names = [tuple(tensor.name for tensor in heads) for heads in (logits, deltas)]
    return replace(found, trunk_input=trunk.name, logits=names[0], deltas=names[1], layout=HeadLayout())


def _levels(
    emit: Emitter, spec: DetectorSpec, layout: HeadLayout, heads: Sequence[gs.Tensor], channels: int
) -> list[gs.Tensor]:
    """One [B, A * channels, H, W] tensor per level."""
    if layout.heads == "nchw":
        return list(heads)
    if layout.heads == "nhwc":
        return [emit("Transpose", head, perm=[0, 3, 1, 2]) for head in heads]
    made: list[gs.Tensor] = []
    start = 0
    for level, ((height, width), cell) in enumerate(zip(spec.level_shapes, spec.cell_anchors, strict=True)):
        count = height * width * len(cell)
        rows = emit.slice(heads[0], 1, start, start + count) if layout.heads == "joined" else heads[level]
        start += count
        grid = emit.reshape(rows, (-1, height, width, len(cell) * channels))
        made.append(emit("Transpose", grid, perm=[0, 3, 1, 2]))
    return made


def _class_order(layout: HeadLayout, anchors: int, classes: int) -> npt.NDArray[np.int64]:
    """Which stored channel each of the canonical a * K + k is."""
    grid = np.arange(anchors * classes)
    return grid.reshape(classes, anchors).T.reshape(-1) if layout.class_major else grid


def _delta_order(layout: HeadLayout, anchors: int) -> npt.NDArray[np.int64]:
    order, number = np.array(layout.delta_order), np.arange(anchors)[:, None]
    stored = order * anchors + number if layout.class_major else number * 4 + order
    return stored.reshape(-1)


def _ordered(emit: Emitter, head: gs.Tensor, order: npt.NDArray[np.int64]) -> gs.Tensor:
    """The head with its channels in this order, for nothing where a Conv can give them so."""
    if (order == np.arange(len(order))).all():
        return head
    conv = head.inputs[0] if head.inputs else None
    plain = conv is not None and conv.op == "Conv" and conv.attrs.get("group", 1) == 1
    if conv is None or not plain or not all(isinstance(p, gs.Constant) for p in conv.inputs[1:]):
        return emit("Gather", head, order, axis=1)
    # A weight shared by the levels is put in order once: the emitter makes equal constants one.
    conv.inputs = [conv.inputs[0], *(emit.constant(parameter.values[order]) for parameter in conv.inputs[1:])]
    return head


def _inverse_sigmoid(emit: Emitter, scores: gs.Tensor) -> gs.Tensor:
    held = emit("Min", emit("Max", emit.cast(scores, np.float32), _LEAST), _MOST)
    logits = emit("Sub", emit("Log", held), emit("Log", emit("Sub", np.float32(1), held)))
    logits.dtype = np.dtype(np.float32)
    return logits


def _nchw_input(graph: gs.Graph, trunk: gs.Tensor, spec: DetectorSpec) -> gs.Tensor:
    images = gs.Variable("heads/images", trunk.dtype, [trunk.shape[0] if trunk.shape else "batch", 3, *spec.input_size])
    trunk.inputs.clear()
    graph.nodes.append(gs.Node("Transpose", "heads/input", {"perm": [0, 2, 3, 1]}, [images], [trunk]))
    graph.inputs = [images]
    return images
