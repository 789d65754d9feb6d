"""Pass: quantized convolutions with float results, in a form that ONNX Runtime computes in integers.

ONNX Runtime has an integer kernel for a Conv only when its result is quantized too, which would cost the heads their
precision; a MatMul between DequantizeLinear nodes it computes in integers with a float result. So such a Conv becomes a
call of edge_retina::IntegerConv, whose body spells the convolution as one MatMul; TensorRT gets the Conv back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.rewrite.decode import DOMAIN
from edge_retina.rewrite.emit import Emitter

__all__ = ["put_conv", "restore_convs", "to_integer_convs"]

_NAME = "IntegerConv"
_INPUTS = ("codes", "scale", "zero", "weight", "weight_scale", "weight_zero", "bias")
# Pixels of one matrix product, about: the sums of more do not stay in a core's cache between one part of the window
# and the next, and each product more keeps the weights once more as its kernel wants them. 6400 pixels of 256 channels
# and 819 results took 1.3 times as long in one.
_BAND = 1280
_END = np.iinfo(np.int64).max


def to_integer_convs(graph: gs.Graph) -> int:
    """Replace each quantized Conv that keeps its size and whose result is a graph-inner float by an IntegerConv call.

    Rule: data and weight come from DequantizeLinear, there is a bias, the kernel is odd and square, strides, dilations
    and group are 1, the padding keeps the size, and only AnchorDecode reads the result. Where the result's size is
    known it is computed in bands of rows. Scope: main graph, and one function per kernel size and kind of bands.
    Returns the number of convolutions replaced; a second run returns 0.
    """
    replaced = 0
    for node in list(graph.nodes):
        if node.op != "Conv" or not _fits(node):
            continue
        size = node.inputs[1].shape[2]
        bands = _bands(node.outputs[0])
        name = f"{_NAME}{size}x{size}" + (f"x{len(bands)}of{bands[0][1]}" if len(bands) > 1 else "")
        if not any((f.domain, f.name) == (DOMAIN, name) for f in graph.functions):
            graph.functions.append(_function(name, size, bands, graph.opset))
        data, weight = node.inputs[0].inputs[0], node.inputs[1].inputs[0]
        result = node.outputs[0]
        # A name of its own even for a Conv without one: ONNX Runtime refuses two nodes of one name.
        label = f"cpu/{node.name or result.name}"
        call = gs.Node(name, label, {}, [*data.inputs, *weight.inputs, node.inputs[2]], [result])
        call.domain = DOMAIN
        node.outputs.clear()
        graph.nodes.append(call)
        replaced += 1
    if replaced:
        graph.cleanup().toposort()
    return replaced


def put_conv(graph: gs.Graph, call: gs.Node, weight: gs.Constant, attrs: dict[str, Any]) -> None:
    """Put the quantized Conv that a call stood for into its place: codes of `weight`, everything else the call's.

    Inputs of a call: data's codes, scale and zero point, the weight's three, bias. Its name is "cpu/" and the Conv's.
    """
    codes, scale, zero, _, weight_scale, weight_zero, bias = call.inputs
    result, name = call.outputs[0], call.name.removeprefix("cpu/")
    call.outputs.clear()
    data = gs.Variable(f"{result.name}/data", np.float32)
    kernel = gs.Variable(f"{result.name}/weight", np.float32)
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/data", {}, [codes, scale, zero], [data]))
    inputs = [weight, weight_scale, weight_zero]
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/weight", {"axis": 0}, inputs, [kernel]))
    graph.nodes.append(gs.Node("Conv", name, attrs, [data, kernel, bias], [result]))


def restore_convs(graph: gs.Graph) -> int:
    """Turn IntegerConv calls into the convolutions that they were, and drop the functions.

    Scope: main graph. Returns the number of calls replaced; a second run returns 0.
    """
    calls = [n for n in graph.nodes if n.domain == DOMAIN and n.op.startswith(_NAME)]
    for call in calls:
        weight = call.inputs[3]
        size = weight.shape[2]
        put_conv(graph, call, weight, {"kernel_shape": [size, size], "pads": [size // 2] * 4, "strides": [1, 1]})
    if calls:
        graph.functions = [f for f in graph.functions if not (f.domain == DOMAIN and f.name.startswith(_NAME))]
        graph.cleanup().toposort()
    return len(calls)


def _fits(conv: gs.Node) -> bool:
    quantized = all(t.inputs and t.inputs[0].op == "DequantizeLinear" for t in conv.inputs[:2])
    if not quantized or len(conv.inputs) < 3:
        return False
    size, attrs = conv.inputs[1].shape[2:], conv.attrs
    return (
        size[0] == size[1]
        and size[0] % 2 == 1
        and attrs.get("group", 1) == 1
        and attrs.get("auto_pad", "NOTSET") == "NOTSET"
        and list(attrs.get("pads", [0] * 4)) == [size[0] // 2] * 4
        and set(attrs.get("strides", [1])) | set(attrs.get("dilations", [1])) == {1}
        and bool(conv.outputs[0].outputs)
        and all(n.domain == DOMAIN for n in conv.outputs[0].outputs)
    )


def _bands(result: gs.Tensor) -> list[tuple[int, int]]:
    """First row and one behind the last of each band; the last band goes to the end, whatever that is."""
    height, width = (result.shape or [None] * 4)[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        return [(0, _END)]
    count = min(height, max(1, round(height * width / _BAND)))
    rows = -(-height // count)
    return [(first, first + rows if first + rows < height else _END) for first in range(0, height, rows)]


def _function(name: str, size: int, bands: list[tuple[int, int]], opset: int) -> gs.Function:
    """Pixels last, the kernel's window as size * size shifted copies side by side, times the weight as a matrix."""
    inputs = [gs.Variable(f"{name}/{what}") for what in _INPUTS]
    function = gs.Function(name, DOMAIN, inputs=inputs, opset=opset)
    codes, scale, zero, weight, weight_scale, weight_zero, bias = inputs
    emit = Emitter(function, name)
    rows = emit("Transpose", codes, perm=[0, 2, 3, 1])
    edge = size // 2
    if edge:
        rows = emit("Pad", rows, np.array([0, edge, edge, 0, 0, edge, edge, 0]), zero)
    matrix = emit("Flatten", emit("Transpose", weight, perm=[2, 3, 1, 0]), axis=3)
    results = []
    for first, stop in bands:
        window = [_part(emit, rows, first, stop, y, x, size) for y in range(size) for x in range(size)]
        product = emit(
            "MatMul",
            emit("DequantizeLinear", emit("Concat", *window, axis=3) if edge else window[0], scale, zero),
            emit("DequantizeLinear", matrix, weight_scale, weight_zero, axis=1),
        )
        results.append(emit("Transpose", emit("Add", product, bias), perm=[0, 3, 1, 2]))
    function.outputs = [emit("Concat", *results, axis=2) if len(results) > 1 else results[0]]
    return function


def _part(emit: Emitter, rows: gs.Variable, first: int, stop: int, y: int, x: int, size: int) -> gs.Variable:
    """Of the padded picture what the kernel's place (y, x) meets in a band of rows."""
    if size == 1 and (first, stop) == (0, _END):
        return rows
    bottom = stop + y if stop != _END else y + 1 - size
    # A stop of 0 would mean nothing; the largest integer means the end.
    stops = [_END if bottom == 0 else bottom, x + 1 - size or _END]
    return emit("Slice", rows, np.array([first + y, x]), np.array(stops), np.array([1, 2]))
