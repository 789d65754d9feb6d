"""Part of the fold pass: scaling and shifting after a Conv become its weight and bias."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

__all__ = ["fold_convs"]

F64 = npt.NDArray[np.float64]

_STANDARD = (None, "", "ai.onnx")
_FLOATS = (np.float16, np.float32, np.float64)


def fold_convs(graph: gs.Graph) -> int:
    """Fold BatchNormalization and Mul, Add, Sub, Div by constants into the Conv before them.

    Rule and scope: see fold. Returns the number of Convs that took something in.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        convs = [node for node in graph.nodes if node.op == "Conv" and node.domain in _STANDARD]
        folds = [f for node in convs if (f := _following(graph, node)) is not None]
    # Values of all before the first Conv changes: the constants may be shared.
    replace = _Replacements(graph)
    new = [(replace.weight(fold), replace.bias(fold)) for fold in folds]
    for fold, (weight, bias) in zip(folds, new, strict=True):
        fold.last.inputs[0].outputs.clear()
        fold.conv.inputs = [fold.conv.inputs[0], weight, bias]
        fold.conv.outputs = [fold.last]
    replace.take_over_names()
    return len(folds)


@dataclass(frozen=True, eq=False)
class _Fold:
    """A Conv and what follows it: its output times scale plus shift, per channel, is `last`."""

    conv: gs.Node
    scale: F64
    shift: F64
    last: gs.Tensor

    @property
    def weight(self) -> gs.Constant:
        return self.conv.inputs[1]

    @property
    def bias(self) -> gs.Constant | None:
        return _optional(self.conv, 2)

    def new_weight(self) -> npt.NDArray[Any]:
        values = self.weight.values
        scale = self.scale.reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray((values.astype(np.float64) * scale).astype(values.dtype))

    def new_bias(self) -> npt.NDArray[Any]:
        old = 0.0 if self.bias is None else self.bias.values.astype(np.float64)
        return np.asarray((old * self.scale + self.shift).astype(self.weight.values.dtype))


class _Replacements:
    """New constants for old ones; one where old constant and fold are equal, so that what is shared stays shared."""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = set(graph.tensors())
        self._made: dict[tuple[int, bytes], gs.Constant] = {}
        self._of: dict[int, tuple[gs.Constant, list[gs.Constant]]] = {}

    def weight(self, fold: _Fold) -> gs.Constant:
        if (fold.scale == 1).all():
            return fold.weight
        return self._new(fold.weight, fold.scale.tobytes(), fold.weight.name, fold.new_weight())

    def bias(self, fold: _Fold) -> gs.Constant:
        old = fold.weight if fold.bias is None else fold.bias
        name = f"{old.name}/bias" if fold.bias is None else old.name
        key = b"bias" + fold.scale.tobytes() + fold.shift.tobytes()
        return self._new(old, key, name, fold.new_bias())

    def take_over_names(self) -> None:
        """A constant that replaced another for all its readers is called as that was."""
        for old, made in self._of.values():
            same = [new for new in made if new.values.shape == old.values.shape]
            if not old.outputs and len(same) == 1:
                same[0].name = old.name

    def _new(self, old: gs.Constant, key: bytes, stem: str, values: npt.NDArray[Any]) -> gs.Constant:
        if (id(old), key) not in self._made:
            names = (stem if n == 0 else f"{stem}/folded_{n}" for n in count())
            name = next(name for name in names if name not in self._taken)
            self._taken.add(name)
            self._made[id(old), key] = gs.Constant(name, values)
            self._of.setdefault(id(old), (old, []))[1].append(self._made[id(old), key])
        return self._made[id(old), key]


def _optional(node: gs.Node, index: int) -> Any:
    """An input that may be left out; None where it is."""
    given = len(node.inputs) > index and not node.inputs[index].is_empty()
    return node.inputs[index] if given else None


def _following(graph: gs.Graph, conv: gs.Node) -> _Fold | None:
    """What can be folded into a Conv, as one scale and shift; None for nothing."""
    weight, bias = conv.inputs[1], _optional(conv, 2)
    if not isinstance(weight, gs.Constant) or weight.values.dtype not in _FLOATS:
        return None
    if bias is not None and not isinstance(bias, gs.Constant):
        return None
    channels, rank = weight.values.shape[0], weight.values.ndim
    scale, shift = np.ones(channels), np.zeros(channels)
    last = conv.outputs[0]
    while len(last.outputs) == 1 and not any(last is output for output in graph.outputs):
        node = last.outputs[0]
        step = _batch_norm(node, last) if node.op == "BatchNormalization" else _affine(node, last, channels, rank)
        if step is None:
            break
        longer = _Fold(conv, scale * step[0], shift * step[0] + step[1], node.outputs[0])
        # Also as stored: a float16 weight may be finite only without the factor.
        if not (np.isfinite(longer.new_weight()).all() and np.isfinite(longer.new_bias()).all()):
            break
        scale, shift, last = longer.scale, longer.shift, longer.last
    return None if last is conv.outputs[0] else _Fold(conv, scale, shift, last)


def _batch_norm(node: gs.Node, x: gs.Tensor) -> tuple[F64, F64] | None:
    """Scale and shift of a BatchNormalization at inference."""
    constant = node.domain in _STANDARD and all(isinstance(t, gs.Constant) for t in node.inputs[1:])
    if node.inputs[0] is not x or not constant or len(node.outputs) > 1 or node.attrs.get("training_mode", 0):
        return None
    gamma, beta, mean, variance = (t.values.astype(np.float64) for t in node.inputs[1:])
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return scale, beta - mean * scale


def _affine(node: gs.Node, x: gs.Tensor, channels: int, rank: int) -> tuple[F64, F64] | None:
    """Scale and shift of Mul, Add, Sub or Div between x and a constant per channel or scalar."""
    if node.op not in ("Mul", "Add", "Sub", "Div") or node.domain not in _STANDARD:
        return None
    first = node.inputs[0] is x
    other = node.inputs[1 if first else 0]
    if not isinstance(other, gs.Constant):
        return None
    values = other.values.astype(np.float64)
    shape = (1,) * (rank - values.ndim) + values.shape
    # Along the channels only, without making the result larger than x is.
    if len(shape) != rank or shape[1] not in (1, channels) or any(n != 1 for n in shape[:1] + shape[2:]):
        return None
    c, one, zero = np.broadcast_to(values.reshape(-1), channels), np.ones(channels), np.zeros(channels)
    if node.op == "Mul":
        return c, zero
    if node.op == "Add":
        return one, c
    if node.op == "Sub":
        return (one, -c) if first else (-one, c)
    return (1 / c, zero) if first else None
