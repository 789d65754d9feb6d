"""How much work each convolution is, in multiply-accumulates, read off the shapes."""

from __future__ import annotations

import math

import onnx
from onnx import shape_inference

from edge_retina.errors import ModelError

__all__ = ["conv_macs"]

_CONVS = ("Conv", "ConvTranspose")
# Larger initializers are weights; those that shapes follow from (sizes, pads, axes) are smaller.
_SHAPE_ELEMENTS = 64


def conv_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of every Conv and ConvTranspose of the main graph for one frame, by output name, in order.

    Conv: outputs x weights per output channel, so (C / group) kH kW each; ConvTranspose: inputs x weights per input
    channel. Bias and padding do not count (a padded zero is multiplied like any other). The batch counts as 1; every
    other size has to follow from the graph. `model` is not changed. Raises ModelError where one does not.
    """
    shapes = _shapes(model)
    macs: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in _CONVS or node.domain not in ("", "ai.onnx"):
            continue
        # Every output channel, or with ConvTranspose every input channel, is met once per pixel by its kernel.
        met = node.output[0] if node.op_type == "Conv" else node.input[0]
        pixels, weights = shapes.get(met), shapes.get(node.input[1])
        sizes = [*(pixels or [])[1:], *(weights or [])[1:]]
        if not pixels or not weights or None in sizes:
            raise ModelError(
                f"the work of {node.op_type} {node.name or node.output[0]!r} is unknown: wanted fixed sizes, found "
                f"{met} {pixels} and {node.input[1]} {weights}; export the model for one input size"
            )
        macs[node.output[0]] = math.prod(size for size in sizes if size is not None)
    return macs


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Inferred shape of every tensor of the main graph, None for an open size."""
    # Inference copies the model: without its weights that costs nothing.
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    known = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SHAPE_ELEMENTS:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.value_info.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = shape_inference.infer_shapes(light, data_prop=True).graph
    shapes: dict[str, list[int | None]] = {t.name: list(t.dims) for t in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
            shapes.setdefault(value.name, sizes)
    return shapes
