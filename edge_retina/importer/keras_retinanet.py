"""keras-retinanet (fizyr), exported by tf2onnx: training models (raw rows) and inference models (boxes and NMS)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose
from edge_retina.importer.heads import static_copy
from edge_retina.importer.imported import Imported
from edge_retina.importer.keras_heads import NhwcHead, image_size, imported, level_sizes, nhwc_heads
from edge_retina.importer.keras_retinanet_whole import anchor_tables, postprocessing
from edge_retina.importer.labels import names_for
from edge_retina.spec import METADATA_KEY, cell_anchors

__all__ = ["HABITS", "anchors_of", "heads_of", "recognise"]

# utils/anchors.py, AnchorParameters.default.
_SIZES, _STRIDES, _RATIOS = (32, 64, 128, 256, 512), (8, 16, 32, 64, 128), (0.5, 1.0, 2.0)
_SCALES = tuple(float(np.float32(2 ** (octave / 3))) for octave in range(3))
# layers/filter_detections.py and layers/_misc.py (RegressBoxes: std 0.2); there is no top-k: 5000 is ours.
HABITS: dict[str, Any] = {
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "half_up",
    "placement": "top_left",
    "box_coding": "corner",
    "delta_weights": (5.0, 5.0, 5.0, 5.0),
    "clip": "pixels",
    "score_threshold": 0.05,
    "class_choice": "every",
    "top_k": 5000,
    "top_k_scope": "all",
    "nms_iou": 0.5,
    "class_aware_nms": True,
    "max_detections": 300,
}
# utils/image.py, preprocess_image, on BGR pixels; images of a batch are padded with zeros after that.
_MODES = {"caffe": ((103.939, 116.779, 123.68), (1.0, 1.0, 1.0)), "tf": ((127.5,) * 3, (127.5,) * 3)}
# A DenseNet joins maps in every block; no other backbone here has joins but those of heads and boxes.
_MANY_JOINS = 20

Cell = tuple[tuple[float, float, float, float], ...]


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of a keras-retinanet model; None when it is not one.

    An NHWC input; rows of deltas, and rows of scores after a Sigmoid on every level, each from one convolution shared
    by the levels, made NHWC, reshaped and joined. Logits are taken from before the Sigmoid. An inference model also
    tells anchors, delta weights and thresholds. `graph` is not changed. Raises SpecError when the image size is open,
    or the anchors or the preprocessing cannot be known.
    """
    size = image_size(graph)
    if METADATA_KEY in metadata or size is None:
        return None
    single = graph.copy()
    single.inputs[0].shape = [1, *single.inputs[0].shape[1:]]  # anchors are repeated over the batch; one folds away
    static = static_copy(single)
    pair = heads_of(static)
    if pair is None:
        return None
    cls, box = pair
    shapes = level_sizes("keras-retinanet", size, (cls, box))
    read = {"input_size": size, "level_shapes": shapes, **postprocessing(static), **anchor_tables(box, shapes)}
    if "cell_anchors" not in read and (len(shapes), box.anchors) != (len(_SIZES), len(_RATIOS) * len(_SCALES)):
        raise SpecError(
            f"keras-retinanet: wanted its default of 9 anchors per cell on 5 levels, found {box.anchors} on "
            f"{len(shapes)}; a training model does not hold others; convert_model makes an inference model of it"
        )
    mean, std = _MODES[_mode(static, len(shapes))]
    values = {
        "labels": names_for(cls.channels),
        "color_order": "bgr",
        "mean": mean,
        "std": std,
        "pad_value": mean,
        "strides": tuple((stride, stride) for stride in _STRIDES[: len(shapes)]),
        "cell_anchors": anchors_of(_SIZES, _STRIDES, _RATIOS, _SCALES),
        **HABITS,
    }
    return imported(graph, compose("keras_retinanet", values, read), cls, box)


def heads_of(static: gs.Graph) -> tuple[NhwcHead, NhwcHead] | None:
    """The class and the box head of a folded copy; None unless it has one of either."""
    heads = nhwc_heads(static)
    scores, boxes = ([head for head in heads if head.scored is scored] for scored in (True, False))
    if len(scores) != 1 or len(boxes) != 1 or boxes[0].channels != 4 or scores[0].anchors != boxes[0].anchors:
        return None
    return scores[0], boxes[0]


def anchors_of(
    sizes: Iterable[float], strides: Iterable[int], ratios: Iterable[float], scales: Iterable[float]
) -> tuple[Cell, ...]:
    """cell_anchors of keras-retinanet's AnchorParameters: about the middle of the cell, ratio outer, scale inner."""
    ratios, scales = tuple(ratios), tuple(scales)
    cells = []
    for size, stride in zip(sizes, strides, strict=True):
        cell = cell_anchors([size * scale for scale in scales], ratios)
        half = stride / 2
        cells.append(tuple((x1 + half, y1 + half, x2 + half, y2 + half) for x1, y1, x2, y2 in cell))
    return tuple(cells)


def _mode(static: gs.Graph, levels: int) -> str:
    """Which preprocessing the backbone was trained with: models/resnet.py, vgg.py; mobilenet.py, densenet.py."""
    ops = [node.op for node in static.nodes]
    if ops.count("Sigmoid") > levels or "HardSigmoid" in ops:
        raise SpecError(
            "keras-retinanet: the preprocessing of squeeze-and-excitation backbones (SENet, EfficientNet) is not in "
            "the graph; export with edge_retina.importer.export_keras_retinanet, which knows it by the backbone's name"
        )
    grouped = any(node.op == "Conv" and node.attrs.get("group", 1) > 1 for node in static.nodes)
    return "tf" if grouped or ops.count("Concat") > _MANY_JOINS else "caffe"
