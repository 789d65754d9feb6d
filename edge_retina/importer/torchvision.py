"""torchvision's RetinaNet (and what is built on it): raw heads, or whole with transform and post-processing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose, height_and_width
from edge_retina.importer.heads import RowHead, row_heads, static_copy, stem
from edge_retina.importer.imported import Imported
from edge_retina.importer.labels import names_for
from edge_retina.importer.normalisation import normalisation
from edge_retina.importer.torchvision_kin import cls_and_box, trainer_of
from edge_retina.importer.torchvision_whole import anchor_grid, postprocessing, resize_rule
from edge_retina.spec import METADATA_KEY, DetectorSpec, cell_anchors

__all__ = ["NOTHING", "read", "recognise"]

NOTHING: Mapping[str, Any] = MappingProxyType({})

# torchvision models/detection/retinanet.py: _default_anchorgen and the defaults of RetinaNet.
_SIZES = tuple(tuple(int(size * 2 ** (octave / 3)) for octave in range(3)) for size in (32, 64, 128, 256, 512))
_CELLS = tuple(cell_anchors(sizes, (0.5, 1.0, 2.0), rounded=True) for sizes in _SIZES)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHORTEST_SIDE = (800, 1333)
_MAX_DETECTIONS = 300
_NAME = "torchvision RetinaNet"
_SIZE_DIVISIBLE = 32
_PIXEL = 255.0


def recognise(
    graph: gs.Graph, metadata: Mapping[str, str], given: Mapping[str, Any] = NOTHING, *, forced: bool = False
) -> Imported | None:
    """The heads and spec of a torchvision RetinaNet, exported raw or whole; None when it is not one.

    Raw: backbone and head, normalised batch in, rows of logits and deltas out. Whole: CHW image in, detections
    out; anchors, thresholds, normalisation and resize rule are then read off the graph. `graph` is not changed.
    given: spec fields that the user knows; cell_anchors are wanted where a raw export has other anchors than
    torchvision's own. forced: a graph of torchvision's kin (DeepForest, MLPerf) too.
    Raises SpecError when it is one whose input size or anchors cannot be known.
    """
    return read(graph, metadata, given, None if forced else "torchvision")


def read(
    graph: gs.Graph, metadata: Mapping[str, str], given: Mapping[str, Any], trainer: str | None
) -> Imported | None:
    """As recognise, for all that is built from torchvision's classes; trainer: only what trainer_of calls so."""
    if METADATA_KEY in metadata:
        return None  # a spec of its own says more than the family's habits
    pair = cls_and_box(row_heads(graph))
    if pair is None or (trainer is not None and trainer_of(graph, pair[0]) != trainer):
        return None
    cls, box = pair
    first = stem(cls.convs[0].inputs[0])
    if first is None:
        raise SpecError("torchvision RetinaNet: wanted a backbone whose first Conv takes 3 channels, found none")
    static = static_copy(graph)
    tensors = static.tensors()
    trunk = tensors[first.inputs[0].name]
    size, *levels = [height_and_width(_NAME, tensors[name]) for name in (trunk.name, *cls.outputs, *box.outputs)]
    shapes = tuple(levels[: len(cls.convs)])
    if shapes != tuple(levels[len(cls.convs) :]):
        raise SpecError(f"torchvision RetinaNet: the levels of the class and box heads differ in size: {levels}")
    fields: dict[str, Any] = {"input_size": size, "level_shapes": shapes}
    fields |= normalisation(trunk) | resize_rule(graph, trunk, size) | postprocessing(static)
    fields |= anchor_grid(static, size, shapes, cls.anchors)
    anchors: dict[str, Any] = {}
    if "cell_anchors" not in fields and (len(shapes), cls.anchors) != (len(_CELLS), len(_CELLS[0])):
        anchors["cell_anchors"] = _given_anchors(given, cls)
    spec = compose("torchvision", _family_values(size, shapes, cls), fields, anchors)
    if any(len(cell) != cls.anchors for cell in spec.cell_anchors):
        counts = [len(cell) for cell in spec.cell_anchors]
        raise SpecError(f"torchvision RetinaNet: the heads have {cls.anchors} anchors per cell, cell_anchors {counts}")
    return Imported(spec, trunk.name, cls.outputs, box.outputs)


def _given_anchors(given: Mapping[str, Any], cls: RowHead) -> Any:
    if "cell_anchors" in given:
        return given["cell_anchors"]
    raise SpecError(
        f"torchvision RetinaNet: {cls.anchors} anchors per cell on {len(cls.convs)} levels are not torchvision's own "
        f"({len(_CELLS[0])} on {len(_CELLS)}), and a raw export does not hold them; export the whole model or with "
        "export_torchvision, or give cell_anchors, per level x1 y1 x2 y2 of each anchor about its cell, with "
        '--spec spec.json: {"cell_anchors": [[[-16, -16, 16, 16], ...], ...]}'
    )


def _stride(side: int, cells: int) -> int:
    """Torchvision's stride of a level (models/detection/anchor_utils.py): image size // grid size of a padded image.

    Its transform pads to multiples of 32 pixels. A raw export of another size was trained with the strides of padded
    images all the same: 8 and not 540 // 68 = 7.

    >>> _stride(352, 6), _stride(540, 68)
    (58, 8)
    """
    if side % _SIZE_DIVISIBLE == 0:
        return side // cells
    step = 1 << math.ceil(math.log2(side / cells))
    padded = -(-side // _SIZE_DIVISIBLE) * _SIZE_DIVISIBLE
    return padded // -(-padded // step)


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
        "strides": tuple((_stride(size[0], height), _stride(size[1], width)) for height, width in shapes),
        "cell_anchors": _CELLS,
        "max_detections": _MAX_DETECTIONS,
    }
    defaults = ("delta_weights", "max_log_scale", "score_threshold", "top_k", "nms_iou", "class_aware_nms")
    values |= {name: DetectorSpec.__dataclass_fields__[name].default for name in defaults}
    return values
