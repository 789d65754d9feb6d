"""Pass: candidates to detections in frame pixels, inside edge_retina::AnchorDecode."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError, UsageError
from edge_retina.rewrite.decode import CANDIDATES, clip_corners, find_function, has_area
from edge_retina.rewrite.emit import Emitter
from edge_retina.spec import DetectorSpec

__all__ = ["FORMS", "OUTPUTS", "add_nms"]

OUTPUTS = ("boxes", "scores", "labels", "count")
# operator: NonMaxSuppression, for ONNX Runtime. fixpoint: matrix products in a Loop, for builders without that kernel.
FORMS = ("operator", "fixpoint")
# Below every logit that passed the threshold and above -inf, which marks those that did not.
_LOWEST = np.float32(-3e38)


def add_nms(graph: gs.Graph, spec: DetectorSpec, form: str = "operator") -> int:
    """Extend AnchorDecode from candidates to boxes, scores, labels and count.

    Rule: the call's outputs become boxes float32 [B, K, 4] xyxy in frame pixels, scores float32 [B, K] descending,
    labels int32 [B, K] and count int32 [B]; rows past count are zero, label -1. Ties keep the candidates' order.
    form: one of FORMS; both give what boxes.nms gives. Scope: the function and its call. Returns the number of nodes
    added to the function; a second run returns 0. Raises ModelError when the decode pass has not run.
    """
    function = find_function(graph)
    if function is None:
        raise ModelError("the NMS pass needs the decode pass to run before it")
    if form not in FORMS:
        raise UsageError(f"unknown NMS form {form!r}; use one of {', '.join(FORMS)}")
    call = next(node for node in graph.nodes if node.op == function.name and node.domain == function.domain)
    if tuple(t.name for t in call.outputs) != CANDIDATES:
        return 0
    before = len(function.nodes)
    emit = Emitter(function, "nms")
    boxes, logits, labels = function.outputs
    keep = {"operator": _operator, "fixpoint": _fixpoint}[form]
    survivors = keep(emit, spec, boxes, logits, labels)
    function.outputs = _best(emit, spec, boxes, survivors, labels, function.inputs[-1], form)
    added, kept = len(function.nodes) - before, spec.max_detections
    call.outputs = graph.outputs = [
        gs.Variable("boxes", np.float32, ["batch", kept, 4]),
        gs.Variable("scores", np.float32, ["batch", kept]),
        gs.Variable("labels", np.int32, ["batch", kept]),
        gs.Variable("count", np.int32, ["batch"]),
    ]
    return added


def _operator(
    emit: Emitter, spec: DetectorSpec, boxes: gs.Variable, logits: gs.Variable, labels: gs.Variable
) -> gs.Variable:
    """Logits of the survivors, -inf elsewhere: [B, N]. ONNX NonMaxSuppression takes ties in index order."""
    scores = emit.unsqueeze(logits, 1)
    if spec.class_aware_nms and spec.num_classes > 1:
        own = emit("Equal", emit.unsqueeze(labels, 1), np.arange(spec.num_classes).reshape(1, -1, 1))
        scores = emit("Where", own, scores, np.float32(-np.inf))
    limits = (np.array([spec.max_detections]), np.array([spec.nms_iou], np.float32), np.array([_LOWEST]))
    selected = emit("NonMaxSuppression", boxes, scores, *limits)
    place = emit("Gather", selected, np.array([0, 2]), axis=1)
    nothing = emit("ConstantOfShape", emit("Shape", logits), value=gs.Constant("", np.array([-np.inf], np.float32)))
    return emit("ScatterND", nothing, place, emit("GatherND", logits, place))


def _fixpoint(
    emit: Emitter, spec: DetectorSpec, boxes: gs.Variable, logits: gs.Variable, labels: gs.Variable
) -> gs.Variable:
    """The same as greedy NMS in its fixpoint form.

    With S[i, j] = 1 where i precedes j and would suppress it, repeat keep <- not(keep @ S > 0) from keep = 1 until
    nothing changes. Each round settles at least one more candidate, so it ends, at greedy's result.
    """
    low, high = emit.slice(boxes, 2, 0, 2), emit.slice(boxes, 2, 2, 4)
    if spec.box_coding == "corner":  # which can move past each other
        low, high = emit("Min", low, high), emit("Max", low, high)
    side = emit("Sub", high, low)
    x, y = emit.slice(side, 2, 0, 1), emit.slice(side, 2, 1, 2)
    area = emit("Mul", x, y)

    def pairwise(op: str, a: gs.Variable) -> gs.Variable:
        return emit(op, emit.unsqueeze(a, 2), emit.unsqueeze(a, 1))

    overlap = emit("Max", emit("Sub", pairwise("Min", high), pairwise("Max", low)), np.float32(0))
    inter = emit("Mul", emit.slice(overlap, 3, 0, 1), emit.slice(overlap, 3, 1, 2))
    union = emit("Sub", pairwise("Add", area), inter)
    iou = emit("Div", inter, emit("Max", union, np.float32(1e-30)))
    hit = emit("Greater", emit("Squeeze", iou, np.array([3])), np.float32(spec.nms_iou))
    order = np.arange(spec.candidates())
    earlier = emit("Less", order.reshape(1, -1, 1), order.reshape(1, 1, -1))
    tie = emit("And", pairwise("Equal", logits), earlier)
    precedes = emit("Or", pairwise("Greater", logits), tie)
    suppresses = emit("And", hit, precedes)
    if spec.class_aware_nms and spec.num_classes > 1:
        suppresses = emit("And", suppresses, pairwise("Equal", labels))
    alive = emit("Greater", logits, _LOWEST)
    # float16: only whether a sum of noughts and ones exceeds 0 is asked, and TensorRT-RTX multiplies no float32
    # matrices on Turing.
    matrix = emit.cast(emit("And", suppresses, emit.unsqueeze(alive, 2)), np.float16)
    start = emit.unsqueeze(emit.cast(alive, np.float32), 1)
    body = _round(matrix, start, emit.graph.opset)
    kept = emit("Loop", np.array(spec.candidates()), np.array(True), start, body=body)
    survives = emit("Greater", emit("Squeeze", kept, np.array([1])), np.float32(0.5))
    return emit("Where", survives, logits, np.float32(-np.inf))


def _round(matrix: gs.Variable, alive: gs.Variable, opset: int) -> gs.Graph:
    """Loop body: one round of the fixpoint iteration; goes on while something changed."""
    number = gs.Variable("nms/round/number", np.int64, [])
    condition = gs.Variable("nms/round/condition", np.bool_, [])
    keep = gs.Variable("nms/round/keep", np.float32)
    graph = gs.Graph(name="nms_round", inputs=[number, condition, keep], opset=opset)
    emit = Emitter(graph, "nms/round")
    struck = emit("Greater", emit("MatMul", emit.cast(keep, np.float16), matrix), np.float16(0))
    after = emit("Where", struck, np.float32(0), alive)
    difference = emit("ReduceMax", emit("Abs", emit("Sub", after, keep)), keepdims=0)
    changed = emit("Greater", difference, np.float32(0))
    changed.dtype, changed.shape = np.dtype(np.bool_), []
    after.dtype = np.dtype(np.float32)
    graph.outputs = [changed, after]
    return graph


def _best(
    emit: Emitter,
    spec: DetectorSpec,
    boxes: gs.Variable,
    logits: gs.Variable,
    labels: gs.Variable,
    geometry: gs.Variable,
    form: str,
) -> list[gs.Variable]:
    """The max_detections best survivors, boxes moved to frame pixels: boxes, scores, labels, count."""
    if form == "operator" or spec.candidates() < spec.max_detections:
        # Fewer candidates than rows wanted: rows that are none.
        more = spec.max_detections
        logits = emit("Pad", logits, np.array([0, 0, 0, more]), np.float32(-np.inf))
        labels = emit("Pad", labels, np.array([0, 0, 0, more]), np.array(0))
        boxes = emit("Pad", boxes, np.array([0, 0, 0, 0, more, 0]), np.float32(0))
    top, row = emit.many("TopK", 2, logits, np.array([spec.max_detections]), axis=1)
    box, label = _rows(emit, boxes, row), _rows(emit, labels, row)
    if spec.clip == "after_nms":
        low = emit.slice(geometry, 0, 0, 2)
        high = emit("Add", low, emit.slice(geometry, 0, 2, 4))
        corners = [emit.slice(box, 2, a, a + 2) for a in (0, 2)]
        box = emit("Concat", *clip_corners(emit, spec, corners, low, high), axis=2)
        if spec.drop_empty:  # what is left moves up
            top = emit("Where", has_area(emit, box), top, np.float32(-np.inf))
            top, row = emit.many("TopK", 2, top, np.array([spec.max_detections]), axis=1)
            box, label = _rows(emit, box, row), _rows(emit, label, row)
    real, score, box = emit("Greater", top, _LOWEST), emit("Sigmoid", top), _to_frame(emit, spec, box, geometry)
    return [
        emit("Where", emit.unsqueeze(real, 2), box, np.float32(0)),
        emit("Where", real, score, np.float32(0)),
        emit.cast(emit("Where", real, label, np.array(-1)), np.int32),
        emit("ReduceSum", emit.cast(real, np.int32), np.array([1]), keepdims=0),
    ]


def _rows(emit: Emitter, values: gs.Variable, row: gs.Variable) -> gs.Variable:
    """Rows [B, K] of values [B, N, ...]: [B, K, ...]."""
    return emit("GatherND", values, emit.unsqueeze(row, 2), batch_dims=1)


def _to_frame(emit: Emitter, spec: DetectorSpec, box: gs.Variable, geometry: gs.Variable) -> gs.Variable:
    """Boxes in network-input pixels in frame pixels."""
    corners = emit("Concat", *[emit.slice(geometry, 0, a, a + 2) for a in (0, 0, 4, 4, 6, 6)], axis=0)
    offset, scale, frame = (emit.slice(corners, 0, a, a + 4) for a in (0, 4, 8))
    box = emit("Mul", emit("Sub", box, offset), scale)
    return emit("Min", box, frame) if spec.clip in ("content", "after_nms") else box
