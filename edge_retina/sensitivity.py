"""Which layers cost accuracy in INT8, found with pictures alone."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.disagreement import Reference, disagreement, references
from edge_retina.memory import release
from edge_retina.quantize import Quantizer
from edge_retina.rewrite.emit import Emitter
from edge_retina.runtime.ort import open_session
from edge_retina.spec import DetectorSpec
from edge_retina.types import U8

__all__ = ["HARMLESS", "Choice", "Cost", "choose_float", "local_sqnr", "rank", "share"]

# Below this disagreement there is nothing to win: at 0.04 the digits model's AP had lost 0.002, at 0.13 0.008.
HARMLESS = 0.02
# Below this one there is so little to win that layers are not tried one by one.
_LITTLE = 0.06
# How many layers are tried: those closest to the pixels, and those with the most noise of their own.
_FIRST, _NOISIEST = 2, 8
# Decibels that rounded weights alone do not fall below: what a layer reads has channels that its one scale drowns.
_DROWNED = 20.0
# A choice has to win back so much of the disagreement; of that, this share is enough to stop at fewer layers.
_WORTH, _ENOUGH = 0.05, 0.9
_SQNR_FRAMES, _RANKING_FRAMES = 2, 4
# Convolutions that one graph holds twice: all at once took 150 MB of digits.
_TWINS = 34
# Of all work: what a cheap unit has at most.
_CHEAP = 0.005


@dataclass(frozen=True)
class Cost:
    """What quantizing one unit alone costs.

    unit: convolutions that share a weight, by their outputs. disagreement: with the float model, 0.0 is the same.
    sqnr: of its convolutions' own outputs, the worst one, in decibels.
    """

    unit: tuple[str, ...]
    disagreement: float
    sqnr: float


@dataclass(frozen=True)
class Choice:
    """Which convolutions to leave in float.

    skip: by their outputs. before, after: disagreement with everything in INT8, and with `skip` in float.
    costs: what was tried alone, the worst first. sqnr: what local_sqnr gave, empty where it was not asked.
    """

    skip: tuple[str, ...]
    before: float
    after: float
    costs: tuple[Cost, ...]
    sqnr: Mapping[str, float] = field(default_factory=dict)


def share(macs: Mapping[str, int], skip: Iterable[str]) -> float:
    """Of the multiply-accumulates of all convolutions, those not in `skip`; 0..1."""
    whole = sum(macs.values())
    return 1 - sum(macs[name] for name in skip) / whole if whole else 0.0


def rank(
    quantizer: Quantizer,
    spec: DetectorSpec,
    frames: Sequence[U8],
    units: Sequence[tuple[str, ...]] | None = None,
    *,
    sqnr: Mapping[str, float] | None = None,
    wanted: Sequence[Reference] | None = None,
    on_unit: Callable[[], None] = lambda: None,
) -> list[Cost]:
    """What quantizing each unit alone costs, the worst first. units: all unless given. on_unit is called after each.

    sqnr, wanted: what local_sqnr and, of these frames, references gave, where it is known already.
    """
    everything = quantizer.units()
    sqnr = local_sqnr(quantizer, frames[:_SQNR_FRAMES]) if sqnr is None else sqnr
    wanted = references(quantizer.model, spec, frames) if wanted is None else wanted
    costs = []
    for unit in everything if units is None else units:
        others = [name for other in everything for name in other if other != unit]
        alone = disagreement(quantizer.quantized(others), spec, frames, wanted)
        costs.append(Cost(unit, alone, min(sqnr[name] for name in unit)))
        on_unit()
    return sorted(costs, key=lambda cost: -cost.disagreement)


def candidates(
    quantizer: Quantizer, frames: Sequence[U8], macs: Mapping[str, int], sqnr: Mapping[str, float] | None = None
) -> list[tuple[str, ...]]:
    """The units worth trying: the first ones, which see pixels, the noisiest of their own, and the cheap ones.

    Cheap are projections and laterals, 1x1 on little, which cost no time to speak of in float. With a unit that drowns
    in noise come those that write what it reads: as long as they are in INT8 it gets their results rounded to the same
    few codes, in INT8 or not. sqnr: what local_sqnr gave, where it is known already.
    """
    everything = quantizer.units()
    sqnr = local_sqnr(quantizer, frames[:_SQNR_FRAMES]) if sqnr is None else sqnr
    noisiest = sorted(everything[_FIRST:], key=lambda unit: min(sqnr[name] for name in unit))[:_NOISIEST]
    drowned = [u for u in (*everything[:_FIRST], *noisiest) if min(sqnr[name] for name in u) < _DROWNED]
    writers = [w for unit in drowned for w in _writers(quantizer, unit)]
    cheap = [unit for unit in everything if 1 - share(macs, unit) <= _CHEAP]
    return list(dict.fromkeys((*everything[:_FIRST], *noisiest, *writers, *cheap)))


def _writers(quantizer: Quantizer, unit: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Units whose results a unit reads as they are, or through a ReLU."""
    made_by = {name: node for node in quantizer.model.graph.node for name in node.output}
    found = set()
    for name in unit:
        node = made_by.get(made_by[name].input[0])
        if node is not None and node.op_type == "Relu":
            node = made_by.get(node.input[0])
        found |= set() if node is None else set(node.output)
    return [other for other in quantizer.units() if found & set(other)]


def choose_float(
    quantizer: Quantizer,
    spec: DetectorSpec,
    frames: Sequence[U8],
    macs: Mapping[str, int],
    *,
    skip: tuple[str, ...] = (),
    least_share: float = 0.95,
    wanted: Sequence[Reference] | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Choice:
    """Find the few layers that INT8 does not suit, if there are any; those in `skip` are in float anyway.

    Nothing is tried where INT8 as a whole is harmless, or where all has to stay in INT8. Else units are put in order
    of what they cost for their work, and the shortest run of the first ones that wins back most is taken, never so
    many that less than `least_share` of the work stays in INT8. Several at once, since two bad layers hide each other:
    without one the other still spoils the result. Where INT8 costs little, what a unit costs is taken to be its own
    noise, and a few runs are tried; else some units are quantized alone, and all runs are tried.
    wanted: what references gave of the frames, where it is known already.
    """
    wanted = references(quantizer.model, spec, frames) if wanted is None else wanted
    known = {skip: disagreement(quantizer.quantized(skip), spec, frames, wanted)}
    before = known[skip]
    if before <= HARMLESS or least_share >= 1:
        return Choice(skip, before, before, ())

    def after(run: tuple[str, ...]) -> float:
        if run not in known:
            known[run] = disagreement(quantizer.quantized(run), spec, frames, wanted)
            on_step()
        return known[run]

    sqnr = local_sqnr(quantizer, frames[:_SQNR_FRAMES])
    costs: list[Cost] = []
    if before > _LITTLE:
        tried = candidates(quantizer, frames, macs, sqnr)
        costs = rank(
            quantizer,
            spec,
            frames[:_RANKING_FRAMES],
            tried,
            sqnr=sqnr,
            wanted=wanted[:_RANKING_FRAMES],
            on_unit=on_step,
        )
        noise = {cost.unit: cost.disagreement**2 for cost in costs}  # noise adds up in squares
    else:
        noise = {unit: max(10 ** (-sqnr[name] / 10) for name in unit) for unit in quantizer.units()}
    runs = _runs(noise, macs, _weights(quantizer), skip, least_share)
    least = min(after(run) for run in (runs if costs else runs[-1:]))
    if before - least < _WORTH * before:
        return Choice(skip, before, before, tuple(costs), sqnr)
    limit = before - _ENOUGH * (before - least)
    if costs:
        chosen = next(run for run in runs if after(run) <= limit)
    else:
        chosen = runs[bisect.bisect_left(range(len(runs)), x=True, key=lambda i: after(runs[i]) <= limit)]
    return Choice(chosen, before, after(chosen), tuple(costs), sqnr)


def _weights(quantizer: Quantizer) -> dict[str, float]:
    """Each convolution's part of all their weights, which is what it costs in the file and in memory."""
    sizes = {t.name: int(np.prod(t.dims)) for t in quantizer.model.graph.initializer}
    convs = {n.output[0]: sizes.get(n.input[1], 0) for n in quantizer.model.graph.node if n.op_type == "Conv"}
    total = max(sum(convs.values()), 1)
    return {name: size / total for name, size in convs.items()}


def _runs(
    noise: Mapping[tuple[str, ...], float],
    macs: Mapping[str, int],
    weights: Mapping[str, float],
    skip: tuple[str, ...],
    least_share: float,
) -> list[tuple[str, ...]]:
    """`skip`, and longer and longer runs of the units with the most noise for what they cost; those that fit the share.

    What a unit costs in float: its part of the work or of the weights, whichever is larger.
    """

    def cost(unit: tuple[str, ...]) -> float:
        return max(1 - share(macs, unit), max(weights.get(name, 0.0) for name in unit), 1e-9)

    runs = [skip]
    for unit in sorted(noise, key=lambda unit: -noise[unit] / cost(unit)):
        more = tuple(dict.fromkeys((*runs[-1], *unit)))
        if share(macs, more) >= least_share:
            runs.append(more)
    return runs


def local_sqnr(quantizer: Quantizer, frames: Sequence[U8]) -> dict[str, float]:
    """Signal to quantization noise of each convolution alone, in decibels, by its output's name.

    Its input is that of the float model, quantized; its weight is quantized; its output is compared with the float
    one's. One graph holds both, for some convolutions at a time, and only sums leave it.
    """
    names = [name for node in quantizer.model.graph.node for name in node.output if name in quantizer.everything.convs]
    found: dict[str, float] = {}
    for start in range(0, len(names), _TWINS):
        found |= _sqnr(quantizer, names[start : start + _TWINS], frames)
    return found


def _sqnr(quantizer: Quantizer, names: Sequence[str], frames: Sequence[U8]) -> dict[str, float]:
    release()
    model = _twins(quantizer, names)
    release()
    session, sums = open_session(model, lean=True, optimize=False), np.zeros(2 * len(names))
    del model
    release()
    for frame in frames:
        sums += np.array([float(v) for v in session.run(None, {"frames": frame[None]})])
    return {name: _decibels(s, n) for name, s, n in zip(names, sums[::2], sums[1::2], strict=True)}


def _twins(quantizer: Quantizer, names: Sequence[str]) -> bytes:
    """The float model with quantized copies of some convolutions; out come two sums of each."""
    graph = gs.import_onnx(quantizer.model)
    nodes, placement = {node.outputs[0].name: node for node in graph.nodes}, quantizer.everything
    emit, outputs = Emitter(graph, "twin"), []
    for name in names:
        group = placement.groups[placement.edges[name, 0]]
        outputs += _twin(emit, nodes[name], quantizer.scale(placement.observed[group]), quantizer)
    graph.outputs = outputs
    graph.cleanup().toposort()
    return bytes(gs.export_onnx(graph).SerializeToString())


def _decibels(signal: float, noise: float) -> float:
    """Inf without noise or without a signal, -inf where float32 cannot hold the squares: nor can a scale."""
    if not np.isfinite((signal, noise)).all():
        return -np.inf
    return float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else np.inf


def _twin(emit: Emitter, conv: gs.Node, scale: float, quantizer: Quantizer) -> list[gs.Variable]:
    """A quantized copy of a convolution beside it; returns the sums of squares of its output and of the difference."""
    constants = np.array(scale, np.float32), np.array(0, np.int8)
    values = emit("DequantizeLinear", emit("QuantizeLinear", conv.inputs[0], *constants), *constants)
    weight = quantizer.weights[conv.inputs[1].name].dequantized()
    copy = emit("Conv", values, weight, quantizer.bias(conv), **conv.attrs)
    sums = [emit("ReduceSumSquare", t, keepdims=0) for t in (conv.outputs[0], emit("Sub", conv.outputs[0], copy))]
    for tensor in sums:
        tensor.dtype = np.dtype(np.float32)
    return sums
