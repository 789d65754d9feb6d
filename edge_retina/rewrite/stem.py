"""Pass: a quantized first convolution on 2x2 pixels at a time.

ONNX Runtime copies each window of an integer convolution together, one row of a window after the other: for the 7x7
with stride 2 over three channels that a ResNet begins with, 147 bytes in seven pieces, which takes as long as
everything else that it does. Of four pixels made one, with twelve channels, the same sums are a 4x4 with stride 1: four
pieces. So such a Conv becomes a call of edge_retina::FoldedStem; TensorRT gets the Conv back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.rewrite.decode import DOMAIN
from edge_retina.rewrite.emit import Emitter
from edge_retina.rewrite.integer_conv import put_conv

__all__ = ["fold_stem", "restore_stem"]

_NAME = "FoldedStem"
_INPUTS = ("codes", "scale", "zero", "weight", "weight_scale", "weight_zero", "bias")
# Few channels make small pieces; of more than these the copies are no longer what takes the time.
_MOST_CHANNELS = 4
_SIDE, _PAD, _STRIDE = 7, 3, 2
_FOLDED = (_SIDE + 1) // _STRIDE


def fold_stem(graph: gs.Graph) -> int:
    """Replace each quantized 7x7 Conv with stride 2 over few channels and an even picture by a FoldedStem call.

    Rule: data and weight come from DequantizeLinear, there is a bias, the padding is 3 on all sides, dilations and
    group are 1, the size of the picture is known. The weight gets a row and a column of zeros, on the top and on the
    left. Scope: main graph. Returns the number of convolutions replaced; a second run returns 0.
    """
    stems = [node for node in graph.nodes if node.op == "Conv" and _fits(node)]
    for node in stems:
        if not any((f.domain, f.name) == (DOMAIN, _NAME) for f in graph.functions):
            graph.functions.append(_function(graph.opset))
        data, weight = node.inputs[0].inputs[0], node.inputs[1].inputs[0]
        codes, *constants = weight.inputs
        folded = gs.Constant(f"{codes.name}/folded", _fold(codes.values))
        result = node.outputs[0]
        # A name of its own even for a Conv without one: ONNX Runtime refuses two nodes of one name.
        label = f"cpu/{node.name or result.name}"
        call = gs.Node(_NAME, label, {}, [*data.inputs, folded, *constants, node.inputs[2]], [result])
        call.domain = DOMAIN
        node.outputs.clear()
        graph.nodes.append(call)
    if stems:
        graph.cleanup().toposort()
    return len(stems)


def restore_stem(graph: gs.Graph) -> int:
    """Turn FoldedStem calls into the convolutions that they were, and drop the function.

    Scope: main graph. Returns the number of calls replaced; a second run returns 0.
    """
    calls = [n for n in graph.nodes if (n.domain, n.op) == (DOMAIN, _NAME)]
    for call in calls:
        folded = call.inputs[3]
        weight = gs.Constant(folded.name.removesuffix("/folded"), _unfold(folded.values))
        put_conv(graph, call, weight, {"kernel_shape": [_SIDE] * 2, "pads": [_PAD] * 4, "strides": [_STRIDE] * 2})
    if calls:
        graph.functions = [f for f in graph.functions if (f.domain, f.name) != (DOMAIN, _NAME)]
        graph.cleanup().toposort()
    return len(calls)


def _fits(conv: gs.Node) -> bool:
    quantized = all(t.inputs and t.inputs[0].op == "DequantizeLinear" for t in conv.inputs[:2])
    if not quantized or len(conv.inputs) < 3 or not isinstance(conv.inputs[1].inputs[0].inputs[0], gs.Constant):
        return False
    (_, channels, *sides), attrs = conv.inputs[1].inputs[0].inputs[0].shape, conv.attrs
    picture = list(conv.inputs[0].shape or ())[2:]
    return (
        sides == [_SIDE, _SIDE]
        and channels <= _MOST_CHANNELS
        and len(picture) == 2
        and all(isinstance(side, int) and side % _STRIDE == 0 for side in picture)
        and attrs.get("group", 1) == 1
        and attrs.get("auto_pad", "NOTSET") == "NOTSET"
        and list(attrs.get("pads", [0] * 4)) == [_PAD] * 4
        and list(attrs.get("strides", [1])) == [_STRIDE] * 2
        and set(attrs.get("dilations", [1])) == {1}
    )


def _fold(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """(O, C, 7, 7) as (O, 4C, 4, 4); the four pixels in the order of SpaceToDepth."""
    out, channels = weight.shape[:2]
    square = np.pad(weight, ((0, 0), (0, 0), (1, 0), (1, 0)))
    split = square.reshape(out, channels, _FOLDED, _STRIDE, _FOLDED, _STRIDE)
    return np.ascontiguousarray(split.transpose(0, 3, 5, 1, 2, 4).reshape(out, -1, _FOLDED, _FOLDED))


def _unfold(folded: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    out, channels = len(folded), folded.shape[1] // _STRIDE**2
    split = folded.reshape(out, _STRIDE, _STRIDE, channels, _FOLDED, _FOLDED).transpose(0, 3, 4, 1, 5, 2)
    return np.ascontiguousarray(split.reshape(out, channels, _SIDE + 1, _SIDE + 1)[:, :, 1:, 1:])


def _function(opset: int) -> gs.Function:
    inputs = [gs.Variable(f"{_NAME}/{what}") for what in _INPUTS]
    function = gs.Function(_NAME, DOMAIN, inputs=inputs, opset=opset)
    codes, scale, zero, weight, weight_scale, weight_zero, bias = inputs
    emit = Emitter(function, _NAME)
    pixels = emit("SpaceToDepth", codes, blocksize=_STRIDE)
    # Rows -4 to 3 about each output's row: one of zeros, and the seven of the weight.
    attrs = {"kernel_shape": [_FOLDED] * 2, "pads": [2, 2, 1, 1], "strides": [1, 1]}
    function.outputs = [
        emit(
            "Conv",
            emit("DequantizeLinear", pixels, scale, zero),
            emit("DequantizeLinear", weight, weight_scale, weight_zero, axis=0),
            bias,
            **attrs,
        )
    ]
    return function
