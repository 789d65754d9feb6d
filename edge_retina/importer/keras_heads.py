"""Heads of Keras models: NHWC convolutions whose levels are reshaped to rows and joined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import constant, source, static_shape
from edge_retina.importer.imported import HeadLayout, Imported
from edge_retina.spec import DetectorSpec

__all__ = ["NhwcHead", "image_size", "imported", "level_sizes", "nhwc_heads"]


def image_size(graph: gs.Graph) -> tuple[int, int] | None:
    """Height and width of the one input [B, H, W, 3], 0 where open; None where the input is another."""
    shape = graph.inputs[0].shape if len(graph.inputs) == 1 else None
    if shape is None or len(shape) != 4 or shape[3] != 3 or shape[1] == 3:
        return None
    height, width = (size if isinstance(size, int) and size > 0 else 0 for size in shape[1:3])
    return height, width


@dataclass(frozen=True, eq=False)
class NhwcHead:
    """One subnet's last Conv on every level, fine to coarse, made NHWC, reshaped to rows and joined by a Concat.

    grids: per level the name of [B, H, W, A * channels]. convs: of [B, A * channels, H, W], the same before the
    Transpose; None where the bias is added after it. channels: values per anchor. anchors: A. shapes: (H, W) per level,
    None where open. scored: rows have been through a Sigmoid. rows: the Concat's output.
    """

    grids: tuple[str, ...]
    convs: tuple[str, ...] | None
    channels: int
    anchors: int
    shapes: tuple[tuple[int, int] | None, ...]
    scored: bool
    rows: gs.Variable


def nhwc_heads(static: gs.Graph) -> list[NhwcHead]:
    """Subnets whose levels come as Conv, Transpose (0, 2, 3, 1), Reshape and Concat; `static`: a folded copy."""
    return [head for node in static.nodes if node.op == "Concat" and (head := _head(node)) is not None]


def imported(graph: gs.Graph, spec: DetectorSpec, cls: NhwcHead, box: NhwcHead) -> Imported:
    """What was found, by the tensors nearest to the convolutions."""
    if cls.convs is not None and box.convs is not None:
        return Imported(spec, graph.inputs[0].name, cls.convs, box.convs, HeadLayout(input="nhwc"))
    return Imported(spec, graph.inputs[0].name, cls.grids, box.grids, HeadLayout(input="nhwc", heads="nhwc"))


def level_sizes(family: str, size: tuple[int, int], heads: tuple[NhwcHead, NhwcHead]) -> tuple[tuple[int, int], ...]:
    """(H, W) per level, which both heads must share. Raises SpecError where they or the image size are open."""
    one, other = heads
    shapes = tuple(shape for shape in one.shapes if shape is not None)
    if 0 in size or len(shapes) != len(one.shapes) or one.shapes != other.shapes:
        raise SpecError(
            f"{family}: wanted an image and heads of known height and width, for strides and anchors follow from them; "
            f"found an image of {size} and levels of {one.shapes} and {other.shapes} (0, None: open); export with a "
            "fixed image size: a model built with (height, width, 3), or an input signature that says so"
        )
    return shapes


def _head(concat: gs.Node) -> NhwcHead | None:
    found = [level for tensor in concat.inputs if (level := _level(tensor)) is not None]
    if len(found) < 2 or len(found) != len(concat.inputs):
        return None
    weights = [constant(level.conv.inputs[1]) for level in found]
    first, channels, scored = weights[0], (concat.inputs[0].shape or [None])[-1], {level.scored for level in found}
    if first is None or not isinstance(channels, int) or len(first) % channels or len(scored) != 1:
        return None
    if not all(weight is not None and np.array_equal(weight, first) for weight in weights):
        return None
    sizes = [static_shape(level.conv.outputs[0]) for level in found]
    shapes = tuple((shape[2], shape[3]) if shape is not None else None for shape in sizes)
    convs = None if any(level.biased for level in found) else tuple(level.conv.outputs[0].name for level in found)
    grids = tuple(level.grid.name for level in found)
    return NhwcHead(grids, convs, channels, len(first) // channels, shapes, scored.pop(), concat.outputs[0])


@dataclass(frozen=True, eq=False)
class _Level:
    """conv: a level's last one. grid: [B, H, W, channels], what is reshaped. biased: something is added to it there."""

    conv: gs.Node
    grid: gs.Tensor
    biased: bool
    scored: bool


def _level(rows: gs.Tensor) -> _Level | None:
    node = source(rows)
    scored = node is not None and node.op == "Sigmoid"
    if node is not None and scored:
        node = source(node.inputs[0])
    if node is None or node.op != "Reshape":
        return None
    grid = node.inputs[0]
    node = source(grid)
    biased = node is not None and node.op == "Add"
    if node is not None and biased:
        node = next((source(t) for t in node.inputs if constant(t) is None), None)
    if node is not None and node.op == "Transpose" and list(node.attrs.get("perm", [])) == [0, 2, 3, 1]:
        node = source(node.inputs[0])
    elif biased or (static_shape(grid) or ())[2:] != (1, 1):  # tf2onnx leaves out what does nothing to a single cell
        return None
    return _Level(node, grid, biased, scored) if node is not None and node.op == "Conv" else None
