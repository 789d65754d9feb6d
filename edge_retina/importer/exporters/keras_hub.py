"""Keras-Hub's RetinaNet to ONNX, with the model's own anchors, thresholds and preprocessing in the metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.importer.exporters.attach import attach_spec
from edge_retina.importer.exporters.heads import require
from edge_retina.importer.heads import static_copy
from edge_retina.importer.imported import heads_to_dict
from edge_retina.importer.keras_heads import imported
from edge_retina.importer.keras_hub import HABITS, MEAN, STD, cells_of, heads_of, strides_of
from edge_retina.importer.labels import names_for
from edge_retina.importer.source import load_onnx
from edge_retina.spec import DetectorSpec

__all__ = ["export_keras_hub", "spec_of"]


def export_keras_hub(
    model: Any,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> DetectorSpec:
    """Export the raw heads of a keras_hub RetinaNetObjectDetector to ONNX with its DetectorSpec; returns the spec.

    size: (H, W) of the network input; without it that of the preprocessor, else of the model. labels: class names;
    without them COCO's for 91 classes. options: for Keras's model.export(format="onnx"). The torch and the TensorFlow
    backend work. The weights are as trainable afterwards as before. Raises SpecError for a model that the spec cannot
    describe.
    """
    require("keras")
    import keras

    spec = spec_of(model, size=size, labels=labels)
    trainable = [(layer, layer.trainable) for layer in model._flatten_layers()]
    signature = [keras.InputSpec(shape=(None, *spec.input_size, 3), dtype="float32", name="images")]
    try:
        model.trainable = False  # the TorchScript exporter takes no weights that require a gradient
        model.export(os.fspath(path), format="onnx", **{"input_signature": signature, "verbose": False, **options})
    finally:
        for layer, flag in trainable:
            layer.trainable = flag
    graph = load_onnx(Path(path)).graph
    pair = heads_of(static_copy(graph))
    if pair is None:
        raise SpecError("Keras-Hub RetinaNet: wanted bbox_regression and cls_logits as outputs, found others")
    return attach_spec(path, spec, heads_to_dict(imported(graph, spec, *pair)))


def spec_of(model: Any, *, size: tuple[int, int] | None = None, labels: Sequence[str] | None = None) -> DetectorSpec:
    """The spec of a RetinaNetObjectDetector; arguments as for export_keras_hub. Raises SpecError."""
    anchors, decoder = model.anchor_generator, model.prediction_decoder
    converter = getattr(model.preprocessor, "image_converter", None)
    size = size or getattr(converter, "image_size", None) or model.input_shape[1:3]
    if None in size:
        raise SpecError(
            "Keras-Hub RetinaNet: wanted an image size, found none in model and preprocessor; give size=(H, W)"
        )
    if "rel" in model.bounding_box_format:
        raise SpecError(f"Keras-Hub RetinaNet: wanted boxes in pixels, found {model.bounding_box_format!r}; use xyxy")
    levels = range(anchors.min_level, anchors.max_level + 1)
    shapes = [(-(-size[0] // 2**level), -(-size[1] // 2**level)) for level in levels]
    return DetectorSpec(
        family="keras_hub",
        labels=tuple(labels) if labels is not None else names_for(model.num_classes),
        input_size=(int(size[0]), int(size[1])),
        strides=strides_of(size, shapes),
        level_shapes=tuple(shapes),
        cell_anchors=cells_of(levels, anchors.num_scales, anchors.aspect_ratios, anchors.anchor_size),
        **{
            **HABITS,
            **_preprocessing(converter),
            "score_threshold": float(decoder.confidence_threshold),
            "nms_iou": float(decoder.iou_threshold),
            "max_detections": int(decoder.max_detections),
        },
    )


def _preprocessing(converter: Any) -> dict[str, Any]:
    """What an ImageConverter does: x * scale + offset after resizing. Without one, that of Keras-Hub's presets."""
    if converter is None:
        return {"mean": MEAN, "std": STD}
    if converter.crop_to_aspect_ratio and converter.image_size is not None:
        raise SpecError(
            "Keras-Hub RetinaNet: its image converter crops frames to the aspect ratio, which cuts objects off; set "
            "pad_to_aspect_ratio=True, crop_to_aspect_ratio=False as Keras-Hub's own presets do"
        )
    scale, offset = (_channels(value, default) for value, default in ((converter.scale, 1.0), (converter.offset, 0.0)))
    padded = converter.pad_to_aspect_ratio or converter.image_size is None
    return {
        "mean": tuple(round(-o / s, 6) for o, s in zip(offset, scale, strict=True)),
        "std": tuple(round(1 / s, 6) for s in scale),
        "resize": "letterbox" if padded else "stretch",
    }


def _channels(value: Any, default: float) -> tuple[float, ...]:
    if value is None:
        return (default,) * 3
    return tuple(map(float, value)) if hasattr(value, "__len__") else (float(value),) * 3
