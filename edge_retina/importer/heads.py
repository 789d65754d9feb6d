"""Reading a trainer's graph: known values, known shapes, the way back, and heads laid out as rows.

Every function here works on any exporter's graph; what a family makes of it stands in that family's file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx_graphsurgeon.logger import G_LOGGER

from edge_retina.errors import SpecError

__all__ = [
    "RowHead",
    "affine_before",
    "ancestors",
    "constant",
    "nodes_of",
    "reaches",
    "row_heads",
    "sized",
    "source",
    "static_copy",
    "static_shape",
    "stem",
]

# Folding and inferring in turn settles in three rounds on torchvision's whole export.
_MAX_ROUNDS = 8
# Severities of ONNX Runtime's default logger.
_WARNING, _FATAL = 2, 4
_PASSING = ("Identity", "Cast")
_ARITHMETIC = ("Sub", "Add", "Mul", "Div")
# What comes between normalising and the first Conv and changes no value that matters.
_MOVING = ("Gather", "Pad", "Reshape", "Resize", "Squeeze", "Unsqueeze")

F64 = npt.NDArray[np.float64]


def static_copy(graph: gs.Graph) -> gs.Graph:
    """A copy with constants folded and shapes inferred, round after round until nothing more comes out.

    Tensors that depend on the graph's input keep their names, so what is found in the copy can be named in
    `graph`, which is left as it was. Raises SpecError for a graph whose shapes contradict each other.
    """
    before, copy = -1, graph
    with _quiet():
        try:
            for _ in range(_MAX_ROUNDS):
                model = onnx.shape_inference.infer_shapes(gs.export_onnx(copy), strict_mode=False, data_prop=True)
                copy = gs.import_onnx(model)
                if len(copy.nodes) == before:
                    break
                before = len(copy.nodes)
                copy.fold_constants().cleanup()
        except Exception as exc:  # onnx and graphsurgeon raise what they like
            reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
            raise SpecError(
                f"wanted a graph whose constants fold and whose shapes are consistent, found: {reason}"
            ) from exc
    return copy


def sized(graph: gs.Graph, size: tuple[int, int] | None) -> gs.Graph:
    """A copy in which the open axes of the image input, [B, 3, H, W], [B, H, W, 3] or [3, H, W], are 1 and `size`.

    Every other recorded shape is forgotten, for static_copy to infer anew. `graph` itself where nothing is open or
    size is None and more than the batch is open. Axes that are known stay as they are.
    """
    images = [t for t in graph.inputs if t.shape is not None and len(t.shape) in (3, 4) and 3 in t.shape]
    if len(images) != 1:
        return graph
    known = [value if isinstance(value, int) and value > 0 else None for value in images[0].shape]
    high, wide = size or (None, None)
    nhwc = len(known) == 4 and known[3] == 3 and known[1] != 3
    wanted = [1, high, wide, 3] if nhwc else [1, 3, high, wide][-len(known) :]
    shape = [value or other for value, other in zip(known, wanted, strict=True)]
    if None not in known or None in shape:
        return graph
    copy = graph.copy()
    for tensor in copy.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = shape if tensor.name == images[0].name else None
    return copy


@contextmanager
def _quiet() -> Iterator[None]:
    """Folding makes graphsurgeon and ONNX Runtime warn about what they do to a copy that is thrown away."""
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with G_LOGGER.suppress(G_LOGGER.ERROR):
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)


def static_shape(tensor: gs.Tensor) -> tuple[int, ...] | None:
    """The shape of a tensor; None unless every dimension but the first (the batch) is a known integer.

    A batch of unknown size reads as -1.
    """
    shape = tensor.shape
    if shape is None or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        return None
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def constant(tensor: gs.Tensor) -> npt.NDArray[Any] | None:
    """The value of a tensor that does not depend on the input, through Constant, Identity and Cast; else None."""
    while not isinstance(tensor, gs.Constant):
        if len(tensor.inputs) != 1:
            return None
        node = tensor.inputs[0]
        if node.op == "Constant":
            return np.asarray(node.attrs["value"].values) if "value" in node.attrs else None
        if node.op not in _PASSING:
            return None
        tensor = node.inputs[0]
    return np.asarray(tensor.values)


def source(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor, through Identity and Cast; None for a graph input or a constant."""
    while tensor.inputs:
        node: gs.Node = tensor.inputs[0]
        if node.op not in _PASSING:
            return node
        tensor = node.inputs[0]
    return None


def ancestors(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """Every node that a tensor depends on, nearest first, each once."""
    queue, seen = deque([tensor]), set()
    while queue:
        for node in queue.popleft().inputs:
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                queue.extend(node.inputs)


def reaches(tensor: gs.Tensor, op: str) -> bool:
    """Whether a node of type `op` depends on a tensor."""
    queue, seen = deque([tensor]), set()
    while queue:
        for node in queue.popleft().outputs:
            if node.op == op:
                return True
            if id(node) not in seen:
                seen.add(id(node))
                queue.extend(node.outputs)
    return False


def nodes_of(graph: gs.Graph) -> Iterator[gs.Node]:
    """Every node of a graph and of the subgraphs inside it."""
    for node in graph.nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from nodes_of(value)


def stem(tensor: gs.Tensor) -> gs.Node | None:
    """The first Conv, over three input channels, that a tensor depends on; its first input is the network input."""
    for node in ancestors(tensor):
        if node.op == "Conv":
            weight = constant(node.inputs[1])
            three = weight is not None and weight.shape[1] == 3 and node.attrs.get("group", 1) == 1
            # A pyramid can be three channels wide, too.
            if three and all(before.op != "Conv" for before in ancestors(node.inputs[0])):
                return node
    return None


def affine_before(tensor: gs.Tensor) -> tuple[F64, F64] | None:
    """(shift, scale) per channel such that tensor = (x - shift) / scale, x being what the graph was given.

    Steps over resizing, padding and reshaping, as these leave a channel's values as they are (padding aside).
    None where there is no Sub, Add, Mul or Div by a constant, or where one stands among others that cannot be read.
    Shapes (1,) or (3,).
    """
    shift, scale, found = np.zeros(1), np.ones(1), False
    node = source(tensor)
    while node is not None:
        if node.op in _MOVING or (node.op == "Concat" and len(node.inputs) == 1):
            node = source(node.inputs[0])
            continue
        if node.op not in _ARITHMETIC:
            break
        before, number = node.inputs[0], constant(node.inputs[1])
        if number is None and node.op in ("Add", "Mul"):
            before, number = node.inputs[1], constant(node.inputs[0])
        if number is None or number.size not in (1, 3):
            return None
        by, found = number.reshape(-1).astype(np.float64), True
        if node.op in ("Sub", "Add"):
            shift = shift + (by if node.op == "Sub" else -by)
        else:
            by = by if node.op == "Div" else 1 / by
            shift, scale = shift * by, scale * by
        node = source(before)
    return (shift, scale) if found else None


@dataclass(frozen=True, eq=False)
class RowHead:
    """One subnet's last Conv on every level, fine to coarse, where a Concat joins their outputs as rows.

    convs: one node per level, sharing one weight. channels: values per anchor, K or 4. rows: the Concat's
    output, [B, sum of H * W * A, channels].
    """

    convs: tuple[gs.Node, ...]
    channels: int
    rows: gs.Variable

    @property
    def anchors(self) -> int:
        """Anchors per cell, A."""
        return len(self.weight) // self.channels

    @property
    def weight(self) -> npt.NDArray[Any]:
        """The shared weight, (A * channels, in, kernel, kernel)."""
        value = constant(self.convs[0].inputs[1])
        assert value is not None
        return value

    @property
    def outputs(self) -> tuple[str, ...]:
        """Per level, the name of the Conv's output [B, A * channels, H, W], channel a * channels + c."""
        return tuple(conv.outputs[0].name for conv in self.convs)


def row_heads(graph: gs.Graph) -> list[RowHead]:
    """Subnets whose levels are made rows by Reshape, Transpose (0, 3, 4, 1, 2), Reshape and then concatenated.

    That is how torchvision and what is built on it (DeepForest, MLPerf) export. Shapes need not be known.
    """
    found = []
    for node in graph.nodes:
        if node.op == "Concat" and len(node.inputs) >= 2:
            pairs = [_conv_and_channels(tensor) for tensor in node.inputs]
            convs = tuple(pair[0] for pair in pairs if pair)
            channels = {pair[1] for pair in pairs if pair}
            if len(convs) == len(pairs) and len(channels) == 1 and _share_weight(convs):
                found.append(RowHead(convs, channels.pop(), node.outputs[0]))
    return found


def _conv_and_channels(rows: gs.Tensor) -> tuple[gs.Node, int] | None:
    """The Conv that a level's rows come from, and the width of a row."""
    flat = source(rows)
    turned = source(flat.inputs[0]) if flat is not None and flat.op == "Reshape" else None
    if turned is None or turned.op != "Transpose" or list(turned.attrs.get("perm", [])) != [0, 3, 4, 1, 2]:
        return None
    split = source(turned.inputs[0])
    conv = source(split.inputs[0]) if split is not None and split.op == "Reshape" else None
    if conv is None or conv.op != "Conv":
        return None
    weight, width = constant(conv.inputs[1]), _row_width(flat)
    if weight is None or width is None or len(weight) % width:
        return None
    return conv, width


def _row_width(reshape: gs.Node) -> int | None:
    """The last number of a Reshape's wanted shape, which is known even when the batch is not."""
    wanted = reshape.inputs[1]
    while (maker := source(wanted)) is not None and maker.op in ("Concat", "Unsqueeze"):
        wanted = maker.inputs[-1 if maker.op == "Concat" else 0]
    shape = constant(wanted)
    return int(shape.reshape(-1)[-1]) if shape is not None and int(shape.reshape(-1)[-1]) > 0 else None


def _share_weight(convs: tuple[gs.Node, ...]) -> bool:
    first = constant(convs[0].inputs[1])
    rest = (constant(conv.inputs[1]) for conv in convs[1:])
    return first is not None and all(weight is not None and np.array_equal(weight, first) for weight in rest)
