"""What a whole detectron2 export says about itself beyond its heads: anchors and post-processing.

Each function returns the DetectorSpec fields it could read; an export of the heads alone yields none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer import torchvision_whole
from edge_retina.importer.heads import constant, nodes_of, source
from edge_retina.spec import Box

__all__ = ["anchor_tables", "postprocessing"]

Fields = dict[str, Any]
Shapes = tuple[tuple[int, int], ...]


def postprocessing(static: gs.Graph) -> Fields:
    """Thresholds, limits and coder of a whole export, which reads as torchvision's but for the way to k.

    static: folded copy.
    """
    found = torchvision_whole.postprocessing(static)
    ks = {_most(source(node.inputs[1])) for node in nodes_of(static) if node.op == "TopK"} - {None}
    return found | ({"top_k": ks.pop()} if len(ks) == 1 else {})


def _most(node: gs.Node | None) -> int | None:
    """The upper bound of a Clip, reshaped or not: k of min(candidates, k)."""
    while node is not None and node.op in ("Reshape", "Unsqueeze", "Squeeze"):
        node = source(node.inputs[0])
    limit = constant(node.inputs[2]) if node is not None and node.op == "Clip" and len(node.inputs) == 3 else None
    return None if limit is None else int(limit.reshape(-1)[0])


def anchor_tables(static: gs.Graph, shapes: Shapes, anchors: int) -> Fields:
    """cell_anchors and strides from the anchors that a whole export holds, one table per level.

    static: folded copy. shapes: per level (H, W) in cells, fine to coarse. Raises SpecError when the tables are not one
    cell repeated over a grid.
    """
    counts = [h * w * anchors for h, w in shapes]
    values = [constant(node.inputs[0]) for node in static.nodes if node.op == "Gather"]
    tables = [v for v in values if v is not None and v.shape[1:] == (4,) and len(v) in counts]
    if [len(table) for table in tables] != counts:
        return {}
    cells: list[tuple[Box, ...]] = []
    strides: list[tuple[int, int]] = []
    for (h, w), table in zip(shapes, tables, strict=True):
        grid = table.astype(np.float64).reshape(h, w, anchors, 4)
        # A level one cell high or wide has no neighbour to measure to; strides double from level to level.
        double = 2 * strides[-1][0] if strides else 0
        dy = round(grid[1, 0, 0, 1] - grid[0, 0, 0, 1]) if h > 1 else double
        dx = round(grid[0, 1, 0, 0] - grid[0, 0, 0, 0]) if w > 1 else double
        y, x = np.mgrid[0:h, 0:w] * np.array([dy, dx])[:, None, None]
        if not np.allclose(grid, grid[0, 0] + np.stack([x, y, x, y], axis=-1)[:, :, None], atol=1e-2):
            raise SpecError(f"detectron2 RetinaNet: the anchors of the {h}x{w} level are not one cell repeated")
        cells.append(tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in grid[0, 0].tolist()))
        strides.append((dy, dx))
    return {"cell_anchors": tuple(cells), "strides": tuple(strides)}
