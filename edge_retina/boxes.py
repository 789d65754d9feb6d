"""NumPy reference of anchors, box decoding and NMS. Every other implementation is tested against this one.

All float arithmetic is float32, in the order that the ONNX body and the CUDA kernels use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_retina.geometry import Geometry
from edge_retina.spec import DetectorSpec

__all__ = [
    "anchor_boxes",
    "clip",
    "decode",
    "detect",
    "iou",
    "make_anchors",
    "nms",
    "paired_iou",
    "select",
    "sigmoid",
    "to_anchor_rows",
]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def make_anchors(spec: DetectorSpec, level: int) -> F32:
    """All anchors of one level, (H * W * A, 4) xyxy in network-input pixels; index (y * W + x) * A + a.

    Source: Lin et al. 2017, section 4; the layout is torchvision's (models/detection/anchor_utils.py).
    """
    (rows, columns), (stride_y, stride_x) = spec.level_shapes[level], spec.strides[level]
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) * np.array([[[stride_y]], [[stride_x]]], np.float32)
    origin = np.stack([x, y, x, y], axis=-1)[:, :, None, :]
    cell = np.asarray(spec.cell_anchors[level], np.float32)[None, None]
    return (origin + cell).reshape(-1, 4)


def anchor_boxes(spec: DetectorSpec, level: int) -> F32:
    """make_anchors as half-open boxes: a pixel further where x2, y2 are the last pixel inside."""
    one = np.array([0, 0, 1, 1], np.float32) * np.float32(spec.inclusive_pixels)
    boxes: F32 = make_anchors(spec, level) + one
    return boxes


def decode(deltas: F32, anchors: F32, weights: Sequence[float], max_log_scale: float, coding: str = "center") -> F32:
    """Boxes from head offsets, (N, 4) xyxy in network-input pixels, not clipped.

    deltas: (N, 4). anchors: (N, 4) xyxy. weights: the deltas are divided by them. coding "center": dx dy dw dh, dw and
    dh clamped to max_log_scale before exp (Girshick et al. 2014, appendix C). "corner": each corner moves by its delta
    times the anchor's width or height (keras-retinanet, backend/common.py, bbox_transform_inv).
    """
    size = anchors[:, 2:] - anchors[:, :2]
    if coding == "corner":
        scaled = deltas / np.asarray(weights, np.float32)
        return np.concatenate([scaled[:, :2] * size + anchors[:, :2], scaled[:, 2:] * size + anchors[:, 2:]], axis=1)
    centre = anchors[:, :2] + np.float32(0.5) * size
    scaled = deltas / np.asarray(weights, np.float32)
    new_centre = scaled[:, :2] * size + centre
    half = np.float32(0.5) * (np.exp(np.minimum(scaled[:, 2:], np.float32(max_log_scale))) * size)
    return np.concatenate([new_centre - half, new_centre + half], axis=1)


def clip(boxes: F32, low: Sequence[float] | F32, high: Sequence[float] | F32) -> F32:
    """Boxes (N, 4) xyxy moved into low .. high, each (x, y) for both corners or (x1, y1, x2, y2)."""
    least, most = (np.resize(np.asarray(limit, np.float32), 4) for limit in (low, high))
    inside: F32 = np.minimum(np.maximum(boxes, least), most)
    return inside


def sigmoid(logits: F32) -> F32:
    """1 / (1 + exp(-x)) without overflow, float32."""
    e = np.exp(-np.abs(logits))
    one = np.float32(1)
    result: F32 = np.where(logits >= 0, one / (one + e), e / (one + e)).astype(np.float32)
    return result


def iou(boxes: F32, others: F32) -> F32:
    """Pairwise intersection over union, (N, M); 0 where the union is empty. Boxes xyxy, any pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    side = np.maximum(high - low, np.float32(0))
    inter = side[..., 0] * side[..., 1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    other_area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = area[:, None] + other_area[None, :] - inter
    share: F32 = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return share


def paired_iou(boxes: F32, others: F32) -> F32:
    """Intersection over union of each box with the one in the same row, (N,); 0 where the union is empty."""
    side = np.maximum(np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2]), np.float32(0))
    inter = side[:, 0] * side[:, 1]
    union = np.prod(boxes[:, 2:] - boxes[:, :2], 1) + np.prod(others[:, 2:] - others[:, :2], 1) - inter
    share: F32 = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return share


def nms(boxes: F32, labels: npt.NDArray[np.integer], iou_threshold: float, *, class_aware: bool, limit: int) -> I64:
    """Greedy non-maximum suppression; row numbers kept, ascending, at most `limit`.

    boxes: (N, 4) xyxy sorted best first. A box goes when its IoU with a better kept one of its class
    (any class unless class_aware) exceeds the threshold. Source: Felzenszwalb et al. 2010, section 3.
    """
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == limit:
            break
        hit = iou(boxes[i : i + 1], boxes[i + 1 :])[0] > np.float32(iou_threshold)
        if class_aware:
            hit &= labels[i + 1 :] == labels[i]
        alive[i + 1 :] &= ~hit
    return np.asarray(kept, np.int64)


def select(logits: F32, threshold: float, top_k: int, class_choice: str = "every") -> tuple[I64, I64]:
    """Anchor and class indices of the best pairs of one level, best first.

    logits: (anchors, K). A pair's sigmoid must exceed the threshold (NaN never does); ties in logit are
    ordered by anchor, then class; at most top_k pairs. class_choice "best": only an anchor's best class, the first of
    equals, makes a pair.
    """
    pairs = np.arange(logits.size)
    if class_choice == "best" and logits.size:
        pairs = np.arange(len(logits)) * logits.shape[1] + logits.argmax(1)
    flat = logits.reshape(-1)[pairs]
    with np.errstate(invalid="ignore"):
        passing = np.flatnonzero(sigmoid(flat) > np.float32(threshold))
    best = pairs[passing[np.argsort(-flat[passing], kind="stable")[:top_k]]]
    return best // logits.shape[1], best % logits.shape[1]


def to_anchor_rows(head: F32, anchors_per_cell: int) -> F32:
    """One image's head tensor (A * C, H, W), channel a * C + c, as rows (H * W * A, C)."""
    channels, height, width = head.shape
    grid = head.reshape(anchors_per_cell, channels // anchors_per_cell, height, width)
    return np.ascontiguousarray(grid.transpose(2, 3, 0, 1)).reshape(-1, channels // anchors_per_cell)


def detect(
    logits: Sequence[F32], deltas: Sequence[F32], spec: DetectorSpec, geometry: Geometry
) -> tuple[F32, F32, npt.NDArray[np.int32]]:
    """Detections of one image: boxes (N, 4) xyxy in frame pixels, scores (N,) descending, labels (N,).

    logits: per level (A * K, H, W). deltas: per level (A * 4, H, W). Ties in logit are ordered by level,
    anchor index, class. Source: Lin et al. 2017, section 4.1, "Inference".
    """
    vector = np.array(geometry.vector(), np.float32)
    # Boxes are half-open throughout; where the trainer's were not, one pixel of the border stays inside.
    one = np.array([0, 0, 1, 1], np.float32) * np.float32(spec.inclusive_pixels)
    found_boxes, found_logits, found_labels = [], [], []
    for level in range(spec.num_levels):
        per_cell = len(spec.cell_anchors[level])
        rows = to_anchor_rows(logits[level], per_cell)
        anchor, label = select(rows, spec.score_threshold, spec.top_k, spec.class_choice)
        offsets, anchors = to_anchor_rows(deltas[level], per_cell)[anchor], anchor_boxes(spec, level)[anchor]
        found_boxes.append(decode(offsets, anchors, spec.delta_weights, spec.max_log_scale, spec.box_coding))
        found_logits.append(rows[anchor, label])
        found_labels.append(label)
    boxes, all_logits = np.concatenate(found_boxes), np.concatenate(found_logits)
    all_labels = np.concatenate(found_labels)
    content = np.concatenate([vector[:2], vector[:2] + vector[2:4]])
    whole = np.array([0, 0, *spec.input_size[::-1]], np.float32)
    limits = {"content": content, "input": whole, "pixels": whole - np.array([0, 0, 1, 1], np.float32)}.get(spec.clip)
    if limits is not None:
        boxes = clip(boxes, limits[[0, 1, 0, 1]] + one, limits[[2, 3, 2, 3]] - one[::-1])
    order = np.argsort(-all_logits, kind="stable")
    if spec.top_k_scope == "all":
        order = order[: spec.top_k]
    if spec.drop_empty and spec.clip != "after_nms":
        order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    boxes, labels = boxes[order], all_labels[order]
    # Corners that moved past each other span a box all the same (TensorFlow's and ONNX's NonMaxSuppression).
    spans = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4) if spec.box_coding == "corner" else boxes
    keep = nms(spans, labels, spec.nms_iou, class_aware=spec.class_aware_nms, limit=spec.max_detections)
    boxes = boxes[keep]
    if spec.clip == "after_nms":
        boxes = clip(boxes, content[[0, 1, 0, 1]] + one, content[[2, 3, 2, 3]] - one[::-1])
        if spec.drop_empty:
            some = (boxes[:, 2:] > boxes[:, :2]).all(1)
            boxes, keep = boxes[some], keep[some]
    frame = (boxes - np.tile(vector[:2], 2)) * np.tile(vector[4:6], 2)
    if spec.clip in ("content", "after_nms"):
        frame = np.minimum(frame, np.tile(vector[6:], 2))
    return frame, sigmoid(all_logits[order][keep]), labels[keep].astype(np.int32)
