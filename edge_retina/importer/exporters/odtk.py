"""NVIDIA ODTK's RetinaNet to ONNX, with the model's own anchors and thresholds in the metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.importer.exporters.heads import export_heads, require
from edge_retina.importer.labels import names_for
from edge_retina.importer.odtk import HABITS, cell_anchors
from edge_retina.spec import DetectorSpec

__all__ = ["export_odtk", "spec_of"]


def export_odtk(
    model: Any,
    path: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    labels: Sequence[str] | None = None,
    shortest_side: tuple[int, int] | None = None,
    **options: Any,
) -> DetectorSpec:
    """Export the raw heads of an odtk.model.Model to ONNX with its DetectorSpec; returns the spec.

    model: on any device; it is left as it was. size: (H, W) of the network input, multiples of 128. labels: names of
    class 0, 1, ... shortest_side: (shortest, longest) side of the resized image in pixels, --resize and --max-size of
    `odtk infer`. options: for torch.onnx.export, such as dynamo=True. Raises SpecError for rotated boxes and other
    sizes.
    """
    require("torch")
    spec = spec_of(model, size, labels=labels, shortest_side=shortest_side)
    return export_heads(model, _maps, path, spec, options)


def spec_of(
    model: Any,
    size: tuple[int, int],
    *,
    labels: Sequence[str] | None = None,
    shortest_side: tuple[int, int] | None = None,
) -> DetectorSpec:
    """The spec of an odtk.model.Model; arguments as for export_odtk. Raises SpecError."""
    if model.rotated_bbox:
        raise SpecError("ODTK: rotated boxes (six values each) are not supported; train without --rotated-bbox")
    height, width = size
    if height % model.stride or width % model.stride:
        raise SpecError(f"ODTK: wanted a height and width that are multiples of {model.stride}, found {height}x{width}")
    strides = [8 << level for level in range(5)]
    ratios, scales = tuple(model.ratios), tuple(model.scales)
    values: dict[str, Any] = {
        **HABITS,
        "labels": tuple(labels) if labels is not None else names_for(model.classes),
        "input_size": (height, width),
        "strides": tuple((stride, stride) for stride in strides),
        "level_shapes": tuple((height // stride, width // stride) for stride in strides),
        "cell_anchors": tuple(cell_anchors(stride, ratios, scales) for stride in strides),
        "score_threshold": model.threshold,
        "top_k": model.top_n,
        "nms_iou": model.nms,
        "max_detections": model.detections,
    }
    if shortest_side is not None:
        values["shortest_side"] = shortest_side
    if len(values["labels"]) != model.classes:
        raise SpecError(f"ODTK: the model has {model.classes} classes, found {len(values['labels'])} labels")
    return DetectorSpec(family="odtk", **values)


def _maps(model: Any, images: Any) -> Any:
    pyramid = [level for backbone in model.backbones.values() for level in backbone(images)]
    return [*map(model.cls_head, pyramid)], [*map(model.box_head, pyramid)]
