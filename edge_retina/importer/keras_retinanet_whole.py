"""What a keras-retinanet inference model says about itself beyond its heads: anchors, box coding, thresholds.

Each function returns the DetectorSpec fields it could read; a training model yields none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.decimals import agreed
from edge_retina.importer.heads import constant, nodes_of
from edge_retina.importer.keras_heads import NhwcHead

__all__ = ["anchor_tables", "postprocessing"]

Fields = dict[str, Any]
F64 = npt.NDArray[np.float64]
Cell = tuple[tuple[float, float, float, float], ...]
Shapes = tuple[tuple[int, int], ...]


def postprocessing(static: gs.Graph) -> Fields:
    """Thresholds and the choice of classes, from the body of the loop over images; nothing in a training model."""
    inside = [node for loop in static.nodes if loop.op == "Loop" for node in nodes_of(loop.attrs["body"])]
    if not inside:
        return {}
    nms = [node for node in inside if node.op == "NonMaxSuppression"]
    best = any(node.op == "ArgMax" for node in inside)
    most = agreed(constant(node.inputs[2]) for node in nms)
    found = {
        "score_threshold": agreed(constant(node.inputs[1]) for node in inside if node.op == "Greater"),
        "nms_iou": agreed(constant(node.inputs[3]) for node in nms),
        "max_detections": None if most is None else round(most),
        "class_choice": "best" if best else "every",
        "class_aware_nms": not best,
    }
    return {name: value for name, value in found.items() if value is not None}


def anchor_tables(box: NhwcHead, shapes: Shapes) -> Fields:
    """delta_weights, cell_anchors and strides: coordinate i is anchor + delta * (std * side), both tables [1, N]."""
    tables: dict[int, tuple[F64, F64]] = {}
    for cut in box.rows.outputs:
        starts = constant(cut.inputs[1]) if cut.op == "Slice" else None
        pair = _anchor_and_step(cut.outputs[0]) if starts is not None else None
        if starts is not None and pair is not None:
            tables[int(starts.reshape(-1)[-1])] = pair
    if not any(cut.op == "Slice" for cut in box.rows.outputs):
        return {}
    if sorted(tables) != [0, 1, 2, 3]:
        raise SpecError(
            "keras-retinanet: wanted an inference model that holds its anchors, found them computed from the image; "
            "export with a fixed image size"
        )
    corners = np.stack([tables[column][0] for column in range(4)], axis=1)
    sides = np.tile(corners[:, 2:] - corners[:, :2], 2)
    weights = np.median(sides / np.stack([tables[column][1] for column in range(4)], axis=1), axis=0)
    grids = np.split(corners, np.cumsum([height * width * box.anchors for height, width in shapes])[:-1])
    levels = [_cell_and_stride(grid, shape, box.anchors) for grid, shape in zip(grids, shapes, strict=True)]
    cells, strides = zip(*levels, strict=True)
    return {"delta_weights": tuple(_short(w) for w in weights), "cell_anchors": cells, "strides": strides}


def _anchor_and_step(delta: gs.Tensor) -> tuple[F64, F64] | None:
    """The tables of anchor + delta * step; the step may be a product itself."""
    step, found = np.ones(1), _operand(delta)
    while found is not None and found[0].op == "Mul":
        step = step * found[1]
        found = _operand(found[0].outputs[0])
    if found is None or found[0].op != "Add" or step.shape != found[1].shape:
        return None
    return found[1], step


def _operand(tensor: gs.Tensor) -> tuple[gs.Node, F64] | None:
    """The node behind a tensor, through Squeeze, and its other operand, a constant; None where there is none."""
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in ("Squeeze", "Identity", "Cast"):
        tensor = tensor.outputs[0].outputs[0]
    node = tensor.outputs[0] if len(tensor.outputs) == 1 else None
    values = [value for t in node.inputs if (value := constant(t)) is not None] if node is not None else []
    return (node, values[0].astype(np.float64).reshape(-1)) if node is not None and len(values) == 1 else None


def _cell_and_stride(table: F64, shape: tuple[int, int], anchors: int) -> tuple[Cell, tuple[int, int]]:
    """A level's anchors (H * W * A, 4) as one cell and its stride; the anchors are centred half a stride inside."""
    (height, width), middle = shape, (table[:anchors, :2] + table[:anchors, 2:]).mean(axis=0) / 2
    stride = round(2 * middle[1]), round(2 * middle[0])
    y, x = np.mgrid[0:height, 0:width] * np.array(stride)[:, None, None]
    wanted = table[:anchors] + np.stack([x, y, x, y], axis=-1)[:, :, None]
    if not np.allclose(table, wanted.reshape(-1, 4), atol=1e-2):
        raise SpecError(f"keras-retinanet: the anchors of the {height}x{width} level are not one cell repeated")
    cell = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in table[:anchors].tolist())
    return cell, stride


def _short(value: Any) -> float:
    return float(f"{value:.5g}")
