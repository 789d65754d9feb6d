"""The original graph up to its own heads, decoded by the NumPy reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.boxes import detect
from edge_retina.errors import RuntimeFailure
from edge_retina.geometry import Geometry
from edge_retina.importer import Imported
from edge_retina.rewrite.infer import infer_types
from edge_retina.runtime.ort import open_session
from edge_retina.types import F32
from edge_retina.verify.outputs import Found

__all__ = ["Heads", "canonical"]

_MOST = 1 - 6e-8  # a score closer to 1 has no float32 logit


class Heads:
    """What lies between the trunk's input and the heads of a graph as it was exported.

    graph is used up. Raises RuntimeFailure when ONNX Runtime refuses it.
    """

    def __init__(self, graph: gs.Graph, found: Imported) -> None:
        self.found = found
        tensors = graph.tensors()
        trunk = tensors[found.trunk_input]
        heads = [tensors[name] for name in (*found.logits, *found.deltas)]
        types = infer_types(graph) if any(tensor.dtype is None for tensor in (trunk, *heads)) else {}
        for tensor in (trunk, *heads):
            kind = types.get(tensor.name)
            tensor.dtype = tensor.dtype or (np.dtype(np.float32) if kind is None else kind.dtype)
        self._half = trunk.dtype == np.float16
        trunk.inputs.clear()
        size = found.spec.input_size
        trunk.shape = [1, 3, *size] if found.layout.input == "nchw" else [1, *size, 3]
        graph.inputs, graph.outputs = [trunk], heads
        self._session = open_session(gs.export_onnx(graph.cleanup().toposort()).SerializeToString())

    def __call__(self, network_input: F32, geometry: Geometry) -> Found:
        """Detections for a network input (1, 3, H, W) on which a frame lies so, in frame pixels."""
        batch = network_input if self.found.layout.input == "nchw" else network_input.transpose(0, 2, 3, 1)
        feed = np.ascontiguousarray(batch, np.float16 if self._half else np.float32)
        try:
            values = self._session.run(None, {self.found.trunk_input: feed})
        except Exception as exc:  # onnxruntime's errors have no common base
            raise RuntimeFailure(f"ONNX Runtime failed on the original graph up to its heads: {exc!s:.300}") from exc
        count = len(self.found.logits)
        logits, deltas = canonical(self.found, values[:count], values[count:])
        boxes, scores, labels = detect(logits, deltas, self.found.spec, geometry)
        return boxes, scores, labels.astype(np.int64)


def canonical(
    found: Imported, logits: list[npt.NDArray[np.floating]], deltas: list[npt.NDArray[np.floating]]
) -> tuple[list[F32], list[F32]]:
    """One image's heads of any layout as logits (A * K, H, W) and deltas (A * 4, H, W) per level.

    In NumPy, on its own: what the rewriting does to the graph is held against it.
    """
    kinds = (_levels(found, logits, found.spec.num_classes), _levels(found, deltas, 4))
    scores, offsets = ([level.astype(np.float32) for level in kind] for kind in kinds)
    if found.layout.activated:
        held = [np.clip(level.astype(np.float64), 1e-30, _MOST) for level in scores]
        scores = [(np.log(level) - np.log1p(-level)).astype(np.float32) for level in held]
    offsets = [level[:, list(found.layout.delta_order)] for level in offsets]
    joined = ([level.reshape(-1, *level.shape[2:]) for level in kind] for kind in (scores, offsets))
    return next(joined), next(joined)


def _levels(found: Imported, values: list[npt.NDArray[np.floating]], channels: int) -> list[npt.NDArray[np.floating]]:
    """Per level (A, channels, H, W)."""
    spec, layout = found.spec, found.layout
    levels, start = [], 0
    for number, ((height, width), cell) in enumerate(zip(spec.level_shapes, spec.cell_anchors, strict=True)):
        anchors = len(cell)
        if layout.heads in ("rows", "joined"):
            count = height * width * anchors
            rows = values[0][0, start : start + count] if layout.heads == "joined" else values[number][0]
            start += count
            levels.append(rows.reshape(height, width, anchors, channels).transpose(2, 3, 0, 1))
            continue
        grid = values[number][0] if layout.heads == "nchw" else values[number][0].transpose(2, 0, 1)
        if layout.class_major:
            levels.append(grid.reshape(channels, anchors, height, width).transpose(1, 0, 2, 3))
        else:
            levels.append(grid.reshape(anchors, channels, height, width))
    return levels
