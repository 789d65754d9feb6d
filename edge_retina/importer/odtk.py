"""NVIDIA's ODTK (retinanet-examples): five score tensors after the sigmoid and five box tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose, height_and_width
from edge_retina.importer.heads import constant, source, static_copy, stem
from edge_retina.importer.imported import Imported
from edge_retina.importer.labels import names_for
from edge_retina.spec import METADATA_KEY, Box, DetectorSpec

__all__ = ["HABITS", "cell_anchors", "recognise"]

# odtk/model.py: output_names of Model.export, and the defaults of Model.
_SCORES, _BOXES = (tuple(f"{kind}_{level}" for level in range(1, 6)) for kind in ("score", "box"))
_RATIOS = (1.0, 2.0, 0.5)
_SCALES = tuple(4 * 2 ** (octave / 3) for octave in range(3))
_STRIDES = (8, 16, 32, 64, 128)
# odtk/data.py, pixels 0..1; odtk/main.py, --resize and --max-size.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PIXEL = 255.0
HABITS: dict[str, Any] = {
    "color_order": "rgb",
    "mean": tuple(round(value * _PIXEL, 6) for value in _MEAN),
    "std": tuple(round(value * _PIXEL, 6) for value in _STD),
    "pad_value": tuple(round(value * _PIXEL, 6) for value in _MEAN),  # zeros, padded after normalising
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "floor",
    "placement": "top_left",
    "max_log_scale": 80.0,
    # odtk/box.py, delta2box: x2 and y2 are the last pixel; boxes end at the padded input's.
    "inclusive_pixels": True,
    "clip": "input",
}
_SIZE_ADVICE = "export with: odtk export model.pth model.onnx --size H W"
_DEFAULTS = ("delta_weights", "score_threshold", "top_k", "nms_iou", "class_aware_nms", "max_detections")


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of what `odtk export model.pth model.onnx` writes; None when it is not that.

    The logits are taken before their Sigmoid. Anchors, normalisation and post-processing are ODTK's own, for the
    graph does not hold them. `graph` is not changed. Raises SpecError for rotated boxes, other anchors, and an input
    that is not a multiple of 128.
    """
    if METADATA_KEY in metadata:
        return None  # a spec of its own says more than the family's habits
    outputs = {tensor.name: tensor for tensor in graph.outputs}
    if set(outputs) != {*_SCORES, *_BOXES}:
        return None
    sigmoids = [source(outputs[name]) for name in _SCORES]
    convs = [source(node.inputs[0]) for node in sigmoids if node is not None and node.op == "Sigmoid"]
    convs += [source(outputs[name]) for name in _BOXES]
    first = stem(outputs[_BOXES[0]])
    heads = [node for node in convs if node is not None and node.op == "Conv"]
    if first is None or len(heads) != len(outputs):
        return None
    logits, deltas = heads[: len(_SCORES)], heads[len(_SCORES) :]
    classes = _classes(*(_channels(node) for node in (logits[0], deltas[0])))
    tensors = static_copy(graph).tensors()
    size, *levels = (height_and_width("ODTK", tensors[name], _SIZE_ADVICE) for name in (first.inputs[0].name, *_BOXES))
    shapes = tuple(levels)
    if shapes != tuple((size[0] // stride, size[1] // stride) for stride in _STRIDES) or any(
        side % _STRIDES[-1] for side in size
    ):
        raise SpecError(
            f"ODTK: wanted an input that is a multiple of {_STRIDES[-1]} high and wide, as ODTK pads every image, "
            f"found {size[0]}x{size[1]} with levels {list(shapes)}; export with: odtk export model.pth model.onnx "
            f"--size {_round_up(size[0])} {_round_up(size[1])}"
        )
    read = {"input_size": size, "level_shapes": shapes}
    values = HABITS | {name: DetectorSpec.__dataclass_fields__[name].default for name in _DEFAULTS}
    values |= {
        "labels": names_for(classes),
        "strides": tuple((stride, stride) for stride in _STRIDES),
        "cell_anchors": tuple(cell_anchors(stride) for stride in _STRIDES),
    }
    spec = compose("odtk", values, read)
    names = [tuple(node.outputs[0].name for node in nodes) for nodes in (logits, deltas)]
    return Imported(spec, first.inputs[0].name, names[0], names[1])


def cell_anchors(
    stride: int, ratios: tuple[float, ...] = _RATIOS, scales: tuple[float, ...] = _SCALES
) -> tuple[Box, ...]:
    """Anchors of one cell about its origin, scale outer, ratio inner, centred on the cell; network-input pixels.

    ratios: height / width. scales: in strides. Source: odtk/box.py, generate_anchors.

    >>> cell_anchors(8, (1.0,), (4.0,))
    ((-12.0, -12.0, 20.0, 20.0),)
    """
    anchors: list[Box] = []
    for scale in scales:
        for ratio in ratios:
            width = stride / math.sqrt(ratio)
            half_w, half_h = width * scale / 2, width * ratio * scale / 2
            anchors.append((stride / 2 - half_w, stride / 2 - half_h, stride / 2 + half_w, stride / 2 + half_h))
    return tuple(anchors)


def _channels(conv: gs.Node) -> int:
    weight = constant(conv.inputs[1])
    if weight is None:
        raise SpecError(f"ODTK: the weight of {conv.name!r} is computed in the graph; simplify the model first")
    return len(weight)


def _classes(scores: int, boxes: int) -> int:
    """The number of classes, K, from A * K score channels and A * 4 box channels."""
    anchors = len(_RATIOS) * len(_SCALES)
    if boxes % 4 == 0 and boxes // 4 == anchors and scores % anchors == 0:
        return scores // anchors
    if boxes % (6 * anchors) == 0:
        raise SpecError(
            f"ODTK: {boxes} box channels are rotated boxes (six values each), which are not supported; train without "
            "--rotated-bbox"
        )
    raise SpecError(
        f"ODTK: wanted the {anchors} anchors per cell of ODTK's defaults, found {boxes} box and {scores} score "
        "channels, and the export does not hold its anchors; export with "
        "edge_retina.importer.exporters.odtk.export_odtk(model, path, size)"
    )


def _round_up(side: int) -> int:
    return -(-side // _STRIDES[-1]) * _STRIDES[-1]
