"""Pre- and post-processing as a careful user writes it: OpenCV and NumPy, nothing done twice, no loop per detection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edge_retina.boxes import anchor_boxes, clip, decode, sigmoid
from edge_retina.errors import ModelError
from edge_retina.geometry import Geometry, fit_frame
from edge_retina.spec import DetectorSpec
from edge_retina.types import F32, U8

__all__ = ["Found", "Processing"]


class Found(NamedTuple):
    """Detections, best first. boxes: float32 (N, 4) xyxy, frame pixels. scores: float32 (N,). labels: int (N,)."""

    boxes: F32
    scores: F32
    labels: npt.NDArray[np.int64]


class Processing:
    """Of one spec; what does not depend on the frame is made once. Raises ModelError for rules it does not know."""

    def __init__(self, spec: DetectorSpec) -> None:
        known = spec.class_choice == "every" and spec.class_aware_nms and spec.clip in ("content", "input")
        if not known or spec.box_coding != "center":
            raise ModelError(
                f"peers know the decoding of torchvision and detectron2, found a model of {spec.family} that decodes "
                "otherwise"
            )
        self.spec = spec
        self._anchors = [anchor_boxes(spec, level) for level in range(spec.num_levels)]
        self._low = math.log(spec.score_threshold / (1 - spec.score_threshold))
        self._mean = tuple(map(float, spec.mean))
        std = np.array(spec.std, np.float32)
        self._scale = (1 / std).reshape(1, 3, 1, 1)
        padding = (np.array(spec.pad_value, np.float32) - np.array(spec.mean, np.float32)) / std
        self._padding = padding.reshape(3, 1, 1)

    def picture(self, frame: U8) -> tuple[F32, Geometry]:
        """The network's input, float32 [1, 3, H, W], and how the frame lies on it."""
        fit = fit_frame(self.spec, *frame.shape[:2])
        (height, width), (top, left) = fit.content, fit.offset
        small = frame if fit.content == fit.frame else cv2.resize(frame, (width, height))
        # Resized as bytes, which is quicker than as floats and rounds each to a whole number.
        swap = self.spec.color_order == "rgb"
        blob: F32 = cv2.dnn.blobFromImage(small, mean=self._mean, swapRB=swap)  # type: ignore[assignment]
        np.multiply(blob, self._scale, out=blob)
        if fit.content == self.spec.input_size:
            return blob, fit
        canvas = np.empty((1, 3, *self.spec.input_size), np.float32)
        canvas[0] = self._padding
        canvas[:, :, top : top + height, left : left + width] = blob
        return canvas, fit

    def detections(self, heads: Sequence[F32], fit: Geometry) -> Found:
        """From the heads, logits first, to detections in frame pixels."""
        levels, spec = self.spec.num_levels, self.spec
        boxes, logits, labels = [], [], []
        for level, (scores, deltas) in enumerate(zip(heads[:levels], heads[levels:], strict=True)):
            cells = scores.shape[2] * scores.shape[3]
            flat = scores.reshape(-1)
            passing = np.flatnonzero(flat > self._low)
            if len(passing) > spec.top_k:
                passing = passing[np.argpartition(flat[passing], -spec.top_k)[-spec.top_k :]]
            channel, cell = np.divmod(passing, cells)
            anchor, label = np.divmod(channel, spec.num_classes)
            rows = deltas.reshape(-1, 4, cells)[anchor, :, cell]
            anchors = self._anchors[level][cell * len(spec.cell_anchors[level]) + anchor]
            boxes.append(decode(rows, anchors, spec.delta_weights, spec.max_log_scale))
            logits.append(flat[passing])
            labels.append(label)
        return self._best(np.concatenate(boxes), sigmoid(np.concatenate(logits)), np.concatenate(labels), fit)

    def _best(self, boxes: F32, scores: F32, labels: npt.NDArray[np.int64], fit: Geometry) -> Found:
        spec, (top, left), (height, width) = self.spec, fit.offset, fit.content
        limits = (left, top, left + width, top + height) if spec.clip == "content" else (0, 0, *spec.input_size[::-1])
        boxes = clip(boxes, limits[:2], limits[2:])
        if spec.top_k_scope == "all" and len(scores) > spec.top_k:
            some = np.argpartition(scores, -spec.top_k)[-spec.top_k :]
            boxes, scores, labels = boxes[some], scores[some], labels[some]
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        suppress: Any = cv2.dnn.NMSBoxesBatched  # its stub wants lists; arrays are taken as they are
        kept = suppress(sides, scores, labels, 0.0, spec.nms_iou) if len(scores) else []
        best = np.asarray(kept, np.int64).reshape(-1)
        best = best[np.argsort(-scores[best], kind="stable")[: spec.max_detections]]
        x, y = fit.frame[1] / width, fit.frame[0] / height
        frame = (boxes[best] - np.array([left, top] * 2, np.float32)) * np.array([x, y] * 2, np.float32)
        return Found(frame, scores[best], labels[best])
