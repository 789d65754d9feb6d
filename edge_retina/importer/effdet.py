"""EfficientDet as effdet (rwightman/efficientdet-pytorch) exports it: a BiFPN, and two heads shared by the levels.

What the graph cannot say is effdet's habit: hard NMS (its soft-NMS option is not supported), ImageNet mean and
deviation (the AdvProp "_ap" models want 127.5), anchors of aspects (1, 1), (1.4, 0.7), (0.7, 1.4). Boxes are clipped
to the picture before NMS, as validate.py has the bench do; a bench called without `img_info` does not clip.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose, height_and_width
from edge_retina.importer.heads import constant, source, static_copy, static_shape, stem
from edge_retina.importer.imported import HeadLayout, Imported
from edge_retina.importer.labels import COCO_91, names_for
from edge_retina.importer.normalisation import normalisation
from edge_retina.spec import METADATA_KEY

__all__ = ["HABITS", "LAYOUT", "cell_of", "pad_value_for", "recognise"]

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
# config/model_config.py: default_detection_model_configs, and the models that differ from it.
_ASPECTS: Sequence[tuple[float, float]] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # width, height
_V2_ASPECTS = tuple((math.sqrt(ratio), 1 / math.sqrt(ratio)) for ratio in (1.0, 2.0, 0.5))
_SCALES = 3
_ANCHORS = _SCALES * len(_ASPECTS)
_ANCHOR_SCALE, _LITE_ANCHOR_SCALE, _D7_ANCHOR_SCALE = 4.0, 3.0, 5.0
_LITE_OF_USUAL_SCALE = (160, 224)  # BiFPN channels of lite3 and lite4
_D7 = (384, 5, (1536, 1536))  # BiFPN channels, levels, (H, W); D6 is 1280 wide, D7x has six levels
_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_LITE = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}
_LEAST_LEVELS = 3

Size = tuple[int, int]
Weight = npt.NDArray[Any]


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of an EfficientDet; None when it is not one. `graph` is not changed.

    Its mark is the BiFPN, whose nodes stack their inputs and sum over the stack, before two subnets whose last Conv
    is shared by the levels. Raises SpecError when it is one whose input size or anchors cannot be known.
    """
    if METADATA_KEY in metadata:
        return None  # a spec of its own says more than the family's habits
    stacks = [stack for node in graph.nodes if node.op == "ReduceSum" and (stack := _stack(node))]
    heads = _shared_last_convs(graph) if len(stacks) >= _LEAST_LEVELS else []
    if len(heads) != 2 or len(heads[0]) != len(heads[1]):
        return None
    static = static_copy(graph)
    tensors = static.tensors()
    (cls, box), classes = _class_and_box(heads)
    first = stem(tensors[cls[0].outputs[0].name])
    if first is None:
        raise SpecError("effdet: wanted a backbone whose first Conv takes 3 channels, found none")
    trunk = first.inputs[0]
    while (before := source(trunk)) is not None and before.op == "Pad":  # "same" padding, as TensorFlow's
        trunk = before.inputs[0]
    size = height_and_width("effdet", trunk)
    logits, deltas = (_fine_to_coarse(tensors, head) for head in (cls, box))
    if list(logits.values()) != list(deltas.values()):
        raise SpecError(f"effdet: the levels of the class and box heads differ in size: {logits}, {deltas}")
    shapes = tuple(logits.values())
    read: dict[str, Any] = {"input_size": size, "level_shapes": shapes, **normalisation(trunk)}
    values: dict[str, Any] = {**HABITS, **_by_model(static, stacks[0], size, shapes), **read}
    values["labels"] = COCO_91[1:] if classes == len(COCO_91) - 1 else names_for(classes)  # label 1 is class 0
    (read if "mean" in read else values)["pad_value"] = pad_value_for(values["mean"])
    return Imported(compose("effdet", values, read), trunk.name, tuple(logits), tuple(deltas), LAYOUT)


def cell_of(
    stride: tuple[float, float], anchor_scale: float, scales: int, aspects: Sequence[tuple[float, float]]
) -> tuple[tuple[float, float, float, float], ...]:
    """Anchors of one cell, x1 y1 x2 y2 about its origin, pixels: octave outer, aspect inner, about the cell's middle.

    stride: (y, x) pixels. aspects: (width, height) factors. Source: effdet anchors.py, Anchors._generate_boxes.
    """
    y, x = stride
    cell = []
    for octave in range(scales):
        for wide, high in aspects:
            size = anchor_scale * 2 ** (octave / scales)
            half_w, half_h = size * x * wide / 2, size * y * high / 2
            cell.append((x / 2 - half_w, y / 2 - half_h, x / 2 + half_w, y / 2 + half_h))
    return tuple(cell)


def pad_value_for(mean: Sequence[float]) -> tuple[float, ...]:
    """The mean colour in whole pixels. Source: effdet data/transforms.py, resolve_fill_color."""
    return tuple(float(round(value)) for value in mean)


def _stack(total: gs.Node) -> gs.Node | None:
    """The Concat(Unsqueeze, ...) of two or three tensors that a node sums over, weighted by softmax or not."""
    stack = source(total.inputs[0]) if total.inputs else None
    if stack is not None and stack.op == "Mul":
        stack = next((node for node in map(source, stack.inputs) if node is not None and node.op == "Concat"), None)
    if stack is None or stack.op != "Concat" or len(stack.inputs) not in (2, 3):
        return None
    rises = [node for node in map(source, stack.inputs) if node is not None and node.op == "Unsqueeze"]
    return stack if len(rises) == len(stack.inputs) else None


def _shared_last_convs(graph: gs.Graph) -> list[list[gs.Node]]:
    """The Convs after which no other comes before the outputs, grouped by their weight; groups of several only."""
    queue, seen = deque(graph.outputs), set()
    groups: list[tuple[Weight, list[gs.Node]]] = []
    while queue:
        for node in queue.popleft().inputs:
            if id(node) in seen:
                continue
            seen.add(id(node))
            weight = constant(node.inputs[1]) if node.op == "Conv" and len(node.inputs) > 1 else None
            if weight is None:
                queue.extend(node.inputs)
                continue
            group = next((convs for other, convs in groups if np.array_equal(other, weight)), None)
            if group is None:
                groups.append((weight, [node]))
            else:
                group.append(node)
    return [group for _, group in groups if len(group) >= _LEAST_LEVELS]


def _class_and_box(heads: list[list[gs.Node]]) -> tuple[list[list[gs.Node]], int]:
    """The heads, class head first, and the number of classes."""
    widths = [0 if (weight := constant(head[0].inputs[1])) is None else len(weight) for head in heads]
    if 4 * _ANCHORS not in widths or any(width % _ANCHORS for width in widths):
        raise SpecError(
            f"effdet: wanted {_ANCHORS} anchors per cell, {4 * _ANCHORS} box channels, found {widths}. "
            "Other anchors are not in the graph: export with edge_retina.importer.exporters.effdet"
        )
    # With four classes both heads are as wide; focal loss leaves the class biases lower than those of the boxes.
    order = sorted((0, 1), key=lambda i: (widths[i] == 4 * _ANCHORS, _mean_bias(heads[i][0])))
    return [heads[i] for i in order], widths[order[0]] // _ANCHORS


def _mean_bias(conv: gs.Node) -> float:
    """Of a Conv, 0 where it has none: exporters drop a bias of zeros."""
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return 0.0 if bias is None else float(bias.mean())


def _fine_to_coarse(tensors: Mapping[str, gs.Tensor], head: list[gs.Node]) -> dict[str, Size]:
    """Names and sizes of a head's outputs."""
    sizes = {name: height_and_width("effdet", tensors[name]) for name in (conv.outputs[0].name for conv in head)}
    return dict(sorted(sizes.items(), key=lambda item: -math.prod(item[1])))


def _by_model(static: gs.Graph, stack: gs.Node, size: Size, shapes: tuple[Size, ...]) -> dict[str, Any]:
    """What differs between effdet's models and shows in the graph in some other way."""
    if odd := [shape for shape in shapes if size[0] % shape[0] or size[1] % shape[1]]:
        raise SpecError(
            f"effdet: an input of {size[0]}x{size[1]} has a level of {odd[0][0]}x{odd[0][1]} cells, whose stride is no "
            "whole number of pixels; choose a height and width that every level divides, as multiples of 128 do"
        )
    strides = tuple((size[0] // h, size[1] // w) for h, w in shapes)
    ops = {node.op for node in static.nodes}
    channels = (static_shape(static.tensors()[stack.outputs[0].name]) or (0, 0))[1]
    risen = source(stack.inputs[0])
    divided = None if risen is None else source(risen.inputs[0])  # by the sum of the fusion's weights
    lite = (divided is None or divided.op != "Div") and "Clip" in ops and "Sigmoid" not in ops
    scale = _ANCHOR_SCALE
    if lite and channels not in _LITE_OF_USUAL_SCALE:
        scale = _LITE_ANCHOR_SCALE
    elif (channels, len(shapes), size) == _D7:
        scale = _D7_ANCHOR_SCALE
    linear = any(node.op == "Resize" and node.attrs.get("mode") == "linear" for node in static.nodes)
    aspects = _V2_ASPECTS if linear else _ASPECTS
    cells = tuple(cell_of(stride, scale, _SCALES, aspects) for stride in strides)
    return {"strides": strides, "cell_anchors": cells, **(_LITE if lite else _IMAGENET)}
