"""From a trainer's graph to frames in, detections out: passes over a graphsurgeon graph, one per file."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.importer import Imported
from edge_retina.rewrite.canonical import canonical_heads
from edge_retina.rewrite.decode import add_decode
from edge_retina.rewrite.fold import fold
from edge_retina.rewrite.frame_input import add_frame_input
from edge_retina.rewrite.heads import cut_heads
from edge_retina.rewrite.nms import add_nms
from edge_retina.rewrite.opset import raise_opset

__all__ = ["rewrite"]

_LEAST_IR = 8


def rewrite(
    graph: gs.Graph,
    found: Imported,
    frame: tuple[int, int] | None = None,
    nms: str = "operator",
    *,
    least_opset: int | None = None,
) -> onnx.ModelProto:
    """The whole detector as one checked ONNX model: `frames` in; boxes, scores, labels, count out.

    frame: (H, W) when every frame has that size, None for any. nms: one of rewrite.nms.FORMS. least_opset: what an
    older graph is raised to; FP16 and INT8 want rewrite.opset.LEAST_OPSET. `graph` is used up.
    Raises ModelError, also when the result is no valid ONNX.
    """
    cut_heads(graph, canonical_heads(graph, found))
    fold(graph)
    if least_opset is not None:
        graph = raise_opset(graph, least_opset)
    add_frame_input(graph, found.spec, frame)
    add_decode(graph, found.spec, static=nms == "fixpoint")
    add_nms(graph, found.spec, nms)
    graph.name = "edge_retina"
    # Local functions need 8; below 4 initializers would have to be inputs.
    graph.ir_version = max(_LEAST_IR, graph.ir_version or _LEAST_IR)
    model: onnx.ModelProto = gs.export_onnx(graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        raise ModelError(f"the rewritten graph is not valid ONNX; please report this model: {reason}") from exc
    return model
