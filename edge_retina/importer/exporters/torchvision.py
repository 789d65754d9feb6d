"""torchvision's RetinaNet to ONNX, with the model's own anchors, thresholds and preprocessing in the metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.importer.exporters.heads import export_heads, level_shapes, require
from edge_retina.importer.labels import names_for
from edge_retina.spec import DetectorSpec

__all__ = ["export_torchvision", "spec_of"]

_PIXEL = 255.0
_WANTED = ("anchor_generator", "backbone", "box_coder", "head", "transform", "score_thresh", "topk_candidates")


def export_torchvision(
    model: Any,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    family: str = "torchvision",
    **options: Any,
) -> DetectorSpec:
    """Export the raw heads of a torchvision RetinaNet to ONNX with its DetectorSpec; returns the spec.

    model: torchvision.models.detection.RetinaNet or a subclass, any backbone, anchors, device and float type. size:
    (H, W) of the network input, multiples of the transform's size_divisible; without it the largest landscape image
    that the transform makes, 800 x 1344 as a rule. labels: one name per class; without them COCO's for 91 classes.
    family: for people. options: for torch.onnx.export, such as dynamo=True. Raises SpecError for another kind of model,
    or one that the spec cannot describe.
    """
    if missing := [name for name in _WANTED if not hasattr(model, name)]:
        raise SpecError(f"wanted a torchvision RetinaNet, found a {type(model).__name__} without {', '.join(missing)}")
    height, width = _input_size(model.transform, size)
    require("torch")
    shapes = level_shapes(model, _maps, (height, width))
    spec = spec_of(model, (height, width), shapes, labels=labels, family=family)
    return export_heads(model, _maps, path, spec, options)


def spec_of(
    model: Any,
    size: tuple[int, int],
    level_shapes: tuple[tuple[int, int], ...],
    *,
    labels: Sequence[str] | None = None,
    family: str = "torchvision",
) -> DetectorSpec:
    """The spec of a torchvision RetinaNet for a network input of size (H, W) pixels. Raises SpecError.

    level_shapes: (H, W) of each level in cells.
    """
    transform, classes = model.transform, model.head.classification_head.num_classes
    if labels is not None and len(labels) != classes:
        raise SpecError(f"wanted {classes} labels, one per class of the model, found {len(labels)}")
    cells = tuple(tuple(map(tuple, cell.double().tolist())) for cell in model.anchor_generator.cell_anchors)
    if len(cells) != len(level_shapes):
        raise SpecError(f"the backbone makes {len(level_shapes)} levels, the anchor generator wants {len(cells)}")
    mean, std = (tuple(round(v * _PIXEL, 6) for v in values) for values in (transform.image_mean, transform.image_std))
    dx, dy, dw, dh = map(float, model.box_coder.weights)
    stretch = transform.fixed_size is not None
    return DetectorSpec(
        family=family,
        labels=names_for(classes) if labels is None else tuple(labels),
        input_size=size,
        color_order="rgb",
        mean=mean,
        std=std,
        pad_value=mean,  # zeros, padded after normalising
        resize="stretch" if stretch else "shortest_side",
        shortest_side=None if stretch else (int(transform.min_size[-1]), int(transform.max_size)),
        rounding="floor",
        placement="top_left",
        # models/detection/anchor_utils.py: image size // grid size
        strides=tuple((size[0] // height, size[1] // width) for height, width in level_shapes),
        level_shapes=level_shapes,
        cell_anchors=cells,
        delta_weights=(dx, dy, dw, dh),
        max_log_scale=float(model.box_coder.bbox_xform_clip),
        score_threshold=float(model.score_thresh),
        top_k=int(model.topk_candidates),
        nms_iou=float(model.nms_thresh),
        max_detections=int(model.detections_per_img),
    )


def _maps(model: Any, images: Any) -> Any:
    features, head = model.backbone(images), model.head
    cls, box = head.classification_head, head.regression_head
    levels = list(features.values()) if isinstance(features, dict) else [features]
    return [cls.cls_logits(cls.conv(level)) for level in levels], [box.bbox_reg(box.conv(level)) for level in levels]


def _input_size(transform: Any, size: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of the network input. Raises SpecError for one that the transform never makes."""
    unit = int(transform.size_divisible)
    if transform.fixed_size is not None:
        width, height = (int(side) for side in transform.fixed_size)
        if height % unit or width % unit or size not in (None, (height, width)):
            raise SpecError(
                f"the transform stretches images to fixed_size {height}x{width} (H x W) and pads them to multiples of "
                f"{unit}; wanted these to be the same and size, where given, to be equal, found {size}"
            )
        return height, width
    if size is None:
        height, width = (-(-int(side) // unit) * unit for side in (transform.min_size[-1], transform.max_size))
        return height, width
    height, width = (int(side) for side in size)
    if height % unit or width % unit:
        good = tuple(-(-side // unit) * unit for side in (height, width))
        raise SpecError(f"the transform pads images to multiples of {unit}, found size={size}; use size={good}")
    return height, width
