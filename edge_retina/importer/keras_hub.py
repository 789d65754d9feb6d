"""Keras-Hub's RetinaNetObjectDetector, exported by Keras on torch (either exporter) or TensorFlow: raw heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose
from edge_retina.importer.heads import static_copy
from edge_retina.importer.imported import Imported
from edge_retina.importer.keras_heads import NhwcHead, image_size, imported, level_sizes, nhwc_heads
from edge_retina.importer.labels import names_for
from edge_retina.spec import METADATA_KEY, cell_anchors

__all__ = ["HABITS", "MEAN", "STD", "cells_of", "heads_of", "recognise", "strides_of"]

# keras_hub layers/modeling/anchor_generator.py with the defaults of RetinaNetObjectDetector.
_SCALES, _RATIOS, _ANCHOR_SIZE = 3, (0.5, 1.0, 2.0), 4
# Of the converter of its presets: tools/checkpoint_conversion/convert_retinanet_checkpoints.py.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# What Keras-Hub does to boxes; layers/modeling/non_max_supression.py. Neither clamp nor clip nor top-k: 5000 is ours.
HABITS: dict[str, Any] = {
    "pad_value": (0.0, 0.0, 0.0),
    "resize": "letterbox",
    "placement": "center",
    "box_coding": "center",
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": 80.0,
    "clip": "none",
    "score_threshold": 0.5,
    "class_choice": "best",
    "top_k": 5000,
    "top_k_scope": "all",
    "nms_iou": 0.5,
    "class_aware_nms": False,
    "max_detections": 100,
}
# KerasCV's RetinaNet, which looks alike and codes boxes otherwise, calls its outputs so.
_OTHERS = {"box", "classification"}


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of a Keras-Hub RetinaNet; None when it is not one.

    An NHWC input; rows of deltas and of logits, in this order, each from one convolution shared by the levels, its
    output made NHWC, reshaped and joined. The graph holds sizes only; the rest is the family's habit. `graph` is not
    changed. Raises SpecError when the image size is open or the anchors are not Keras-Hub's own.
    """
    size = image_size(graph)
    if METADATA_KEY in metadata or size is None or _OTHERS & {tensor.name for tensor in graph.outputs}:
        return None
    pair = heads_of(static_copy(graph))
    if pair is None:
        return None
    cls, box = pair
    shapes = level_sizes("Keras-Hub RetinaNet", size, (cls, box))
    finest = round(math.log2(size[0] / shapes[0][0]))
    if any(shape != _ceil_divided(size, 2 ** (finest + level)) for level, shape in enumerate(shapes)):
        return None
    if cls.anchors != _SCALES * len(_RATIOS):
        raise SpecError(
            f"Keras-Hub RetinaNet: wanted its {_SCALES * len(_RATIOS)} anchors per cell, found {cls.anchors}, and the "
            "graph does not hold them; export with edge_retina.importer.exporters.keras_hub, or give them with --spec"
        )
    values: dict[str, Any] = {
        "labels": names_for(cls.channels),
        "color_order": "rgb",
        "mean": MEAN,
        "std": STD,
        "strides": strides_of(size, shapes),
        "cell_anchors": cells_of(range(finest, finest + len(shapes)), _SCALES, _RATIOS, _ANCHOR_SIZE),
        **HABITS,
    }
    read = {"input_size": size, "level_shapes": shapes}
    return imported(graph, compose("keras_hub", values, read), cls, box)


def heads_of(static: gs.Graph) -> tuple[NhwcHead, NhwcHead] | None:
    """The class and the box head of a folded copy whose two outputs are their rows; None where they are not."""
    outputs = [tensor.name for tensor in static.outputs]
    heads = [head for head in nhwc_heads(static) if head.rows.name in outputs and not head.scored]
    if len(heads) != 2 or len(outputs) != 2 or heads[0].anchors != heads[1].anchors:
        return None
    # Keras orders outputs by their keys, bbox_regression before cls_logits; channels tell where someone did not.
    heads.sort(key=lambda head: (head.channels != 4, outputs.index(head.rows.name)))
    box, cls = heads
    return (cls, box) if box.channels == 4 else None


def strides_of(size: tuple[int, int], shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """anchor_generator.py: image size // grid size, so 53 where a level is 3 cells high on 160."""
    return tuple((size[0] // height, size[1] // width) for height, width in shapes)


def cells_of(
    levels: Iterable[int], scales: int, ratios: Sequence[float], anchor_size: float
) -> tuple[tuple[tuple[float, float, float, float], ...], ...]:
    """cell_anchors of an AnchorGenerator: sizes cut to integers, corners rounded."""
    sizes = [[int(2**level * anchor_size * 2 ** (scale / scales)) for scale in range(scales)] for level in levels]
    return tuple(cell_anchors(level, ratios, rounded=True) for level in sizes)


def _ceil_divided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)
