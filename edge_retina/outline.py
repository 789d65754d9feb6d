"""A started spec for a graph that no family knows: what can be known filled in, the rest null."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.importer import HeadLayout, Source
from edge_retina.importer.heads import source as producer
from edge_retina.importer.heads import static_copy, static_shape
from edge_retina.spec import DetectorSpec

__all__ = ["outline"]

_BOX_NAMES, _CLASS_NAMES = ("box", "reg", "loc", "delta"), ("cls", "class", "score", "logit", "conf")
# Finest strides that pyramids begin with, the paper's first, and how many levels they have.
_FINEST, _LEVELS, _MOST_ANCHORS = (8, 4, 16), (3, 4, 5, 6), 24
_STRIDES = tuple(2**power for power in range(1, 11))

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Heads:
    """The outputs that could be heads, fine to coarse. sizes: per level (H, W), None where rows do not tell."""

    layout: str
    logits: tuple[str, ...] | None
    deltas: tuple[str, ...] | None
    anchors: int | None
    classes: int | None
    sizes: Pairs | None


def outline(source: Source) -> dict[str, Any]:
    """A spec for `--spec` as plain values, None where the graph does not say: the fields of DetectorSpec, and heads.

    Outputs are taken for heads where they pair off as levels: NCHW, NHWC or rows; names tell classes from boxes where
    widths do not. Fields with a usual value have it.
    """
    graph = source.graph
    with contextlib.suppress(Exception):  # folding a stranger's graph may fail anywhere; then it is taken as it is
        graph = static_copy(graph)
    name, layout, size = _image(graph)
    found = _find_heads(graph, size) or _Heads("nchw", None, None, None, None, None)
    sizes = found.sizes
    strides = _strides(size, sizes)
    spec: dict[str, Any] = {f.name: None if f.default is MISSING else f.default for f in fields(DetectorSpec)}
    del spec["origins"]
    spec |= {
        "family": "custom",
        "labels": None if found.classes is None else [f"class_{index}" for index in range(found.classes)],
        "input_size": size,
        "level_shapes": sizes,
        "strides": strides,
    }
    heads: dict[str, Any] = {"trunk_input": name, "logits": found.logits, "deltas": found.deltas}
    heads |= asdict(HeadLayout(input=layout, heads=found.layout))
    if found.logits is not None:
        heads |= _before_sigmoid(graph, found.logits)
    started: dict[str, Any] = _lists({**spec, "heads": heads})
    return started


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _lists(item) for name, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _image(graph: gs.Graph) -> tuple[str | None, str, tuple[int, int] | None]:
    """Name, layout and (H, W) of the one input that could be a picture; None for what is not known."""
    images = [t for t in graph.inputs if len(t.shape or ()) == 4]
    if len(images) != 1:
        return None, "nchw", None
    shape = list(images[0].shape)
    layout = "nhwc" if shape[3] == 3 and shape[1] != 3 else "nchw"
    height, width = shape[1:3] if layout == "nhwc" else shape[2:]
    known = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return images[0].name, layout, (height, width) if known else None


def _find_heads(graph: gs.Graph, size: tuple[int, int] | None) -> _Heads | None:
    """Outputs that pair off as levels; None where they do not."""
    shapes = {t.name: shape for t in graph.outputs if (shape := static_shape(t)) is not None}
    grids = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    for layout, (y, x), channel in (("nchw", (2, 3), 1), ("nhwc", (1, 2), 3)):
        pairs = _paired({n: (s[y], s[x]) for n, s in grids.items()}, {n: s[channel] for n, s in grids.items()})
        widths = {tuple(grids[name][channel] for name in pair) for _, pair in pairs}
        if len(widths) == 1:
            a, b = widths.pop()
            ways = [(boxes, c, d) for boxes, c, d in ((1, a, b), (0, b, a)) if d % 4 == 0 and c % (d // 4) == 0]
            sizes: Pairs = tuple((key[0], key[1]) for key, _ in pairs)
            way = _chosen(ways, [pair for _, pair in pairs])
            known = None if way is None else (way[2] // 4, way[1] // (way[2] // 4))
            return _named(layout, [pair for _, pair in pairs], way, known, sizes)
    rows = {name: shape for name, shape in shapes.items() if len(shape) == 3}
    pairs = _paired({n: (s[1],) for n, s in rows.items()}, {n: s[2] for n, s in rows.items()})
    widths = {tuple(rows[name][2] for name in pair) for _, pair in pairs}
    if len(widths) != 1:
        return None
    a, b = widths.pop()
    way = _chosen([(boxes, c, d) for boxes, c, d in ((1, a, b), (0, b, a)) if d == 4], [pair for _, pair in pairs])
    counts = [key[0] for key, _ in pairs]
    grid = _grid(size, counts)
    known = None if way is None or grid is None else (grid[0], way[1])
    layout = "joined" if len(pairs) == 1 and (grid is None or len(grid[1]) > 1) else "rows"
    heads = _named(layout, [pair for _, pair in pairs], way, known, None if grid is None else grid[1])
    return heads if way is None else replace(heads, classes=way[1])


def _paired(
    keys: Mapping[str, tuple[int, ...]], widths: Mapping[str, int]
) -> list[tuple[tuple[int, ...], tuple[str, str]]]:
    """Outputs two by two with equal keys, the largest first, the narrower of two first; nothing unless all pair off."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, key in keys.items():
        groups.setdefault(key, []).append(name)
    if any(len(names) != 2 for names in groups.values()):
        return []
    pairs = {key: sorted(names, key=lambda name: widths[name]) for key, names in groups.items()}
    return [(key, (pairs[key][0], pairs[key][1])) for key in sorted(pairs, key=lambda k: -math.prod(k))]


def _chosen(ways: list[tuple[int, int, int]], pairs: Sequence[tuple[str, str]]) -> tuple[int, int, int] | None:
    """Which of a pair holds the boxes, by width, else by name: (its place, class channels, box channels)."""
    if len(ways) < 2:
        return ways[0] if ways else None
    for way in ways:
        boxes, classes = ([pair[place].lower() for pair in pairs] for place in (way[0], 1 - way[0]))
        if _all_named(boxes, _BOX_NAMES) and _all_named(classes, _CLASS_NAMES):
            return way
    return None


def _all_named(names: Sequence[str], words: Sequence[str]) -> bool:
    return all(any(word in name for word in words) for name in names)


def _named(
    layout: str,
    pairs: Sequence[tuple[str, str]],
    way: tuple[int, int, int] | None,
    known: tuple[int, int] | None,
    sizes: Pairs | None,
) -> _Heads:
    anchors, classes = known or (None, None)
    if way is None:
        return _Heads(layout, None, None, anchors, classes, sizes)
    boxes = way[0]
    logits, deltas = (tuple(pair[place] for pair in pairs) for place in (1 - boxes, boxes))
    return _Heads(layout, logits, deltas, anchors, classes, sizes)


def _grid(size: tuple[int, int] | None, counts: Sequence[int]) -> tuple[int, Pairs] | None:
    """Anchors per cell and level sizes that give so many rows, a count per level or one for all.

    Of several the one whose finest stride comes first in _FINEST; None where that is not one.
    """
    if size is None:
        return None
    for finest in _FINEST:
        found = set()
        for levels in _LEVELS if len(counts) == 1 else (len(counts),):
            sizes = tuple((-(-size[0] // s), -(-size[1] // s)) for s in (finest << level for level in range(levels)))
            cells = [height * width for height, width in sizes]
            wanted = cells if len(counts) > 1 else [sum(cells)]
            anchors = counts[0] // wanted[0]
            if 1 <= anchors <= _MOST_ANCHORS and [anchors * cell for cell in wanted] == list(counts):
                found.add((anchors, sizes))
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _strides(size: tuple[int, int] | None, sizes: Pairs | None) -> Pairs | None:
    """Per level (y, x), powers of two that double from level to level; None where none fit."""
    if size is None or sizes is None:
        return None
    axes = [_axis(side, [level[axis] for level in sizes]) for axis, side in enumerate(size)]
    if axes[0] is None or axes[1] is None:
        return None
    return tuple(zip(axes[0], axes[1], strict=True))


def _axis(side: int, cells: Sequence[int]) -> list[int] | None:
    found: list[int] = []
    for count in cells:
        fitting = [s for s in _STRIDES if count in (side // s, -(-side // s))]
        if not fitting:
            return None
        wanted = 2 * found[-1] if found else side / count
        found.append(min(fitting, key=lambda s: abs(math.log2(s / wanted))))
    return found


def _before_sigmoid(graph: gs.Graph, logits: Sequence[str]) -> dict[str, Any]:
    """The tensors in front of a Sigmoid, where that is what the graph ends in: logits are what is wanted."""
    tensors = graph.tensors()
    nodes = [producer(tensors[name]) for name in logits]
    if any(node is None or node.op != "Sigmoid" for node in nodes):
        return {}
    return {"logits": [node.inputs[0].name for node in nodes if node is not None]}
