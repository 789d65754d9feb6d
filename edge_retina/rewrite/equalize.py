"""Pass: cross-layer equalisation, which spreads a tensor's range over its channels without changing the function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.calibrate.statistics import TensorStatistics
from edge_retina.rewrite.groups import Groups
from edge_retina.types import F32
from edge_retina.weights import LEVELS

__all__ = ["Stream", "apply_factors", "channel_factors", "equalizable", "equalizing_factors"]

F64 = npt.NDArray[np.float64]

# Channel by channel, and f(a x) = a f(x) for a > 0.
_HOMOGENEOUS = ("Add", "AveragePool", "GlobalAveragePool", "Identity", "LeakyRelu", "MaxPool", "Relu", "Resize", "Sub")
# How far to go from "not at all" (0) to "all channels of equal peak" (1).
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Factors beyond this are those of dead channels.
_MOST = 2.0**8
# Less predicted gain is not worth a change.
_GAIN = 0.9


@dataclass(frozen=True)
class Stream:
    """Tensors whose channels belong together: between the convolutions that write them and those that read them.

    name: the first tensor. writers, readers: weights by name; a writer's rows and a reader's columns are the channels.
    read: reader to the tensors that its convolutions read, one per pyramid level where a head shares it.
    """

    name: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    read: Mapping[str, tuple[str, ...]]

    def tensors(self) -> set[str]:
        """What calibration has to look at."""
        return {name for names in self.read.values() for name in names}


def equalizable(graph: gs.Graph) -> tuple[Stream, ...]:
    """Every stream whose channels can be divided by factors, and multiplied again, with the function unchanged.

    A pair of convolutions around a ReLU, the residual stream of a whole stage, the merged levels of an FPN: what writes
    and reads it are convolutions without groups whose weights nothing else uses, homogeneous operators lie between.
    Source: Nagel 2019, section 4.1, there for pairs.
    """
    groups, broken = _channel_groups(graph)
    tensors = graph.tensors()
    members: dict[str, list[gs.Tensor]] = {}
    for tensor in tensors.values():
        if tensor.name in groups:
            members.setdefault(groups.root(tensor.name), []).append(tensor)
    streams = []
    for root, joined in members.items():
        if root in {groups.root(name) for name in broken if name in groups}:
            continue
        writers = [t.inputs[0].inputs[1].name for t in joined if t.inputs[0].op == "Conv"]
        read: dict[str, list[str]] = {}
        for tensor in joined:
            for node in tensor.outputs:
                if node.op == "Conv":
                    read.setdefault(node.inputs[1].name, []).append(tensor.name)
        channels = {len(tensors[w].values) for w in writers} | {tensors[w].values.shape[1] for w in read}
        # Not one number of channels: some Add repeats a single channel over all.
        if writers and read and len(channels) == 1:
            unique = {weight: tuple(dict.fromkeys(names)) for weight, names in read.items()}
            streams.append(Stream(joined[0].name, tuple(dict.fromkeys(writers)), tuple(unique), unique))
    return tuple(streams)


def _channel_groups(graph: gs.Graph) -> tuple[Groups, set[str]]:
    """Tensors grouped by shared channels, and those tensors that something else writes or reads."""
    groups, broken = Groups(), {t.name for t in [*graph.inputs, *graph.outputs]}
    rows: dict[str, str] = {}
    columns: dict[str, str] = {}
    for node in graph.nodes:
        data = [t for t in node.inputs if isinstance(t, gs.Variable) and not t.is_empty()]
        plain = all(not isinstance(t, gs.Constant) for t in node.inputs[:2]) or node.op not in ("Add", "Sub")
        if node.op == "Conv" and _is_plain(node):
            weight, read, written = node.inputs[1].name, data[0].name, node.outputs[0].name
            groups.join(rows.setdefault(weight, written), written)
            groups.join(columns.setdefault(weight, read), read)
            if any(other.op != "Conv" or other.inputs[1] is not node.inputs[1] for other in node.inputs[1].outputs):
                broken |= {read, written}
        elif node.op in _HOMOGENEOUS and plain and data:
            for tensor in [*data, *node.outputs]:
                groups.join(data[0].name, tensor.name)
        else:
            broken |= {t.name for t in [*data, *node.outputs]}
    return groups, broken


def _is_plain(conv: gs.Node) -> bool:
    """True for a convolution over pictures, without groups, whose weight and bias are constants."""
    constant = all(isinstance(t, gs.Constant) for t in conv.inputs[1:])
    return constant and conv.inputs[1].values.ndim == 4 and conv.attrs.get("group", 1) == 1


def equalizing_factors(graph: gs.Graph, statistics: Mapping[str, TensorStatistics]) -> dict[str, F32]:
    """Factors per channel for each stream, by its name; streams that gain nothing are left out.

    A tensor has one scale for all channels; equal peaks use it best. But what a channel is divided by the readers'
    weights are multiplied by, and those have one scale per output channel. Of five strengths the one with the least
    predicted error at the readers' outputs is taken; the writers have a scale per row and do not mind. Factors are
    powers of two, so that the equalised graph gives the same float32 numbers as the original.
    """
    factors = {}
    tensors = graph.tensors()
    for stream in equalizable(graph):
        readers = [_Reader.of(tensors[w].values, [statistics[t] for t in stream.read[w]]) for w in stream.readers]
        relative = np.max([r.peak / max(r.peak.max(), 1e-30) for r in readers], 0)
        relative = np.where(relative > 0, relative, 1.0)
        candidates = [_powers_of_two(relative**strength) for strength in _STRENGTHS]
        noise = [sum(reader.noise(factor) for reader in readers) for factor in candidates]
        best = int(np.argmin(noise))
        if best and noise[best] < _GAIN * noise[0]:
            factors[stream.name] = candidates[best].astype(np.float32)
    return factors


def _powers_of_two(values: F64) -> F64:
    exponents = np.rint(np.log2(np.clip(values, 1 / _MOST, 1.0)))
    return np.asarray(np.exp2(exponents))


@dataclass(frozen=True, eq=False)
class _Reader:
    """weight: (O, C, k). peak, energy: (C,), of what it reads."""

    weight: F64
    peak: F64
    energy: F64

    @classmethod
    def of(cls, weight: F32, read: list[TensorStatistics]) -> _Reader:
        rows = weight.reshape(*weight.shape[:2], -1).astype(np.float64)
        return cls(rows, np.max([s.peak for s in read], 0), np.max([s.energy for s in read], 0))

    def noise(self, factor: F64) -> float:
        """Predicted error of rounded activations and rounded weights, relative to the output's energy."""
        scaled = self.weight * factor[None, :, None]
        activations = (np.max(self.peak / factor) / LEVELS) ** 2 * np.square(scaled).sum()
        steps = np.abs(scaled).max((1, 2)) / LEVELS
        weights = np.square(steps).sum() * (self.energy / factor**2).sum() * self.weight.shape[2]
        signal = float(np.square(self.weight).sum((0, 2)) @ self.energy)
        return float(activations + weights) / signal if signal > 0 else 0.0


def channel_factors(graph: gs.Graph, factors: Mapping[str, F32]) -> dict[str, F32]:
    """Tensor to what its channels are divided by once the factors of streams are applied."""
    groups, _ = _channel_groups(graph)
    divided = {groups.root(name): factor for name, factor in factors.items()}
    roots = {name: groups.root(name) for name in graph.tensors() if name in groups}
    return {name: divided[root] for name, root in roots.items() if root in divided}


def apply_factors(graph: gs.Graph, factors: Mapping[str, F32]) -> int:
    """Divide the channels of streams by their factors: rows and biases of the writers, columns of the readers.

    Scope: main graph. Returns the number of streams changed. The caller applies a set of factors once.
    """
    tensors = graph.tensors()
    streams = [stream for stream in equalizable(graph) if stream.name in factors]
    for stream in streams:
        factor = factors[stream.name]
        for name in stream.writers:
            weight = tensors[name]
            weight.values = weight.values / factor[:, None, None, None]
            scaled: dict[str, gs.Constant] = {}
            for conv in list(weight.outputs):
                if len(conv.inputs) > 2:
                    bias = conv.inputs[2]
                    # A constant of its own: somebody else may read the old one.
                    if bias.name not in scaled:
                        scaled[bias.name] = gs.Constant(f"{bias.name}/{name}", bias.values / factor)
                    conv.inputs = [*conv.inputs[:2], scaled[bias.name]]
        for name in stream.readers:
            tensors[name].values = tensors[name].values * factor[None, :, None, None]
    return len(streams)
