"""What a whole torchvision export says about itself beyond its heads: transform, anchors, post-processing.

Each function returns the DetectorSpec fields it could read; a raw export yields none.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.decimals import agreed
from edge_retina.importer.heads import ancestors, constant, nodes_of, source, static_shape

__all__ = ["anchor_grid", "postprocessing", "resize_rule"]

_SIDES = ("ReduceMin", "ReduceMax")
# keep[:n] picks boxes, scores and labels.
_PICKED = 3

Fields = dict[str, Any]


def resize_rule(graph: gs.Graph, trunk: gs.Tensor, size: tuple[int, int]) -> Fields:
    """resize, shortest_side and placement.

    graph: as exported, for the rule is gone once constants are folded. trunk: from the folded copy, input (H, W)
    `size`. Raises SpecError for an image that is stretched to one size and padded to another.
    """
    resize = next((node for node in ancestors(trunk) if node.op == "Resize"), None)
    if resize is None:
        return {}
    # min(shortest / min(h, w), longest / max(h, w)), the divisions written as Reciprocal and Mul.
    limits: dict[str, float] = {}
    for node in ancestors(graph.tensors()[trunk.name]):
        for product in map(source, node.inputs if node.op == "Min" else []):
            if product is not None and product.op == "Mul":
                limit = agreed(constant(tensor) for tensor in product.inputs)
                side = next((n.op for n in ancestors(product.outputs[0]) if n.op in _SIDES), None)
                if limit is not None and side is not None:
                    limits[side] = limit
    rule: Fields = {"resize": "shortest_side", "placement": "top_left"}
    if len(limits) == len(_SIDES):
        return rule | {"shortest_side": tuple(round(limits[side]) for side in _SIDES)}
    image, resized = static_shape(resize.inputs[0]), static_shape(resize.outputs[0])
    if resized is None:
        return {}
    new_h, new_w = resized[-2:]
    if image is not None:
        h, w = image[-2:]
        # A simplified graph holds only the sizes. One scale for both sides is the rule above; else it is fixed_size.
        if abs(new_h * w - new_w * h) < max(h, w):
            return rule | {"shortest_side": (min(new_h, new_w), max(new_h, new_w))}
    if (new_h, new_w) == size:
        return rule | {"resize": "stretch", "shortest_side": None}
    raise SpecError(
        f"torchvision RetinaNet: the graph stretches images to {new_h}x{new_w} and pads them to {size[0]}x{size[1]}, "
        "which no resize rule describes; export with a fixed_size that is a multiple of size_divisible"
    )


def postprocessing(static: gs.Graph) -> Fields:
    """score_threshold, top_k, nms_iou, max_detections, max_log_scale and delta_weights; static: folded copy."""
    by_op: dict[str, list[gs.Node]] = {}
    for node in nodes_of(static):
        by_op.setdefault(node.op, []).append(node)
    found: Fields = {
        "score_threshold": agreed(constant(n.inputs[1]) for n in by_op.get("Greater", []) if _after_sigmoid(n)),
        "top_k": agreed(map(_least_of, by_op.get("TopK", []))),
        "nms_iou": agreed(constant(n.inputs[3]) for n in by_op.get("NonMaxSuppression", []) if len(n.inputs) > 3),
        "max_detections": agreed(constant(n.inputs[2]) for n in by_op.get("Slice", []) if _picks_rows(n)),
        "max_log_scale": agreed(map(_upper_bound, by_op.get("Exp", []))),
        "delta_weights": _delta_weights(by_op.get("Slice", [])),
    }
    for name in ("top_k", "max_detections"):
        found[name] = found[name] if found[name] is None else round(found[name])
    return {name: value for name, value in found.items() if value is not None}


def anchor_grid(static: gs.Graph, size: tuple[int, int], shapes: tuple[tuple[int, int], ...], anchors: int) -> Fields:
    """cell_anchors and strides from the anchor tables that a folded whole export holds, one per level.

    size: (H, W) of the network input. Raises SpecError when the tables are not one cell repeated over a grid.
    """
    counts = [h * w * anchors for h, w in shapes]
    values = [constant(node.inputs[0]) for node in static.nodes if node.op == "Gather"]
    tables = [v for v in values if v is not None and v.ndim == 2 and v.shape[1] == 4 and len(v) in counts]
    if [len(table) for table in tables] != counts:
        return {}
    cells, strides = [], []
    for (h, w), table in zip(shapes, tables, strict=True):
        grid = table.astype(np.float64).reshape(h, w, anchors, 4)
        # A level one cell high or wide has no neighbour to measure to; then torchvision's rule.
        dy = grid[1, 0, 0, 1] - grid[0, 0, 0, 1] if h > 1 else size[0] // h
        dx = grid[0, 1, 0, 0] - grid[0, 0, 0, 0] if w > 1 else size[1] // w
        y, x = np.mgrid[0:h, 0:w] * np.array([dy, dx])[:, None, None]
        if not np.array_equal(grid, grid[0, 0] + np.stack([x, y, x, y], axis=-1)[:, :, None]):
            raise SpecError(f"torchvision RetinaNet: the anchors of the {h}x{w} level are not one cell repeated")
        cells.append(tuple(tuple(anchor) for anchor in grid[0, 0].tolist()))
        strides.append((int(dy), int(dx)))
    return {"cell_anchors": tuple(cells), "strides": tuple(strides)}


def _after_sigmoid(greater: gs.Node) -> bool:
    # Sigmoid, Reshape, Greater: nothing else comes between.
    return "Sigmoid" in [node.op for node in islice(ancestors(greater.inputs[0]), 3)]


def _least_of(top_k: gs.Node) -> npt.NDArray[Any] | None:
    """The k of min(k, candidates), from the Concat that the minimum is taken over; Python's min() leaves k alone."""
    if (alone := constant(top_k.inputs[1])) is not None:
        return alone
    joined = next((node for node in ancestors(top_k.inputs[1]) if node.op == "Concat"), None)
    known = [value for tensor in (joined.inputs if joined else []) if (value := constant(tensor)) is not None]
    return known[0] if len(known) == 1 else None


def _upper_bound(exp: gs.Node) -> npt.NDArray[Any] | None:
    clip = source(exp.inputs[0])
    return constant(clip.inputs[2]) if clip is not None and clip.op == "Clip" and len(clip.inputs) > 2 else None


def _picks_rows(cut: gs.Node) -> bool:
    kept = cut.outputs[0]
    return len([node for node in kept.outputs if node.op == "Gather" and node.inputs[1] is kept]) >= _PICKED


def _delta_weights(slices: list[gs.Node]) -> tuple[float, ...] | None:
    """Weights of dx dy dw dh: every fourth column from column i on is divided by the weight of i."""
    weights = []
    for column in range(4):
        columns = [n for n in slices if len(n.inputs) == 5 and _is(n.inputs[1], column) and _is(n.inputs[4], 4)]
        divided = [n for cut in columns for n in cut.outputs[0].outputs if n.op == "Div"]
        weights.append(agreed(constant(node.inputs[1]) for node in divided))
    return None if None in weights else tuple(weight for weight in weights if weight is not None)


def _is(tensor: gs.Tensor, number: int) -> bool:
    value = constant(tensor)
    return value is not None and value.size == 1 and int(value.reshape(-1)[0]) == number
