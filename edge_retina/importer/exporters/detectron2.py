"""detectron2's RetinaNet to ONNX, with the model's own anchors, thresholds and normalisation in the metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.importer.detectron2 import HABITS
from edge_retina.importer.exporters.heads import export_heads, level_shapes, require
from edge_retina.importer.labels import names_for
from edge_retina.spec import Box, DetectorSpec

__all__ = ["export_detectron2", "spec_of"]

_ORDERS = {"BGR": "bgr", "RGB": "rgb"}


def export_detectron2(
    model: Any,
    path: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    labels: Sequence[str] | None = None,
    shortest_side: tuple[int, int] | None = None,
    **options: Any,
) -> DetectorSpec:
    """Export the raw heads of a detectron2 RetinaNet to ONNX with its DetectorSpec; returns the spec.

    model: detectron2.modeling.meta_arch.RetinaNet, on any device; it is left as it was. size: (H, W) of the network
    input, multiples of the backbone's size_divisibility. labels: names of class 0, 1, ..., as in
    MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes. shortest_side: cfg.INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST.
    options: for torch.onnx.export, such as dynamo=True. Raises SpecError for a model that the spec cannot describe.
    """
    require("torch")
    _check_size(model, size)
    spec = spec_of(model, size, level_shapes(model, _maps, size), labels=labels, shortest_side=shortest_side)
    return export_heads(model, _maps, path, spec, options)


def spec_of(
    model: Any,
    size: tuple[int, int],
    level_shapes: Sequence[tuple[int, int]],
    *,
    labels: Sequence[str] | None = None,
    shortest_side: tuple[int, int] | None = None,
) -> DetectorSpec:
    """The spec of a detectron2 RetinaNet; level_shapes: per level (H, W) in cells, else as for export_detectron2.

    Raises SpecError.
    """
    _check_size(model, size)
    if model.input_format not in _ORDERS:
        raise SpecError(f"detectron2: wanted the input format BGR or RGB, found {model.input_format!r}")
    generator, coder = model.anchor_generator, model.box2box_transform
    names = tuple(labels) if labels is not None else names_for(model.num_classes)
    if len(names) != model.num_classes:
        raise SpecError(f"detectron2: the model has {model.num_classes} classes, found {len(names)} labels")
    # A float32's shortest decimal: 103.53, not 103.52999877929688.
    mean, std = ([float(str(v)) for v in t.flatten().cpu().numpy()] for t in (model.pixel_mean, model.pixel_std))
    values: dict[str, Any] = {
        **HABITS,
        "labels": names,
        "input_size": tuple(size),
        "color_order": _ORDERS[model.input_format],
        "mean": tuple(mean),
        "std": tuple(std),
        "pad_value": tuple(mean),  # zeros, padded after normalising
        "strides": tuple((int(stride), int(stride)) for stride in generator.strides),
        "level_shapes": tuple((int(h), int(w)) for h, w in level_shapes),
        "cell_anchors": tuple(_cell(generator, level) for level in range(len(level_shapes))),
        "delta_weights": tuple(float(weight) for weight in coder.weights),
        "max_log_scale": float(coder.scale_clamp),
        "score_threshold": model.test_score_thresh,
        "top_k": model.test_topk_candidates,
        "nms_iou": model.test_nms_thresh,
        "max_detections": model.max_detections_per_image,
    }
    if shortest_side is not None:
        values["shortest_side"] = tuple(shortest_side)
    return DetectorSpec(family="detectron2", **values)


def _maps(model: Any, images: Any) -> Any:
    pyramid = model.backbone(images)
    return model.head([pyramid[name] for name in model.head_in_features])


def _check_size(model: Any, size: tuple[int, int]) -> None:
    if any(side % max(1, model.backbone.size_divisibility) for side in size):
        raise SpecError(
            f"detectron2: wanted a height and width that are multiples of {model.backbone.size_divisibility}, to which "
            f"images are padded, found {size[0]}x{size[1]}"
        )


def _cell(generator: Any, level: int) -> tuple[Box, ...]:
    """Anchors of one cell of a level about its origin; detectron2 has them about the cell's centre."""
    centre = generator.offset * generator.strides[level]
    corners = list(generator.cell_anchors)[level].double().tolist()
    return tuple((x1 + centre, y1 + centre, x2 + centre, y2 + centre) for x1, y1, x2, y2 in corners)
