"""effdet's EfficientDet to ONNX, with the model's own anchors, thresholds and preprocessing in the metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.importer.effdet import HABITS, LAYOUT, class_names, pad_value_for
from edge_retina.importer.effdet_models import strides_of
from edge_retina.importer.exporters.heads import export_heads, require
from edge_retina.spec import DetectorSpec

__all__ = ["export_effdet", "spec_of"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PIXEL = 255.0


def export_effdet(
    model: Any,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> DetectorSpec:
    """Export the raw heads of an effdet model to ONNX with its DetectorSpec; returns the spec.

    model: EfficientDet, DetBenchPredict or DetBenchTrain, any device. labels: names of class 1, 2, ...; without them
    COCO's for 90 classes. mean, std: RGB 0..1, as given to effdet's loader; without them the config's, else ImageNet's.
    options: for torch.onnx.export, such as dynamo=True. Raises SpecError for a model with soft-NMS, or one that the
    spec cannot describe.
    """
    require("torch", "effdet")
    from effdet.bench import unwrap_bench

    net = unwrap_bench(model)
    spec = spec_of(net.config, labels=labels, mean=mean, std=std)
    return export_heads(net, lambda net, images: net(images), path, spec, options, LAYOUT)


def spec_of(
    config: Any,
    *,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> DetectorSpec:
    """The spec of an effdet config; arguments as for export_effdet. Raises SpecError."""
    from effdet.anchors import Anchors

    if config.soft_nms:
        raise SpecError("effdet: wanted hard NMS, found config.soft_nms; set it to False, results then differ slightly")
    anchors = Anchors.from_config(config)
    cell = anchors.get_anchors_per_location()
    size, shapes = tuple(config.image_size), [tuple(s) for s in anchors.feat_sizes[config.min_level :]]
    rows = anchors.boxes.double().tolist()  # ymin xmin ymax xmax, level by level, row by row
    starts = [cell * sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    mean = tuple(mean or config.get("mean") or _IMAGENET_MEAN)
    std = tuple(std or config.get("std") or _IMAGENET_STD)
    values: Mapping[str, Any] = {
        **HABITS,
        "labels": tuple(labels) if labels is not None else class_names(config.num_classes),
        "input_size": size,
        "mean": tuple(round(v * _PIXEL, 6) for v in mean),
        "std": tuple(round(v * _PIXEL, 6) for v in std),
        "pad_value": pad_value_for([v * _PIXEL for v in mean]),
        "strides": strides_of(size, shapes),
        "level_shapes": tuple(shapes),
        "cell_anchors": tuple(tuple((x1, y1, x2, y2) for y1, x1, y2, x2 in rows[i : i + cell]) for i in starts),
        "top_k": config.max_detection_points,
        "max_detections": config.max_det_per_image,
    }
    return DetectorSpec(family="effdet", **values)
