"""keras-retinanet to ONNX, with the model's own anchors, thresholds and preprocessing in the metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_retina.errors import SpecError
from edge_retina.importer.exporters.attach import attach_spec
from edge_retina.importer.exporters.heads import require
from edge_retina.importer.heads import static_copy
from edge_retina.importer.imported import heads_to_dict
from edge_retina.importer.keras_heads import imported
from edge_retina.importer.keras_retinanet import HABITS, anchors_of, heads_of
from edge_retina.importer.labels import names_for
from edge_retina.importer.source import load_onnx
from edge_retina.spec import DetectorSpec

__all__ = ["export_keras_retinanet", "spec_of"]

_PIXEL = 255.0

Channels = tuple[float, float, float]


def export_keras_retinanet(
    model: Any,
    path: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    backbone: str = "resnet50",
    labels: Sequence[str] | None = None,
    anchor_params: Any = None,
    shortest_side: tuple[int, int] = (800, 1333),
    opset: int = 17,
) -> DetectorSpec:
    """Export the raw heads of a keras-retinanet model to ONNX with its DetectorSpec; returns the spec.

    model: as trained or as converted for inference, from which anchors and thresholds are then read. size: (H, W) of
    the network input, multiples of 32 (tf2onnx upsamples others wrongly). backbone: as given to models.backbone; it
    says how pixels are prepared. labels: class names; without them COCO's for 91 classes. anchor_params: the
    AnchorParameters of a model as trained, default without them. shortest_side: (min_side, max_side) in training.
    Raises SpecError for a model that the spec cannot describe.
    """
    require("keras_retinanet", "tensorflow", "tf2onnx")
    import tensorflow
    import tf2onnx

    if size[0] % 32 or size[1] % 32:
        raise SpecError(f"keras-retinanet: wanted a size of multiples of 32, found {size}")
    names = ("regression", "classification")
    raw = tensorflow.keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    signature = [tensorflow.TensorSpec((None, *size, 3), tensorflow.float32, name="images")]
    tf2onnx.convert.from_keras(raw, signature, opset=opset, output_path=os.fspath(path))
    graph = load_onnx(Path(path)).graph
    pair = heads_of(static_copy(graph))
    if pair is None:
        raise SpecError("keras-retinanet: wanted regression rows and classification rows after a sigmoid, found others")
    cls, box = pair
    shapes = tuple(shape for shape in cls.shapes if shape is not None)
    spec = spec_of(model, size, shapes, cls.channels, backbone, labels, anchor_params)
    spec = spec.override("metadata", shortest_side=tuple(shortest_side))
    return attach_spec(path, spec, heads_to_dict(imported(graph, spec, cls, box)))


def spec_of(
    model: Any,
    size: tuple[int, int],
    level_shapes: Sequence[tuple[int, int]],
    classes: int,
    backbone: str = "resnet50",
    labels: Sequence[str] | None = None,
    anchor_params: Any = None,
) -> DetectorSpec:
    """The spec of a model; arguments as for export_keras_retinanet. Raises SpecError."""
    from keras_retinanet.models import backbone as backbone_of
    from keras_retinanet.utils.anchors import AnchorParameters

    layers = {layer.name: layer for layer in model.layers}
    params, found = (
        anchor_params or AnchorParameters.default,
        [f"anchors_{level}" for level in range(len(level_shapes))],
    )
    sizes, strides, ratios, scales = params.sizes, params.strides, params.ratios, params.scales
    if set(found) <= set(layers):
        sizes, strides = ([getattr(layers[name], key) for name in found] for key in ("size", "stride"))
        ratios, scales = layers[found[0]].ratios, layers[found[0]].scales
    values: dict[str, Any] = {**HABITS}
    if "boxes" in layers:
        if np.any(layers["boxes"].mean):
            raise SpecError(
                f"keras-retinanet: wanted deltas without a mean, found RegressBoxes of {layers['boxes'].mean}"
            )
        values["delta_weights"] = tuple(round(1 / float(value), 6) for value in layers["boxes"].std)
    if "filtered_detections" in layers:
        chosen = layers["filtered_detections"]
        values |= {
            "score_threshold": float(chosen.score_threshold),
            "nms_iou": float(chosen.nms_threshold) if chosen.nms else 1.0,
            "max_detections": int(chosen.max_detections),
            "class_choice": "every" if chosen.class_specific_filter else "best",
            "class_aware_nms": bool(chosen.class_specific_filter),
        }
    mean, std = _preprocessing(backbone_of(backbone).preprocess_image)
    return DetectorSpec(
        family="keras_retinanet",
        labels=tuple(labels) if labels is not None else names_for(classes),
        input_size=(int(size[0]), int(size[1])),
        color_order="bgr",
        mean=mean,
        std=std,
        pad_value=mean,
        strides=tuple((int(stride), int(stride)) for stride in strides),
        level_shapes=tuple(level_shapes),
        cell_anchors=anchors_of(sizes, strides, map(float, ratios), map(float, scales)),
        **values,
    )


def _preprocessing(prepare: Any) -> tuple[Channels, Channels]:
    """Mean and std of a backbone's preprocess_image, by what it makes of black, white and another colour."""
    colours = np.array([[0, 0, 0], [_PIXEL, _PIXEL, _PIXEL], [10, 20, 40]], np.float32)
    black, white, other = (np.asarray(prepare(c.reshape(1, 1, 3)), np.float64).reshape(3) for c in colours)
    std = _PIXEL / (white - black)
    mean = -black * std
    if not np.allclose((colours[2] - mean) / std, other, atol=1e-4):
        raise SpecError("keras-retinanet: wanted preprocess_image to be (x - mean) / std per channel, found another")
    (m1, m2, m3), (s1, s2, s3) = ([round(float(value), 4) for value in values] for values in (mean, std))
    return (m1, m2, m3), (s1, s2, s3)
