"""Pass: explicit quantization, as Q/DQ pairs around the tensors and weights of the quantized convolutions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.rewrite.placement import Placement, layer_name, quantizable
from edge_retina.types import F32
from edge_retina.weights import QuantizedWeight

__all__ = ["CPU_PREFIX", "add_qdq"]

# Starts the names of the pairs that TensorRT does without.
CPU_PREFIX = "cpu/"
_ZERO_POINT = {True: 128, False: 0}  # by whether the tensor can be negative


def add_qdq(
    graph: gs.Graph,
    placement: Placement,
    scales: Mapping[str, float],
    weights: Mapping[str, QuantizedWeight],
    biases: Mapping[str, F32],
) -> int:
    """Insert the Q/DQ pairs of a placement.

    scales: group to scale. weights: convolution to its quantized weight; convolutions that share a weight share the
    QuantizedWeight. biases: convolution to its bias, float32 (O,), where it has or gets one. Rule: one pair per tensor,
    whatever reads it; activations are uint8 with zero point 128, or 0 where the tensor cannot be negative, and the
    scale of the symmetric int8 code, so that within the range they hold the same values as int8 with zero point 0,
    which rewrite.signed makes of them for TensorRT; ONNX Runtime is faster on uint8. Weights are int8 initializers with
    a DequantizeLinear over axis 0; biases stay float. A convolution that stays float has a DequantizeLinear of its own,
    which TensorRT does without. Scope: main graph. Returns the number of nodes added; a second run returns 0.
    Raises ModelError when a tensor has no scale.
    """
    if any(node.op == "QuantizeLinear" for node in graph.nodes):
        return 0
    before = len(graph.nodes)
    nodes = {layer_name(node): node for node in graph.nodes}
    tensors = graph.tensors()
    cpu_only = set(placement.cpu_edges.values())
    pairs = {}
    for name, group in placement.groups.items():
        if group not in scales:
            raise ModelError(f"no calibrated range for {group!r}; calibrate the graph that is quantized")
        prefix = CPU_PREFIX if name in cpu_only else "qdq/"
        pairs[name] = _pair(graph, tensors[name], prefix, scales[group], group in placement.signed)
    stay_float = {layer_name(node) for node in quantizable(graph)}.difference(placement.convs)
    for (reader, index), name in {**placement.edges, **placement.cpu_edges}.items():
        node = nodes[reader]
        node.inputs[index] = _for_float_conv(graph, pairs[name], node) if reader in stay_float else pairs[name]
    initializers: dict[int, tuple[gs.Constant, gs.Constant, gs.Constant]] = {}
    for name in placement.convs:
        conv, weight = nodes[name], weights[name]
        if id(weight) not in initializers:
            base = conv.inputs[1].name
            zero = gs.Constant(f"{base}/zero", np.zeros(len(weight.scales), np.int8))
            scale = gs.Constant(f"{base}/scale", weight.scales)
            initializers[id(weight)] = gs.Constant(f"{base}/int8", weight.codes), scale, zero
        result = gs.Variable(f"{name}/weight", np.float32, list(weight.codes.shape))
        attrs = {"axis": 0}
        graph.nodes.append(
            gs.Node("DequantizeLinear", f"qdq/{name}/weight", attrs, list(initializers[id(weight)]), [result])
        )
        conv.inputs[1] = result
        if name in biases:
            conv.inputs = [*conv.inputs[:2], gs.Constant(f"{name}/bias", biases[name])]
    graph.cleanup().toposort()
    return len(graph.nodes) - before


def _pair(graph: gs.Graph, tensor: gs.Tensor, prefix: str, scale: float, signed: bool) -> gs.Variable:
    """Q and DQ behind a tensor; returns what DQ gives."""
    constants = [
        gs.Constant(f"{prefix}{tensor.name}/scale", np.array(scale, np.float32)),
        gs.Constant(f"{prefix}{tensor.name}/zero", np.array(_ZERO_POINT[signed], np.uint8)),
    ]
    codes = gs.Variable(f"{prefix}{tensor.name}/codes", np.uint8, tensor.shape)
    values = gs.Variable(f"{prefix}{tensor.name}/values", np.float32, tensor.shape)
    graph.nodes.append(gs.Node("QuantizeLinear", f"{prefix}{tensor.name}/q", {}, [tensor, *constants], [codes]))
    graph.nodes.append(gs.Node("DequantizeLinear", f"{prefix}{tensor.name}/dq", {}, [codes, *constants], [values]))
    return values


def _for_float_conv(graph: gs.Graph, values: gs.Variable, conv: gs.Node) -> gs.Variable:
    """The same values, by a DequantizeLinear with a scale per channel, all of them equal.

    Behind one with a single scale ONNX Runtime rounds float weights to int8 too, with one scale for the whole weight
    (onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc).
    """
    codes, *constants = values.inputs[0].inputs
    channels = conv.inputs[1].values.shape[1] * conv.attrs.get("group", 1)
    name = f"{CPU_PREFIX}{layer_name(conv)}/input"
    each = [gs.Constant(f"{name}/{i}", np.repeat(t.values, channels)) for i, t in enumerate(constants)]
    result = gs.Variable(f"{name}/values", np.float32, values.shape)
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/dq", {"axis": 1}, [codes, *each], [result]))
    return result
