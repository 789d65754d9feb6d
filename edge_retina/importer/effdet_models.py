"""What differs between effdet's models and shows in the graph in some other way: anchors, strides, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import source, static_shape

__all__ = ["ANCHORS", "by_model", "strides_of"]

# config/model_config.py: default_detection_model_configs, and the models that differ from it.
_ASPECTS: Sequence[tuple[float, float]] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # width, height
_V2_ASPECTS = tuple((math.sqrt(ratio), 1 / math.sqrt(ratio)) for ratio in (1.0, 2.0, 0.5))
_SCALES = 3
ANCHORS = _SCALES * len(_ASPECTS)
_FINEST_STRIDE = 8
_ANCHOR_SCALE, _LITE_ANCHOR_SCALE, _D7_ANCHOR_SCALE = 4.0, 3.0, 5.0
_LITE_OF_USUAL_SCALE = (160, 224)  # BiFPN channels of lite3 and lite4
_D7 = (384, 5, (1536, 1536))  # BiFPN channels, levels, (H, W); D6 is 1280 wide, D7x has six levels
_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_LITE = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}

Size = tuple[int, int]


def by_model(static: gs.Graph, fusion: gs.Node, size: Size, shapes: tuple[Size, ...]) -> dict[str, Any]:
    """strides, cell_anchors, mean and std of the model with this Concat in its BiFPN, input size and levels, (H, W).

    static: the graph, shapes known. Raises SpecError where strides are no whole pixels.
    """
    strides = strides_of(size, shapes)
    ops = {node.op for node in static.nodes}
    channels = (static_shape(static.tensors()[fusion.outputs[0].name]) or (0, 0))[1]
    risen = source(fusion.inputs[0])
    divided = None if risen is None else source(risen.inputs[0])  # by the sum of the fusion's weights
    lite = (divided is None or divided.op != "Div") and "Clip" in ops and "Sigmoid" not in ops
    scale = _ANCHOR_SCALE
    if lite and channels not in _LITE_OF_USUAL_SCALE:
        scale = _LITE_ANCHOR_SCALE
    elif (channels, len(shapes), size) == _D7:
        scale = _D7_ANCHOR_SCALE
    linear = any(node.op == "Resize" and node.attrs.get("mode") == "linear" for node in static.nodes)
    aspects = _V2_ASPECTS if linear else _ASPECTS
    cells = tuple(_cell_of(stride, scale, _SCALES, aspects) for stride in strides)
    return {"strides": strides, "cell_anchors": cells, **(_LITE if lite else _IMAGENET)}


def strides_of(size: Size, level_shapes: Sequence[Size]) -> tuple[Size, ...]:
    """(y, x) pixels per cell of each level, for an input of (H, W). Raises SpecError where these are no whole pixels.

    Source: effdet anchors.py, Anchors._generate_configs.
    """
    for high, wide in level_shapes:
        if size[0] % high or size[1] % wide:
            unit = _FINEST_STRIDE << len(level_shapes) - 1
            better = "x".join(str(-(-side // unit) * unit) for side in size)
            raise SpecError(
                f"effdet: wanted an input whose sides every level divides, for strides are whole pixels, found "
                f"{size[0]}x{size[1]} with a level of {high}x{wide} cells, {size[0] / high:.2f} by "
                f"{size[1] / wide:.2f} pixels each; the weights fit other sizes, too: make the model with image_size "
                f"in multiples of {unit}, such as {better}, and export again"
            )
    return tuple((size[0] // high, size[1] // wide) for high, wide in level_shapes)


def _cell_of(
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
