"""From a trainer's graph to frames in, detections out: passes over a graphsurgeon graph, one per file."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from edge_retina.importer import Imported
from edge_retina.rewrite.decode import add_decode
from edge_retina.rewrite.frame_input import add_frame_input
from edge_retina.rewrite.heads import cut_heads
from edge_retina.rewrite.nms import add_nms

__all__ = ["rewrite"]


def rewrite(
    graph: gs.Graph, found: Imported, frame: tuple[int, int] | None = None, nms: str = "operator"
) -> onnx.ModelProto:
    """The whole detector as one checked ONNX model: `frames` in; boxes, scores, labels, count out.

    frame: (H, W) when every frame has that size, None for any. nms: one of rewrite.nms.FORMS. `graph` is used up.
    """
    cut_heads(graph, found)
    add_frame_input(graph, found.spec, frame)
    add_decode(graph, found.spec, static=nms == "fixpoint")
    add_nms(graph, found.spec, nms)
    graph.name = "edge_retina"
    model: onnx.ModelProto = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    return model
