"""torchvision's RetinaNet (and what is built on it): raw heads, or whole with transform and post-processing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import RowHead, constant, reaches, row_heads, static_copy, static_shape, stem
from edge_retina.importer.imported import Imported
from edge_retina.importer.labels import names_for
from edge_retina.importer.torchvision_whole import anchor_grid, normalisation, postprocessing, resize_rule
from edge_retina.spec import METADATA_KEY, DetectorSpec, cell_anchors

__all__ = ["recognise"]

# torchvision models/detection/retinanet.py: _default_anchorgen and the defaults of RetinaNet.
_SIZES = tuple(tuple(int(size * 2 ** (octave / 3)) for octave in range(3)) for size in (32, 64, 128, 256, 512))
_CELLS = tuple(cell_anchors(sizes, (0.5, 1.0, 2.0), rounded=True) for sizes in _SIZES)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHORTEST_SIDE = (800, 1333)
_MAX_DETECTIONS = 300
_PIXEL = 255.0


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of a torchvision RetinaNet, exported raw or whole; None when it is not one.

    Raw: backbone and head, normalised batch in, rows of logits and deltas out. Whole: CHW image in, detections
    out; anchors, thresholds, normalisation and resize rule are then read off the graph. `graph` is not changed.
    Raises SpecError when it is one whose input size or anchors cannot be known.
    """
    if METADATA_KEY in metadata:
        return None  # a spec of its own says more than the family's habits
    pair = _cls_and_box(row_heads(graph))
    if pair is None:
        return None
    cls, box = pair
    first = stem(cls.convs[0].inputs[0])
    if first is None:
        raise SpecError("torchvision RetinaNet: wanted a backbone whose first Conv takes 3 channels, found none")
    static = static_copy(graph)
    tensors = static.tensors()
    trunk = tensors[first.inputs[0].name]
    size, *levels = [_height_and_width(tensors[name]) for name in (trunk.name, *cls.outputs, *box.outputs)]
    shapes = tuple(levels[: len(cls.convs)])
    if shapes != tuple(levels[len(cls.convs) :]):
        raise SpecError(f"torchvision RetinaNet: the levels of the class and box heads differ in size: {levels}")
    read: dict[str, Any] = {"input_size": size, "level_shapes": shapes}
    read |= normalisation(trunk) | resize_rule(graph, trunk, size) | postprocessing(static)
    read |= anchor_grid(static, size, shapes, cls.anchors)
    if "cell_anchors" not in read and (len(shapes), cls.anchors) != (len(_CELLS), len(_CELLS[0])):
        raise SpecError(
            f"torchvision RetinaNet: {cls.anchors} anchors per cell on {len(shapes)} levels are not torchvision's own "
            f"({len(_CELLS[0])} on {len(_CELLS)}), and a raw export does not hold them; export the whole model instead"
        )
    values = _family_values(size, shapes, cls) | read
    values["pad_value"] = values["mean"]  # zeros, padded after normalising
    origins = {name: "graph" if name in read else "family" for name in values} | {"family": "graph"}
    origins["pad_value"] = origins["mean"]
    spec = DetectorSpec(family="torchvision", **values, origins=origins)
    return Imported(spec, trunk.name, cls.outputs, box.outputs)


def _cls_and_box(heads: list[RowHead]) -> tuple[RowHead, RowHead] | None:
    """The two subnets, classification first; None unless they are RetinaNet's.

    FCOS has a third head; an RPN's two are 1 x 1 and hang on one tower.
    """
    if len(heads) != 2 or not any(head.channels == 4 for head in heads):
        return None
    if any(head.weight.shape[2:] != (3, 3) for head in heads):
        return None
    one, other = heads
    box = other if one.channels != 4 or _is_scores(one, other) else one
    cls = one if box is other else other
    alike = len(cls.convs) == len(box.convs) and cls.anchors == box.anchors
    apart = all(c.inputs[0] is not b.inputs[0] for c, b in zip(cls.convs, box.convs, strict=False))
    return (cls, box) if alike and apart else None


def _is_scores(one: RowHead, other: RowHead) -> bool:
    """With K = 4 both heads have 4 channels: the scores go through Sigmoid or, raw, have the lower bias."""
    if other.channels != 4:
        return False
    through = [reaches(head.rows, "Sigmoid") for head in (one, other)]
    if through[0] != through[1]:
        return through[0]
    bias = [constant(tensor) for head in (one, other) for tensor in head.convs[0].inputs[2:]]
    if len(bias) != 2 or bias[0] is None or bias[1] is None:
        raise SpecError("torchvision RetinaNet: 4 classes, and nothing tells the class head from the box head")
    # Focal loss starts class biases at -log(99) and leaves them negative; box biases stay about 0.
    return bool(bias[0].mean() < bias[1].mean())


def _height_and_width(tensor: gs.Tensor) -> tuple[int, int]:
    shape = static_shape(tensor)
    if shape is None or len(shape) != 4:
        raise SpecError(
            f"torchvision RetinaNet: tensor {tensor.name!r} has shape {tensor.shape}, wanted [B, C, H, W] with a known "
            "height and width, for strides and anchors follow from them; export with a fixed image size (no dynamic "
            "height or width), or set the size of the model's input first"
        )
    return shape[2], shape[3]


def _family_values(size: tuple[int, int], shapes: tuple[tuple[int, int], ...], cls: RowHead) -> dict[str, Any]:
    """What torchvision does where the graph does not say."""
    values: dict[str, Any] = {
        "labels": names_for(cls.channels),
        "color_order": "rgb",
        "mean": tuple(round(value * _PIXEL, 6) for value in _MEAN),
        "std": tuple(round(value * _PIXEL, 6) for value in _STD),
        "resize": "shortest_side",
        "shortest_side": _SHORTEST_SIDE,
        "rounding": "floor",
        "placement": "top_left",
        # models/detection/anchor_utils.py: image size // grid size, so 58 where a level is 6 cells wide on 352.
        "strides": tuple((size[0] // height, size[1] // width) for height, width in shapes),
        "cell_anchors": _CELLS,
        "max_detections": _MAX_DETECTIONS,
    }
    defaults = ("delta_weights", "max_log_scale", "score_threshold", "top_k", "nms_iou", "class_aware_nms")
    values |= {name: DetectorSpec.__dataclass_fields__[name].default for name in defaults}
    return values
