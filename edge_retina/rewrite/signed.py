"""Pass: quantization as ONNX Runtime likes it to quantization as TensorRT wants it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.rewrite.qdq import CPU_PREFIX

__all__ = ["to_signed"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# Zero points of uint8 activations: of those that can be negative, and of those that cannot.
_UNSIGNED = (128, 0)


def to_signed(graph: gs.Graph) -> int:
    """Make every activation int8 with zero point 0 and every bias float.

    Rule: Q/DQ pairs whose names start with qdq.CPU_PREFIX go; uint8 codes become int8 of the same scale, c - 128 where
    the zero point was 128, c where it was 0, and those above 127 saturate, beyond the calibrated range; a
    DequantizeLinear of an int32 constant becomes the float constant it stands for. Weights are int8 and stay as they
    are. Scope: main graph. Returns the number of nodes changed or removed; a second run returns 0.
    Raises ModelError: another zero point, uint8 weights, codes that something other than a DequantizeLinear reads.
    """
    edits = 0
    for node in list(graph.nodes):
        if node.op == _DEQUANTIZE and node.name.startswith(CPU_PREFIX):
            edits += _drop_pair(graph, node)
    for node in list(graph.nodes):
        if node.op == _DEQUANTIZE and _is_constant(node.inputs[0], np.int32):
            edits += _float_bias(graph, node)
        elif node.op in (_QUANTIZE, _DEQUANTIZE):
            edits += _sign(node)
    if edits:
        graph.cleanup().toposort()
    return edits


def _is_constant(tensor: gs.Tensor, dtype: type) -> bool:
    return isinstance(tensor, gs.Constant) and bool(tensor.dtype == dtype)


def _drop_pair(graph: gs.Graph, dequantize: gs.Node) -> int:
    """Readers of DQ's output read Q's input instead."""
    quantize = next(iter(dequantize.inputs[0].inputs), None)
    if quantize is None or quantize.op != _QUANTIZE:
        raise ModelError(f"wanted a {_QUANTIZE} before {dequantize.name!r}, found {_what(quantize)}")
    source, values = quantize.inputs[0], dequantize.outputs[0]
    for reader in list(values.outputs):
        reader.inputs = [source if tensor is values else tensor for tensor in reader.inputs]
    graph.outputs = [source if tensor is values else tensor for tensor in graph.outputs]
    dequantize.inputs.clear()
    gone = [dequantize] if quantize.outputs[0].outputs else [dequantize, quantize]
    for node in gone:
        graph.nodes.remove(node)
    return len(gone)


def _float_bias(graph: gs.Graph, node: gs.Node) -> int:
    codes, scale = node.inputs[0].values, node.inputs[1]
    if not isinstance(scale, gs.Constant) or _zero_point(node) not in (None, 0):
        raise ModelError(f"the bias {node.name!r} wants a constant scale and zero point 0")
    result = node.outputs[0]
    bias = gs.Constant(result.name, codes.astype(scale.values.dtype) * scale.values)
    for reader in list(result.outputs):
        reader.inputs = [bias if tensor is result else tensor for tensor in reader.inputs]
    graph.nodes.remove(node)
    node.outputs.clear()
    return 1


def _sign(node: gs.Node) -> int:
    zero, quantizes = _zero_point(node), node.op == _QUANTIZE
    codes = node.outputs[0] if quantizes else node.inputs[0]
    # Codes without a zero point are uint8; weights without one stay what they are.
    unsigned = node.inputs[2].dtype == np.uint8 if zero is not None else not isinstance(codes, gs.Constant)
    if not unsigned:
        if zero:
            raise ModelError(f"{node.name!r} has zero point {zero}; TensorRT wants 0 for int8")
        return 0
    if zero not in (None, *_UNSIGNED):
        raise ModelError(f"{node.name!r} has zero point {zero}; wanted 128 or 0 for uint8")
    if isinstance(codes, gs.Constant):
        raise ModelError(f"{node.name!r} has uint8 weights; wanted int8 with zero point 0")
    others = [reader for reader in codes.outputs if reader.op != _DEQUANTIZE] if quantizes else []
    if others:
        raise ModelError(f"wanted a {_DEQUANTIZE} behind {node.name!r}, found {_what(others[0])}")
    shape = node.inputs[1].values.shape if isinstance(node.inputs[1], gs.Constant) else ()
    node.inputs = [*node.inputs[:2], gs.Constant(f"{node.name}/signed_zero", np.zeros(shape, np.int8))]
    codes.dtype = np.dtype(np.int8)
    return 1


def _zero_point(node: gs.Node) -> int | None:
    """The zero point of a Q or DQ node; None without one."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return None
    zero = node.inputs[2]
    if not isinstance(zero, gs.Constant) or np.unique(zero.values).size != 1:
        raise ModelError(f"{node.name!r} wants one constant zero point for all channels")
    return int(zero.values.flat[0])


def _what(node: gs.Node | None) -> str:
    return "nothing" if node is None else f"{node.op} {node.name!r}"
