"""MMDetection's RetinaNet to ONNX, with its own anchors, coder, thresholds and preprocessing in the metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.importer.exporters.heads import export_heads, level_shapes, require
from edge_retina.importer.labels import names_for
from edge_retina.importer.mmdet import HABITS
from edge_retina.spec import DetectorSpec

__all__ = ["export_mmdet", "spec_of"]

_CODERS = ("DeltaXYWHBBoxCoder",)
_MOST_CANDIDATES = 5000  # what a spec can say for "no limit"
_HEADS = 2


def export_mmdet(
    model: Any,
    path: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    labels: Sequence[str] | None = None,
    shortest_side: tuple[int, int] | None = None,
    **options: Any,
) -> DetectorSpec:
    """Export the raw heads of an MMDetection RetinaNet to ONNX with its DetectorSpec; returns the spec.

    model: mmdet.models.RetinaNet, as init_detector gives it, or another one-stage detector with an AnchorHead without
    centerness, on any device; it is left as it was. size: (H, W) of the network input, multiples of pad_size_divisor.
    labels: names of class 0, 1, ...; without them those of model.dataset_meta. shortest_side: (shortest, longest) of
    the test pipeline's Resize; without it that of model.cfg, else mmdet's (800, 1333). options: for torch.onnx.export,
    such as dynamo=True. Raises SpecError for a model that the spec cannot describe.
    """
    require("torch")
    spec = spec_of(model, size, level_shapes(model, _maps, size), labels=labels, shortest_side=shortest_side)
    return export_heads(model, _maps, path, spec, options)


def spec_of(
    model: Any,
    size: tuple[int, int],
    level_shapes: Sequence[tuple[int, ...]],
    *,
    labels: Sequence[str] | None = None,
    shortest_side: tuple[int, int] | None = None,
) -> DetectorSpec:
    """The spec of a model whose levels have these (H, W) at an input of `size`; else as export_mmdet. SpecError."""
    head = model.bbox_head
    if not head.use_sigmoid_cls:
        raise SpecError("mmdet: wanted a class head with sigmoid, found softmax over the classes")
    anchors = head.prior_generator
    values: Mapping[str, Any] = {
        **HABITS,
        "labels": _labels(model, labels),
        "input_size": tuple(size),
        "level_shapes": tuple(level_shapes),
        "strides": tuple((y, x) for x, y in anchors.strides),
        "cell_anchors": tuple(tuple(map(tuple, cell.double().tolist())) for cell in anchors.base_anchors),
        **_preprocessing(model.data_preprocessor),
        **_resize(model, shortest_side),
        **_coder(head.bbox_coder),
        **_postprocessing(head.test_cfg),
    }
    return DetectorSpec(family="mmdet", **values)


def _maps(model: Any, images: Any) -> Any:
    maps = model(images, mode="tensor")
    if len(maps) != _HEADS:
        raise SpecError(f"mmdet: wanted a head with class and box maps only, found {len(maps)} kinds of maps")
    return maps


def _labels(model: Any, labels: Sequence[str] | None) -> tuple[str, ...]:
    classes = model.bbox_head.num_classes
    meta = getattr(model, "dataset_meta", None) or {}
    names = tuple(labels if labels is not None else meta.get("classes", meta.get("CLASSES", ())))
    if not names:
        return names_for(classes)
    if len(names) != classes:
        raise SpecError(f"mmdet: wanted {classes} labels, found {len(names)}: {', '.join(names[:5])}")
    return names


def _preprocessing(preprocessor: Any) -> dict[str, Any]:
    """Colour order, mean, deviation; DetDataPreprocessor pads after normalising."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if preprocessor._enable_normalize:
        mean, std = (_short(values) for values in (preprocessor.mean, preprocessor.std))
    pad = tuple(m + float(preprocessor.pad_value) * s for m, s in zip(mean, std, strict=True))
    # Pictures are read as BGR.
    order = "rgb" if preprocessor._channel_conversion else "bgr"
    return {"color_order": order, "mean": mean, "std": std, "pad_value": pad}


def _short(values: Any) -> tuple[float, ...]:
    """The shortest decimals that are these float32."""
    return tuple(float(str(value)) for value in values.detach().cpu().flatten().numpy())


def _resize(model: Any, shortest_side: tuple[int, int] | None) -> dict[str, Any]:
    """The rule of the test pipeline that init_detector leaves on the model."""
    if shortest_side is not None:
        return {"shortest_side": tuple(shortest_side)}
    config = getattr(model, "cfg", None)
    loader = config.get("test_dataloader") if config is not None else None
    steps = loader["dataset"].get("pipeline", []) if loader is not None else []
    scale = next((step for step in steps if step.get("type") == "Resize" and "scale" in step), None)
    if scale is None:
        return {}
    if not scale.get("keep_ratio", False):
        return {"resize": "stretch", "shortest_side": None}
    return {"shortest_side": (min(scale["scale"]), max(scale["scale"]))}


def _coder(coder: Any) -> dict[str, Any]:
    kind = type(coder).__name__
    if kind not in _CODERS or coder.add_ctr_clamp or any(coder.means):
        raise SpecError(f"mmdet: wanted {_CODERS[0]} without centre clamp and with target means of 0, found {kind}")
    weights = tuple(1.0 / std for std in coder.stds)
    return {"delta_weights": weights, "clip": "content" if coder.clip_border else "none"}


def _postprocessing(config: Any) -> dict[str, Any]:
    """Of test_cfg. Source: mmdet dense_heads/base_dense_head.py, _predict_by_feat_single and _bbox_post_process."""
    nms, least, most = config.get("nms", {}), config.get("min_bbox_size", -1), config.get("nms_pre", -1)
    if nms.get("type") != "nms" or nms.get("offset", 0) or nms.get("score_threshold", 0):
        raise SpecError(f"mmdet: wanted test_cfg.nms of type 'nms' with an iou_threshold, found {dict(nms)}")
    if least > 0:
        raise SpecError(f"mmdet: wanted test_cfg.min_bbox_size of 0 or none, found {least}")
    return {
        "score_threshold": float(config.get("score_thr", 0.0)),
        "top_k": most if most > 0 else _MOST_CANDIDATES,
        "top_k_scope": "level" if most > 0 else "all",
        "nms_iou": float(nms.get("iou_threshold", nms.get("iou_thr"))),
        "class_aware_nms": not nms.get("class_agnostic", False),
        "max_detections": int(config.max_per_img),
        "drop_empty": least == 0,
    }
