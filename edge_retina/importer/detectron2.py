"""detectron2's RetinaNet: normalisation, backbone and head, or the whole model as its export script traces it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.compose import compose, height_and_width
from edge_retina.importer.detectron2_heads import Subnets, subnets
from edge_retina.importer.detectron2_whole import anchor_tables, postprocessing
from edge_retina.importer.heads import affine_before, static_copy, stem
from edge_retina.importer.imported import Imported
from edge_retina.importer.labels import names_for
from edge_retina.importer.normalisation import colour_order, normalisation
from edge_retina.spec import METADATA_KEY, Box, DetectorSpec

__all__ = ["HABITS", "cell_anchors", "recognise"]

# configs/Base-RetinaNet.yaml and config/defaults.py.
_RATIOS = (0.5, 1.0, 2.0)
_SIZES = tuple(tuple(size * 2 ** (octave / 3) for octave in range(3)) for size in (32, 64, 128, 256, 512))
_PIXEL = 255.0
HABITS: dict[str, Any] = {
    "color_order": "bgr",
    "mean": (103.53, 116.28, 123.675),
    "std": (1.0, 1.0, 1.0),
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "half_up",
    "placement": "top_left",
    # modeling/postprocessing.py, after everything else; what is then empty is dropped there, too.
    "clip": "after_nms",
    "drop_empty": True,
}
_NAME = "detectron2 RetinaNet"
_DEFAULTS = (
    "delta_weights",
    "max_log_scale",
    "score_threshold",
    "top_k",
    "nms_iou",
    "class_aware_nms",
    "max_detections",
)

Fields = dict[str, Any]
Shapes = tuple[tuple[int, int], ...]


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """The heads and spec of a detectron2 RetinaNet; None when it is not one.

    It is one by the names of its layers or, where a tool has renamed them, by the pixel mean that is subtracted in
    front of unnamed heads. Of a whole export, anchors and post-processing are read off the graph as well. `graph` is
    not changed. Raises SpecError for anchors or an input size that cannot be known.
    """
    heads = None if METADATA_KEY in metadata else subnets(graph)
    if heads is None:
        return None
    first = stem(heads.cls[0].inputs[0])
    if first is None:
        raise SpecError("detectron2 RetinaNet: wanted a backbone whose first Conv takes 3 channels, found none")
    affine = affine_before(first.inputs[0])
    if not heads.named and (affine is None or affine[0].size != 3 or affine[0].min() <= 1):
        return None
    static = static_copy(graph)
    tensors = static.tensors()
    # From fine to coarse, in whatever order the graph computes them.
    levels = sorted(zip(heads.cls, heads.box, strict=True), key=lambda pair: -_area(tensors[pair[0].outputs[0].name]))
    logits, deltas = (tuple(pair[kind].outputs[0].name for pair in levels) for kind in range(2))
    trunk = first.inputs[0].name
    size, *shapes = (height_and_width(_NAME, tensors[name]) for name in (trunk, *logits, *deltas))
    if shapes[: len(levels)] != shapes[len(levels) :]:
        raise SpecError(f"detectron2 RetinaNet: the levels of the class and box heads differ in size: {shapes}")
    read: Fields = {"input_size": size, "level_shapes": tuple(shapes[: len(levels)])}
    read |= normalisation(first.inputs[0])
    if "mean" in read:
        read |= colour_order(read["mean"])
    read |= postprocessing(static) | anchor_tables(static, read["level_shapes"], heads.anchors)
    values = HABITS | {name: DetectorSpec.__dataclass_fields__[name].default for name in _DEFAULTS}
    if "cell_anchors" not in read:
        values |= _own_anchors(heads, size, read["level_shapes"])
    values["labels"] = names_for(heads.classes)
    return Imported(compose("detectron2", values, read), trunk, logits, deltas)


def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...] = _RATIOS) -> tuple[Box, ...]:
    """Anchors of one cell about its origin, size outer, ratio (height / width) inner; network-input pixels.

    Source: detectron2 modeling/anchor_generator.py, generate_cell_anchors.

    >>> cell_anchors((32.0,), (1.0,))
    ((-16.0, -16.0, 16.0, 16.0),)
    """
    halves = [(size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2) for size in sizes for ratio in ratios]
    return tuple((-half_w, -half_h, half_w, half_h) for half_w, half_h in halves)


def _area(tensor: gs.Tensor) -> int:
    return math.prod(height_and_width(_NAME, tensor))


def _own_anchors(heads: Subnets, size: tuple[int, int], shapes: Shapes) -> Fields:
    """The anchors of Base-RetinaNet.yaml. Raises SpecError where the heads have others."""
    strides = tuple(8 << level for level in range(len(shapes)))
    grids = tuple(tuple(-(-side // stride) for side in size) for stride in strides)
    wanted = len(_RATIOS) * len(_SIZES[0])
    if heads.anchors != wanted or len(shapes) != len(_SIZES) or grids != shapes:
        raise SpecError(
            f"detectron2 RetinaNet: {heads.anchors} anchors per cell on levels {list(shapes)} of {size[0]}x{size[1]} "
            f"are not those of Base-RetinaNet.yaml ({wanted}, strides 8 to 128), and the graph does not hold them; "
            "export with edge_retina.importer.exporters.detectron2.export_detectron2(model, path, size)"
        )
    return {"strides": tuple((s, s) for s in strides), "cell_anchors": tuple(cell_anchors(sizes) for sizes in _SIZES)}
