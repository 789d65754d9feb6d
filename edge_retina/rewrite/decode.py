"""Pass: heads to candidate boxes, as the local function edge_retina::AnchorDecode."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from edge_retina.boxes import anchor_boxes
from edge_retina.rewrite.emit import Emitter
from edge_retina.rewrite.frame_input import GEOMETRY
from edge_retina.spec import DetectorSpec

__all__ = ["CANDIDATES", "DOMAIN", "FUNCTION", "add_decode", "clip_corners", "find_function", "has_area"]

DOMAIN, FUNCTION = "edge_retina", "AnchorDecode"
# What the function gives before the NMS pass extends it.
CANDIDATES = ("candidate_boxes", "candidate_logits", "candidate_labels")
# Far more than rounding moves a threshold that is not close to 1, and half a unit in the last place below 1.
_MARGIN, _ROUNDING = 1e-3, 6e-8


def find_function(graph: gs.Graph) -> gs.Function | None:
    """The AnchorDecode function of a graph, if it has one."""
    return next((f for f in graph.functions if (f.domain, f.name) == (DOMAIN, FUNCTION)), None)


def call_attributes(spec: DetectorSpec) -> dict[str, object]:
    """What a plugin of the same name needs to know; the body has it built in. Lists run level by level."""
    return {
        "input_size": list(spec.input_size),
        "strides": [v for pair in spec.strides for v in pair],
        "level_shapes": [v for pair in spec.level_shapes for v in pair],
        "anchors_per_cell": [len(cell) for cell in spec.cell_anchors],
        "cell_anchors": [float(v) for cell in spec.cell_anchors for anchor in cell for v in anchor],
        "num_classes": spec.num_classes,
        "delta_weights": [float(v) for v in spec.delta_weights],
        "box_coding": spec.box_coding,
        "max_log_scale": float(spec.max_log_scale),
        "inclusive_pixels": int(spec.inclusive_pixels),
        "clip": spec.clip,
        "drop_empty": int(spec.drop_empty),
        "score_threshold": float(spec.score_threshold),
        "class_choice": spec.class_choice,
        "top_k": spec.top_k,
        "top_k_scope": spec.top_k_scope,
        "nms_iou": float(spec.nms_iou),
        "class_aware_nms": int(spec.class_aware_nms),
        "max_detections": spec.max_detections,
    }


def add_decode(graph: gs.Graph, spec: DetectorSpec, *, static: bool = False) -> int:
    """Append one AnchorDecode call that turns heads and geometry into candidates, the best top_k.

    Rule: graph outputs logits_i, deltas_i, geometry become inputs of the call; its outputs become the graph's:
    candidate_boxes float32 [B, N, 4] xyxy half-open, clipped as the spec says, in network-input pixels;
    candidate_logits float32 [B, N], -inf where the score does not exceed the threshold; candidate_labels int64
    [B, N]. Ties are in the order of level, anchor, class. N is spec.candidates() with static=True; else what the
    fullest image of the batch needs, which is what makes the CPU quick: few anchors pass the threshold. Scope: main
    graph and the new function. Returns the number of nodes added to the main graph; a second run returns 0.
    """
    if find_function(graph) is not None:
        return 0
    levels = range(spec.num_levels)
    names = [f"logits_{i}" for i in levels] + [f"deltas_{i}" for i in levels] + [GEOMETRY]
    # Function inputs must not share a name with an outer tensor: TensorRT before 10.8 confused them.
    inputs = [gs.Variable(f"decode/in/{name}") for name in names]
    attributes = dict.fromkeys(call_attributes(spec))
    function = gs.Function(FUNCTION, DOMAIN, inputs=inputs, opset=graph.opset, attrs=attributes)
    function.outputs = _body(Emitter(function, "decode"), spec, inputs, static)
    graph.functions.append(function)
    if DOMAIN not in {entry.domain for entry in graph.import_domains or []}:
        known = list(graph.import_domains or [onnx.helper.make_opsetid("", graph.opset)])
        graph.import_domains = [*known, onnx.helper.make_opsetid(DOMAIN, 1)]
    count = spec.candidates() if static else "candidates"
    outputs = [
        gs.Variable(CANDIDATES[0], np.float32, ["batch", count, 4]),
        gs.Variable(CANDIDATES[1], np.float32, ["batch", count]),
        gs.Variable(CANDIDATES[2], np.int64, ["batch", count]),
    ]
    tensors = graph.tensors()
    graph.nodes.append(
        gs.Node(FUNCTION, FUNCTION, call_attributes(spec), [tensors[n] for n in names], outputs, domain=DOMAIN)
    )
    graph.outputs = outputs
    return 1


def _body(emit: Emitter, spec: DetectorSpec, inputs: list[gs.Variable], static: bool) -> list[gs.Variable]:
    """Selection level by level, then one decoding of everything selected."""
    all_logits, all_deltas, all_rows, all_labels = [], [], [], []
    first_row, levels = 0, range(spec.num_levels)
    for level in levels:
        logits, deltas = inputs[level], inputs[spec.num_levels + level]
        height, width = spec.level_shapes[level]
        per_cell, cells = len(spec.cell_anchors[level]), height * width
        best, anchor, label = _select(emit, spec, logits, per_cell, cells, static)
        all_deltas.append(emit.reshape(_pick(emit, deltas, anchor, 4, per_cell, cells), (0, -1, 4)))
        all_logits.append(best)
        all_labels.append(label)
        all_rows.append(emit("Add", anchor, np.array(first_row)) if first_row else anchor)
        first_row += cells * per_cell
    rows, deltas = emit("Concat", *all_rows, axis=1), emit("Concat", *all_deltas, axis=1)
    logits, labels = emit("Concat", *all_logits, axis=1), emit("Concat", *all_labels, axis=1)
    if spec.top_k_scope == "all" and sum(map(spec.level_candidates, levels)) > spec.top_k:
        most: object = np.array([spec.top_k])
        if not static:
            most = emit("Min", emit.slice(emit("Shape", logits), 0, 1, 2), most)
        logits, place = emit.many("TopK", 2, logits, most, axis=1)
        rows, labels = (emit("GatherElements", values, place, axis=1) for values in (rows, labels))
        deltas = emit("GatherND", deltas, emit.unsqueeze(place, 2), batch_dims=1)
    boxes = _decode(emit, spec, deltas, rows, inputs[-1])
    passing = emit("Greater", emit("Sigmoid", logits), np.float32(spec.score_threshold))
    if spec.drop_empty and spec.clip != "after_nms":
        passing = emit("And", passing, has_area(emit, boxes))
    return [boxes, emit("Where", passing, logits, np.float32(-np.inf)), labels]


def _select(
    emit: Emitter, spec: DetectorSpec, logits: gs.Variable, per_cell: int, cells: int, static: bool
) -> tuple[gs.Variable, gs.Variable, gs.Variable]:
    """Best logits of one level, their anchor index and class, each [B, k], best first.

    The k best (anchor, class) pairs lie within the k anchors of best class logit, so a TopK over anchors comes first
    and the one over pairs is small. The chosen anchors are put back in index order before, so that ties come out by
    anchor and class.
    """
    classes, anchors = spec.num_classes, cells * per_cell

    def how_many(values: gs.Variable, most: int) -> object:
        return np.array([most]) if static else _passing(emit, spec, values, most)

    grid = emit.reshape(logits, (0, per_cell, classes, cells))
    peak = emit.reduce("ReduceMax", grid, 2) if classes > 1 else emit.reshape(logits, (0, per_cell, cells))
    peak = emit.reshape(emit("Transpose", peak, perm=[0, 2, 1]), (0, -1))
    chosen = how_many(peak, min(spec.top_k, anchors))
    some = emit.many("TopK", 2, peak, chosen, axis=1, sorted=0)[1]
    anchor = emit.many("TopK", 2, some, chosen, axis=1, largest=0)[0]
    pairs = _pick(emit, logits, anchor, classes, per_cell, cells)
    if spec.class_choice == "best" and classes > 1:
        by_class = emit.reshape(pairs, (0, -1, classes))
        best, place = emit.many("TopK", 2, emit.reduce("ReduceMax", by_class, 2), chosen, axis=1)
        label = emit("ArgMax", by_class, axis=2, keepdims=0)
        return best, *(emit("GatherElements", values, place, axis=1) for values in (anchor, label))
    kept = how_many(pairs, min(spec.top_k, anchors * classes))
    best, pair = emit.many("TopK", 2, pairs, kept, axis=1)
    owner = emit("GatherElements", anchor, emit("Div", pair, np.array(classes)), axis=1)
    return best, owner, emit("Mod", pair, np.array(classes))


def _pick(
    emit: Emitter, head: gs.Variable, anchor: gs.Variable, channels: int, per_cell: int, cells: int
) -> gs.Variable:
    """All channels of some anchors [B, k] of a head tensor, as [B, k * channels].

    Channel c of anchor a of cell p sits at flat index (a * channels + c) * cells + p; an anchor's index is p * A + a.
    """
    a, p = emit("Mod", anchor, np.array(per_cell)), emit("Div", anchor, np.array(per_cell))
    start = emit("Add", emit("Mul", a, np.array(channels * cells)), p)
    index = emit("Add", emit.unsqueeze(start, 2), np.arange(channels) * cells)
    return emit("GatherElements", emit.reshape(head, (0, -1)), emit.reshape(index, (0, -1)), axis=1)


def _logit_below(threshold: float) -> float:
    """A logit that every float32 sigmoid above the threshold exceeds, and not by much."""
    if threshold <= 0:
        return -math.inf
    # A float32 near 1 is a multiple of 6e-8, which so close to 1 is a long way in logits.
    short_of_one = max(1 - threshold, _ROUNDING)
    return math.log(threshold / short_of_one) - _MARGIN - 2 * _ROUNDING / short_of_one


def _passing(emit: Emitter, spec: DetectorSpec, values: gs.Variable, most: int) -> gs.Variable:
    """How many of `values` [B, n] may pass the threshold, in the image with most of them: int64 [1], 0..most.

    Counted a little below the threshold, for a logit and its float32 sigmoid may round apart; the exact test comes
    last.
    """
    low = _logit_below(spec.score_threshold)
    over = emit.cast(emit("Greater", values, np.float32(low)), np.int64)
    fullest = emit("ReduceSum", over, np.array([1]), keepdims=0)
    fullest = emit.reshape(emit.reduce("ReduceMax", emit.unsqueeze(fullest, 1), 0), (1,))
    return emit("Min", fullest, np.array([most]))


def _decode(
    emit: Emitter, spec: DetectorSpec, deltas: gs.Variable, rows: gs.Variable, geometry: gs.Variable
) -> gs.Variable:
    """boxes.decode and boxes.clip for the selected anchors: [B, N, 4], half-open."""
    table = np.concatenate([anchor_boxes(spec, level) for level in range(spec.num_levels)])
    size = table[:, 2:] - table[:, :2]
    centre = table[:, :2] + np.float32(0.5) * size
    if spec.delta_weights != (1.0, 1.0, 1.0, 1.0):
        deltas = emit("Div", deltas, np.array(spec.delta_weights, np.float32))
    if spec.box_coding == "corner":
        anchors = emit("Gather", np.concatenate([table, size, size], 1), rows, axis=0)
        moved = emit("Mul", deltas, emit.slice(anchors, 2, 4, 8))
        boxes = emit("Add", moved, emit.slice(anchors, 2, 0, 4))
        corners = [emit.slice(boxes, 2, 0, 2), emit.slice(boxes, 2, 2, 4)]
    else:
        anchors = emit("Gather", np.concatenate([centre, size], 1), rows, axis=0)
        centre, size = emit.slice(anchors, 2, 0, 2), emit.slice(anchors, 2, 2, 4)
        move, grow = emit.slice(deltas, 2, 0, 2), emit.slice(deltas, 2, 2, 4)
        centre = emit("Add", emit("Mul", move, size), centre)
        factor = emit("Exp", emit("Min", grow, np.float32(spec.max_log_scale)))
        half = emit("Mul", emit("Mul", factor, size), np.float32(0.5))
        corners = [emit(op, centre, half) for op in ("Sub", "Add")]
    if spec.clip in ("content", "input", "pixels"):
        low: object = emit.slice(geometry, 0, 0, 2)
        high: object = emit("Add", low, emit.slice(geometry, 0, 2, 4))
        if spec.clip != "content":
            last = np.float32(spec.clip == "pixels")
            low, high = np.zeros(2, np.float32), np.array(spec.input_size[::-1], np.float32) - last
        corners = clip_corners(emit, spec, corners, low, high)
    return emit("Concat", *corners, axis=2)


def has_area(emit: Emitter, boxes: gs.Variable) -> gs.Variable:
    """Which of the half-open boxes [B, N, 4] are wider and higher than nothing: [B, N]."""
    side = emit("Sub", emit.slice(boxes, 2, 2, 4), emit.slice(boxes, 2, 0, 2))
    return emit("Greater", emit.reduce("ReduceMin", side, 2), np.float32(0))


def clip_corners(
    emit: Emitter, spec: DetectorSpec, corners: Sequence[gs.Variable], low: object, high: object
) -> list[gs.Variable]:
    """Low and high corners [B, N, 2] of half-open boxes moved into low..high; a pixel of the border stays inside."""
    if not spec.inclusive_pixels:
        return [emit("Min", emit("Max", corner, low), high) for corner in corners]
    one = np.float32(1)
    bounds = ((low, emit("Sub", high, one)), (emit("Add", low, one), high))
    return [
        emit("Min", emit("Max", corner, least), most) for corner, (least, most) in zip(corners, bounds, strict=True)
    ]
