"""MMDetection's RetinaNet: head maps per level out, normalised batch in.

What the graph cannot say is the habit of mmdet's retinanet configs; a backbone of style "caffe" shows in the graph and
brings BGR and its own mean with it. Coder deviations other than 1, as FreeAnchor has them, do not show: export such a
model with edge_retina.importer.exporters.mmdet. The lower clamp of dw, dh, log(16 / 1000), is left out: it concerns
boxes 62 times smaller than their anchor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose, height_and_width
from edge_retina.importer.heads import constant, static_copy, stem
from edge_retina.importer.imported import Imported
from edge_retina.importer.labels import names_for
from edge_retina.importer.mmdet_heads import is_caffe, subnets
from edge_retina.importer.normalisation import colour_order, normalisation
from edge_retina.spec import MAX_LOG_SCALE, METADATA_KEY, cell_anchors

__all__ = ["HABITS", "recognise"]

# configs/_base_: models/retinanet_r50_fpn.py and datasets/coco_detection.py.
HABITS: Mapping[str, Any] = {
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "half_up",
    "placement": "top_left",
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": MAX_LOG_SCALE,
    "clip": "content",
    "drop_empty": True,
    "score_threshold": 0.05,
    "top_k": 1000,
    "nms_iou": 0.5,
    "class_aware_nms": True,
    "max_detections": 100,
}
_PYTORCH = {"color_order": "rgb", "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_CAFFE = {"color_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)}
_RATIOS, _OCTAVE_BASE_SCALE, _OCTAVES = (0.5, 1.0, 2.0), 4.0, 3
_ANCHORS = len(_RATIOS) * _OCTAVES
_NAME = "MMDetection RetinaNet"

Size = tuple[int, int]


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of an MMDetection RetinaNet; None when it is not one. `graph` is not changed.

    What marks it stands at mmdet_heads.subnets. Raises SpecError when it is one whose input size or anchors cannot be
    known.
    """
    if METADATA_KEY in metadata:
        return None  # a spec of its own says more than the family's habits
    heads = subnets(graph)
    if heads is None:
        return None
    cls, box = heads
    widths = [len(weight) for head in heads if (weight := constant(head[0].inputs[1])) is not None]
    if len(widths) != 2 or widths[1] != 4 * _ANCHORS or widths[0] % _ANCHORS:
        raise SpecError(
            f"{_NAME}: wanted {_ANCHORS} anchors per cell, {4 * _ANCHORS} box channels, found {widths}. "
            "Other anchors are not in the graph: export with edge_retina.importer.exporters.mmdet"
        )
    static = static_copy(graph)
    tensors = static.tensors()
    first = stem(tensors[cls[0].outputs[0].name])
    if first is None:
        raise SpecError(f"{_NAME}: wanted a backbone whose first Conv takes 3 channels, found none")
    trunk = first.inputs[0]
    names = [tuple(conv.outputs[0].name for conv in head) for head in (cls, box)]
    size = height_and_width(_NAME, trunk)
    shapes, box_shapes = (tuple(height_and_width(_NAME, tensors[name]) for name in head) for head in names)
    if shapes != box_shapes:
        raise SpecError(f"{_NAME}: the levels of class and box heads differ: {shapes}, {box_shapes}")
    read: dict[str, Any] = {"input_size": size, "level_shapes": shapes, **normalisation(trunk)}
    if "mean" in read:
        read |= colour_order(read["mean"])
    strides = _strides(size, shapes)
    values: dict[str, Any] = {**HABITS, **(_CAFFE if is_caffe(graph) else _PYTORCH), "strides": strides, **read}
    values["cell_anchors"] = tuple(
        cell_anchors([y * _OCTAVE_BASE_SCALE * 2 ** (i / _OCTAVES) for i in range(_OCTAVES)], _RATIOS)
        for y, _ in strides
    )
    classes = widths[0] // _ANCHORS
    values["labels"] = names_for(classes)
    return Imported(compose("mmdet", values, read), trunk.name, names[0], names[1])


def _strides(size: Size, shapes: tuple[Size, ...]) -> tuple[Size, ...]:
    """Powers of two, each level's twice the last one's; anchors follow from them, whatever the input size."""
    fine = 2 ** round(math.log2(size[0] / shapes[0][0]))
    strides = tuple((fine * 2**level,) * 2 for level in range(len(shapes)))
    wanted = tuple((math.ceil(size[0] / y), math.ceil(size[1] / x)) for y, x in strides)
    if wanted != shapes:
        raise SpecError(
            f"{_NAME}: wanted levels of {wanted} cells on {size[0]}x{size[1]}, strides {fine} and up, "
            f"found {shapes}; export with edge_retina.importer.exporters.mmdet, which writes the model's own strides"
        )
    return strides
