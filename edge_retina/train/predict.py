"""The PyTorch model's own post-processing: what the built bundle is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from edge_retina import boxes
from edge_retina.geometry import Geometry, fit_frame
from edge_retina.images import read_image
from edge_retina.spec import DetectorSpec
from edge_retina.train.data import Example
from edge_retina.types import F32, U8, Detections

__all__ = ["coco_results", "fitted", "flatten", "postprocess"]


def flatten(heads: Sequence[Tensor], channels: int) -> Tensor:
    """Per-level heads (B, A * C, h, w) as rows (B, sum of h * w * A, C), index (y * w + x) * A + a."""
    rows = []
    for head in heads:
        batch, _, height, width = head.shape
        grid = head.reshape(batch, -1, channels, height, width).permute(0, 3, 4, 1, 2)
        rows.append(grid.reshape(batch, -1, channels))
    return torch.cat(rows, 1)


def postprocess(
    logits: Sequence[Tensor], deltas: Sequence[Tensor], spec: DetectorSpec, geometry: Geometry
) -> Detections:
    """Detections of one image from its heads, each (1, A * C, h, w); section 4.1, "Inference", in PyTorch."""
    found = []
    for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
        scores = torch.sigmoid(flatten([logit.float()], spec.num_classes)[0].flatten())
        passing = (scores > spec.score_threshold).nonzero()[:, 0]
        top, order = scores[passing].topk(min(spec.top_k, len(passing)))
        pair = passing[order]
        anchor, label = pair // spec.num_classes, pair % spec.num_classes
        reference = torch.from_numpy(boxes.make_anchors(spec, level))[anchor]
        d = flatten([delta.float()], 4)[0][anchor] / torch.tensor(spec.delta_weights)
        size = reference[:, 2:] - reference[:, :2]
        centre = (reference[:, :2] + reference[:, 2:]) / 2 + d[:, :2] * size
        half = size * d[:, 2:].clamp(max=spec.max_log_scale).exp() / 2
        found.append((torch.cat([centre - half, centre + half], 1), top, label))
    xyxy, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    (frame_h, frame_w), (content_h, content_w), (offset_y, offset_x) = geometry.frame, geometry.content, geometry.offset
    xyxy = xyxy - torch.tensor([offset_x, offset_y] * 2)
    xyxy = torch.minimum(xyxy.clamp(min=0), torch.tensor([content_w, content_h] * 2))
    scores, order = scores.sort(descending=True, stable=True)
    xyxy, labels = xyxy[order], labels[order]
    keep = boxes.nms(
        xyxy.numpy(), labels.numpy(), spec.nms_iou, class_aware=spec.class_aware_nms, limit=spec.max_detections
    )
    scale = torch.tensor([frame_w / content_w, frame_h / content_h] * 2)
    rows = ((xyxy[keep] * scale).numpy(), scores[keep].numpy(), labels[keep].numpy().astype(np.int32))
    return Detections(*rows, spec.labels, (frame_h, frame_w))


def fitted(image: U8, spec: DetectorSpec) -> tuple[F32, Geometry]:
    """The frame on the network input, float32 (H, W, 3) BGR 0..255, and where it lies there.

    image: uint8, BGR, any size; resized bilinearly, padded with the spec's pad_value.
    """
    geometry = fit_frame(spec, *image.shape[:2])
    (height, width), (top, left) = geometry.content, geometry.offset
    canvas = np.empty((*spec.input_size, 3), np.float32)
    canvas[:] = spec.pad_value[::-1] if spec.color_order == "rgb" else spec.pad_value
    resized = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    canvas[top : top + height, left : left + width] = resized
    return canvas, geometry


def coco_results(
    model: nn.Module, examples: Sequence[Example], spec: DetectorSpec, category_ids: Sequence[int], device: torch.device
) -> list[dict[str, Any]]:
    """COCO result rows of a model in eval mode over examples, float32, one image at a time."""
    results: list[dict[str, Any]] = []
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (spec.mean, spec.std))
    for example in examples:
        canvas, geometry = fitted(read_image(example.path), spec)
        channels = canvas[..., ::-1] if spec.color_order == "rgb" else canvas
        pixels = torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1))).to(device)
        with torch.inference_mode():
            logits, deltas = model(((pixels - mean) / std)[None])
        found = postprocess([v.cpu() for v in logits], [v.cpu() for v in deltas], spec, geometry)
        results += found.to_coco(example.image_id, category_ids)
    return results
