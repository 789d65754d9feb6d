"""NumPy reference of anchors, box decoding and NMS. Every other implementation is tested against this one.

All float arithmetic is float32, in the order that the ONNX body and the CUDA kernels use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_retina.spec import DetectorSpec, Geometry

__all__ = [
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


def decode(deltas: F32, anchors: F32, weights: Sequence[float], max_log_scale: float) -> F32:
    """Boxes from head offsets, (N, 4) xyxy in network-input pixels, not clipped.

    deltas: (N, 4) dx dy dw dh. anchors: (N, 4) xyxy. weights: the deltas are divided by them.
    dw and dh are clamped to max_log_scale before exp. Source: Girshick et al. 2014, appendix C.
    """
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + np.float32(0.5) * size
    scaled = deltas / np.asarray(weights, np.float32)
    new_centre = scaled[:, :2] * size + centre
    half = np.float32(0.5) * (np.exp(np.minimum(scaled[:, 2:], np.float32(max_log_scale))) * size)
    return np.concatenate([new_centre - half, new_centre + half], axis=1)


def clip(boxes: F32, low: Sequence[float], high: Sequence[float]) -> F32:
    """Boxes (N, 4) xyxy moved into low (x, y) .. high (x, y)."""
    corners = boxes.reshape(-1, 2, 2)
    inside: F32 = np.minimum(np.maximum(corners, np.array(low, np.float32)), np.array(high, np.float32)).reshape(-1, 4)
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


def select(logits: F32, threshold: float, top_k: int) -> tuple[I64, I64]:
    """Anchor and class indices of the best pairs of one level, best first.

    logits: (anchors, K). A pair's sigmoid must exceed the threshold (NaN never does); ties in logit are
    ordered by anchor, then class; at most top_k pairs.
    """
    flat = logits.reshape(-1)
    with np.errstate(invalid="ignore"):
        passing = np.flatnonzero(sigmoid(flat) > np.float32(threshold))
    best = passing[np.argsort(-flat[passing], kind="stable")[:top_k]]
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
    offset_x, offset_y, content_w, content_h, scale_x, scale_y, frame_w, frame_h = vector
    found_boxes, found_logits, found_labels = [], [], []
    for level in range(spec.num_levels):
        per_cell = len(spec.cell_anchors[level])
        rows = to_anchor_rows(logits[level], per_cell)
        anchor, label = select(rows, spec.score_threshold, spec.top_k)
        offsets = to_anchor_rows(deltas[level], per_cell)[anchor]
        boxes = decode(offsets, make_anchors(spec, level)[anchor], spec.delta_weights, spec.max_log_scale)
        found_boxes.append(clip(boxes, (offset_x, offset_y), (offset_x + content_w, offset_y + content_h)))
        found_logits.append(rows[anchor, label])
        found_labels.append(label)
    all_boxes, all_logits = np.concatenate(found_boxes), np.concatenate(found_logits)
    all_labels = np.concatenate(found_labels)
    order = np.argsort(-all_logits, kind="stable")
    boxes, labels = all_boxes[order], all_labels[order]
    keep = nms(boxes, labels, spec.nms_iou, class_aware=spec.class_aware_nms, limit=spec.max_detections)
    pairs = ([offset_x, offset_y], [scale_x, scale_y], [frame_w, frame_h])
    offset, scale, limit = (np.array(pair * 2, np.float32) for pair in pairs)
    frame = np.minimum((boxes[keep] - offset) * scale, limit)
    return frame, sigmoid(all_logits[order][keep]), labels[keep].astype(np.int32)
