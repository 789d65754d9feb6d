"""EfficientDet as effdet (rwightman/efficientdet-pytorch) exports it: a BiFPN, and two heads shared by the levels.

What the graph cannot say is effdet's habit: hard NMS (its soft-NMS option is not supported), ImageNet mean and
deviation (the AdvProp "_ap" models want 127.5), anchors of aspects (1, 1), (1.4, 0.7), (0.7, 1.4). Boxes are clipped
to the picture before NMS, as validate.py has the bench do; a bench called without `img_info` does not clip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose, height_and_width
from edge_retina.importer.effdet_heads import subnets
from edge_retina.importer.effdet_models import ANCHORS, by_model
from edge_retina.importer.heads import source, static_copy, stem
from edge_retina.importer.imported import HeadLayout, Imported
from edge_retina.importer.labels import COCO_91, names_for
from edge_retina.importer.normalisation import normalisation
from edge_retina.spec import METADATA_KEY

__all__ = ["HABITS", "LAYOUT", "class_names", "pad_value_for", "recognise"]

LAYOUT = HeadLayout(delta_order=(1, 0, 3, 2))  # ty tx th tw
# anchors.py and bench.py: what every effdet model does.
HABITS: Mapping[str, Any] = {
    "color_order": "rgb",
    "resize": "letterbox",
    "rounding": "floor",
    "placement": "top_left",
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": 80.0,  # none
    "clip": "content",
    "score_threshold": 0.0,  # none
    "top_k": 5000,
    "top_k_scope": "all",
    "nms_iou": 0.5,
    "class_aware_nms": True,
    "max_detections": 100,
}

Size = tuple[int, int]


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of an EfficientDet; None when it is not one. `graph` is not changed.

    Its mark is the BiFPN, whose nodes stack their inputs and sum over the stack, before two subnets whose last Conv
    is shared by the levels. Raises SpecError when it is one whose input size or anchors cannot be known.
    """
    if METADATA_KEY in metadata:
        return None  # a spec of its own says more than the family's habits
    heads = subnets(graph, ANCHORS)
    if heads is None:
        return None
    static = static_copy(graph)
    tensors = static.tensors()
    first = stem(tensors[heads.cls[0].outputs[0].name])
    if first is None:
        raise SpecError("effdet: wanted a backbone whose first Conv takes 3 channels, found none")
    trunk = first.inputs[0]
    while (before := source(trunk)) is not None and before.op == "Pad":  # "same" padding, as TensorFlow's
        trunk = before.inputs[0]
    size = height_and_width("effdet", trunk)
    logits, deltas = (_fine_to_coarse(tensors, head) for head in (heads.cls, heads.box))
    if list(logits.values()) != list(deltas.values()):
        raise SpecError(f"effdet: the levels of the class and box heads differ in size: {logits}, {deltas}")
    shapes = tuple(logits.values())
    read: dict[str, Any] = {"input_size": size, "level_shapes": shapes, **normalisation(trunk)}
    values: dict[str, Any] = {**HABITS, **by_model(static, heads.fusion, size, shapes), **read}
    values["labels"] = class_names(heads.classes)
    (read if "mean" in read else values)["pad_value"] = pad_value_for(values["mean"])
    return Imported(compose("effdet", values, read), trunk.name, tuple(logits), tuple(deltas), LAYOUT)


def class_names(classes: int) -> tuple[str, ...]:
    """COCO's for its 90 classes, of which effdet's label 1 is the first; else class_0, class_1, ..."""
    return COCO_91[1:] if classes == len(COCO_91) - 1 else names_for(classes)


def pad_value_for(mean: Sequence[float]) -> tuple[float, ...]:
    """The mean colour in whole pixels. Source: effdet data/transforms.py, resolve_fill_color."""
    return tuple(float(round(value)) for value in mean)


def _fine_to_coarse(tensors: Mapping[str, gs.Tensor], head: Sequence[gs.Node]) -> dict[str, Size]:
    """Names and sizes of a head's outputs."""
    sizes = {name: height_and_width("effdet", tensors[name]) for name in (conv.outputs[0].name for conv in head)}
    return dict(sorted(sizes.items(), key=lambda item: -math.prod(item[1])))
