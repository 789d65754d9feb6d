"""Pass: cross-layer equalisation, which spreads a tensor's range over its channels without changing the function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.calibrate.statistics import TensorStatistics
from edge_retina.types import F32
from edge_retina.weights import LEVELS

__all__ = ["Pair", "apply_factors", "equalizable", "equalizing_factors"]

# How far to go from "not at all" (0) to "all channels of equal peak" (1).
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Factors beyond this are those of dead channels.
_MOST = 2.0**8


@dataclass(frozen=True)
class Pair:
    """Two weights with nothing but a ReLU between them.

    first, second: names of the weights. tensors: what lies between, once per pyramid level where a head shares them.
    """

    first: str
    second: str
    tensors: tuple[str, ...]


def equalizable(graph: gs.Graph) -> tuple[Pair, ...]:
    """Every pair whose function is unchanged when a channel is divided by a factor and later multiplied by it.

    All convolutions with the first weight are followed by a ReLU alone, which only convolutions with the second weight
    read, and those read nothing else; neither is grouped. Source: Nagel 2019, section 4.1; a ReLU is homogeneous.
    """
    pairs = {}
    convs = [n for n in graph.nodes if n.op == "Conv" and isinstance(n.inputs[1], gs.Constant)]
    for conv in convs:
        first = conv.inputs[1]
        between = [_between(n) for n in first.outputs]
        if any(t is None for t in between) or _grouped(first):
            continue
        readers = [n for t in between if t is not None for n in t.outputs]
        seconds = {id(n.inputs[1]): n.inputs[1] for n in readers if n.op == "Conv"}
        if len(seconds) != 1 or not all(n.op == "Conv" for n in readers):
            continue
        (second,) = seconds.values()
        if not isinstance(second, gs.Constant) or second is first or _grouped(second):
            continue
        if {id(n) for n in readers} == {id(n) for n in second.outputs}:
            pairs[first.name] = Pair(first.name, second.name, tuple(t.name for t in between if t is not None))
    return tuple(pairs.values())


def _between(conv: gs.Node) -> gs.Tensor | None:
    """The tensor behind a convolution and its ReLU, if nothing else reads the convolution."""
    result = conv.outputs[0] if conv.op == "Conv" else None
    if result is None or len(result.outputs) != 1 or result.outputs[0].op != "Relu":
        return None
    relu: gs.Tensor = result.outputs[0].outputs[0]
    return relu


def _grouped(weight: gs.Constant) -> bool:
    return any(n.op != "Conv" or n.attrs.get("group", 1) != 1 or n.inputs[1] is not weight for n in weight.outputs)


def equalizing_factors(graph: gs.Graph, statistics: Mapping[str, TensorStatistics]) -> dict[str, F32]:
    """Factors per channel for each pair, by its first weight; pairs that gain nothing are left out.

    The activation between has one scale for all channels; equal peaks use it best. But what a channel is divided by the
    second weight is multiplied by, and that has one scale per output channel. Of five strengths the one with the least
    predicted error at the second convolution's output is taken; the first weight has a scale per channel and does not
    mind. Factors are powers of two, so that the equalised graph gives the same float32 numbers as the original.
    """
    factors = {}
    tensors = graph.tensors()
    for pair in equalizable(graph):
        weight = tensors[pair.second].values.astype(np.float64)
        weight = weight.reshape(*weight.shape[:2], -1)
        peak = np.max([statistics[t].peak for t in pair.tensors], 0)
        energy = np.max([statistics[t].energy for t in pair.tensors], 0)
        alive = peak > 0
        if not alive.any():
            continue
        relative = np.where(alive, peak / peak.max(), 1.0)
        candidates = [_powers_of_two(relative**strength) for strength in _STRENGTHS]
        noise = [_noise(weight, peak / c, energy / c**2, c) for c in candidates]
        best = int(np.argmin(noise))
        if best and noise[best] < 0.9 * noise[0]:
            factors[pair.first] = candidates[best].astype(np.float32)
    return factors


def _powers_of_two(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    exponents = np.rint(np.log2(np.clip(values, 1 / _MOST, 1.0)))
    return np.asarray(np.exp2(exponents))


def _noise(
    weight: npt.NDArray[np.float64],
    peak: npt.NDArray[np.float64],
    energy: npt.NDArray[np.float64],
    factor: npt.NDArray[np.float64],
) -> float:
    """Predicted mean square error at the output, up to a constant: rounded activations and rounded weights."""
    scaled = weight * factor[None, :, None]
    activations = (peak.max() / LEVELS) ** 2 * np.square(scaled).sum()
    steps = np.abs(scaled).max((1, 2)) / LEVELS
    weights = np.square(steps).sum() * energy.sum() * weight.shape[2]
    return float(activations + weights)


def apply_factors(graph: gs.Graph, factors: Mapping[str, F32]) -> int:
    """Divide channels between pairs by their factors: rows of the first weight and its biases, columns of the second.

    Scope: main graph. Returns the number of pairs changed. The caller applies a set of factors once.
    """
    tensors = graph.tensors()
    seconds = {pair.first: pair.second for pair in equalizable(graph) if pair.first in factors}
    for first, second in seconds.items():
        factor = factors[first]
        convs = list(tensors[first].outputs)
        scaled: dict[str, gs.Constant] = {}
        for conv in convs:
            if len(conv.inputs) > 2:
                bias = conv.inputs[2]
                # A constant of its own: somebody else may read the old one.
                if bias.name not in scaled:
                    scaled[bias.name] = gs.Constant(f"{bias.name}/{first}", bias.values / factor)
                conv.inputs = [*conv.inputs[:2], scaled[bias.name]]
        tensors[first].values = tensors[first].values / factor[:, None, None, None]
        tensors[second].values = tensors[second].values * factor[None, :, None, None]
    return len(seconds)
