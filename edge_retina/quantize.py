"""From a float graph and its statistics to an INT8 graph; each refinement can be turned off to see what it gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from edge_retina.calibrate import TensorStatistics
from edge_retina.calibrate.histogram import best_range
from edge_retina.errors import ModelError, UsageError
from edge_retina.memory import release
from edge_retina.rewrite.equalize import apply_factors, equalizing_factors
from edge_retina.rewrite.integer_conv import to_integer_convs
from edge_retina.rewrite.placement import Placement, layer_name, place
from edge_retina.rewrite.qdq import add_qdq
from edge_retina.rewrite.stem import fold_stem
from edge_retina.types import F32
from edge_retina.weights import LEVELS, QuantizedWeight, bias_shift, half_scale, quantize_weight

__all__ = ["EFFORTS", "Quantizer", "Recipe", "equalize", "equalized", "observed"]

EFFORTS = ("normal", "high")
# Weights of convolutions whose input can be negative. Their uint8 codes lie around 128, and on processors without VNNI
# ONNX Runtime adds two products of a code and a weight in 16 bits: 255 * (64 + 64) still fits.
_SIGNED_LEVELS = 63


@dataclass(frozen=True)
class Recipe:
    """How to quantize.

    method: range of the activations, one of calibrate.histogram.METHODS. equalize: cross-layer equalisation.
    search_scales: search each weight channel's scale, else take the one that clips nothing. correct_bias: give back
    what rounded weights do to the mean. effort: "high" rounds weights by rounding.round_weight.
    """

    method: str = "mse"
    equalize: bool = True
    search_scales: bool = True
    correct_bias: bool = True
    effort: str = "normal"

    def __post_init__(self) -> None:
        if self.effort not in EFFORTS:
            raise UsageError(f"unknown INT8 effort {self.effort!r}; use one of {', '.join(EFFORTS)}")


def observed(model: onnx.ModelProto) -> set[str]:
    """Every tensor that some placement may quantize: what calibration has to look at."""
    return set(place(gs.import_onnx(model)).groups)


def equalize(model: onnx.ModelProto, statistics: Mapping[str, TensorStatistics]) -> dict[str, F32]:
    """Equalisation factors for `equalized`; see rewrite.equalize. statistics: of every tensor that `observed` names."""
    release()  # what reading them took
    return equalizing_factors(gs.import_onnx(model), statistics)


def equalized(model: onnx.ModelProto, factors: Mapping[str, F32]) -> onnx.ModelProto:
    """The same function with its channels equalised."""
    if not factors:
        return model
    graph = gs.import_onnx(model)
    apply_factors(graph, factors)
    result: onnx.ModelProto = gs.export_onnx(graph)
    return result


class Quantizer:
    """Holds what all INT8 versions of a model share: scales and rounded weights.

    model: float, rewritten and equalised. statistics: of every tensor that `observed` names. rounded: weights that were
    rounded with more effort, by name. Raises ModelError when statistics are missing.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        statistics: Mapping[str, TensorStatistics],
        recipe: Recipe,
        rounded: Mapping[str, QuantizedWeight] | None = None,
    ) -> None:
        self.model, self.statistics, self.recipe = model, statistics, recipe
        self._ranges: dict[tuple[str, ...], float] = {}
        graph = gs.import_onnx(model)
        self.everything = place(graph)
        missing = sorted(set(self.everything.groups) - set(statistics))
        if missing:
            raise ModelError(
                f"no calibration statistics for {missing[0]!r} and {len(missing) - 1} more; calibrate anew"
            )
        self.weights = self._weights(graph, rounded or {})

    def quantized(self, skip: Collection[str] = ()) -> onnx.ModelProto:
        """The INT8 graph with the convolutions in `skip`, named by their outputs, left in float."""
        graph = gs.import_onnx(self.model)
        placement = place(graph, skip)
        nodes = {layer_name(node): node for node in graph.nodes}
        scales = {group: self.scale(members) for group, members in placement.observed.items()}
        weights = {name: self.weights[nodes[name].inputs[1].name] for name in placement.convs}
        biases = {name: self.bias(nodes[name]) for name in placement.convs}
        add_qdq(graph, placement, scales, weights, biases)
        to_integer_convs(graph)
        fold_stem(graph)
        result: onnx.ModelProto = gs.export_onnx(graph)
        return result

    def range(self, tensors: Collection[str]) -> float:
        """The magnitude that gets code 127 in tensors that share a scale."""
        key = tuple(tensors)
        if key not in self._ranges:
            whole, *others = (self.statistics[name].histogram for name in key)
            for other in others:
                whole = whole.merge(other)
            self._ranges[key] = best_range(whole, self.recipe.method)
        return self._ranges[key]

    def scale(self, tensors: Collection[str]) -> float:
        """Their scale, exact in float16."""
        return float(half_scale(self.range(tensors) / LEVELS))

    def used_ranges(self) -> dict[str, float]:
        """The range of each tensor's group, by tensor."""
        groups, observed = self.everything.groups, self.everything.observed
        return {name: self.range(observed[group]) for name, group in groups.items()}

    def units(self) -> list[tuple[str, ...]]:
        """What is quantized or left in float together: the convolutions that share a weight, in graph order."""
        return units(self.model, self.everything)

    def _weights(self, graph: gs.Graph, rounded: Mapping[str, QuantizedWeight]) -> dict[str, QuantizedWeight]:
        nodes = {layer_name(node): node for node in graph.nodes}
        result = dict(rounded)
        for unit in self.units():
            convs = [nodes[name] for name in unit]
            weight = convs[0].inputs[1]
            if weight.name in result:
                continue
            energy = np.mean([self.statistics[conv.inputs[0].name].energy for conv in convs], 0)
            result[weight.name] = quantize_weight(
                weight.values,
                search=self.recipe.search_scales,
                energy=energy if convs[0].attrs.get("group", 1) == 1 else None,
                levels=self.levels(unit),
            )
        return result

    def levels(self, unit: tuple[str, ...]) -> int:
        """The largest weight code of a unit's convolutions."""
        groups = (self.everything.groups[self.everything.edges[name, 0]] for name in unit)
        return _SIGNED_LEVELS if any(group in self.everything.signed for group in groups) else LEVELS

    def bias(self, conv: gs.Node) -> F32:
        """Of a convolution, with what its rounded weight does to the mean given back."""
        weight = conv.inputs[1]
        bias = conv.inputs[2].values if len(conv.inputs) > 2 else np.zeros(len(weight.values), np.float32)
        if not self.recipe.correct_bias or conv.attrs.get("group", 1) != 1:
            return np.asarray(bias, np.float32)
        shift = bias_shift(weight.values, self.weights[weight.name], self.statistics[conv.inputs[0].name].mean)
        return np.asarray(bias + shift, np.float32)


def units(model: onnx.ModelProto, placement: Placement) -> list[tuple[str, ...]]:
    """Convolutions of a placement grouped by the weight that they share."""
    weight_of = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    found: dict[str, list[str]] = {}
    for name in placement.convs:
        found.setdefault(weight_of[name], []).append(name)
    return [tuple(members) for members in found.values()]
