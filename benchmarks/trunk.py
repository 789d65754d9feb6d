"""The trunk of a detector, from preprocessed picture to heads: cut out for a tool, and put back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite.decode import add_decode
from edge_retina.rewrite.frame_input import add_frame_input
from edge_retina.rewrite.heads import cut_heads
from edge_retina.rewrite.macs import conv_macs
from edge_retina.rewrite.nms import add_nms
from edge_retina.spec import DetectorSpec

__all__ = ["WAYS", "exclusions", "extract_trunk", "int8_share", "preprocessor", "whole_detector"]

# What is tried to leave in float: so many of the first convolutions, and the last ones of the heads or not.
WAYS = {
    "none": (0, False),
    "last head convs": (0, True),
    "first conv": (1, False),
    "first conv, last head convs": (1, True),
    "first 2 convs": (2, False),
    "first 2 convs, last head convs": (2, True),
    "first 3 convs": (3, False),
    "first 3 convs, last head convs": (3, True),
}


def extract_trunk(model: Path) -> tuple[onnx.ModelProto, DetectorSpec]:
    """The model from preprocessed picture to heads, for batch 1, and its spec."""
    source = load_onnx(model)
    found = import_model(source)
    cut_heads(source.graph, found)
    source.graph.inputs[0].shape = [1, 3, *found.spec.input_size]
    return gs.export_onnx(source.graph), found.spec


def preprocessor(trunk: onnx.ModelProto, spec: DetectorSpec) -> onnx.ModelProto:
    """From frames to what the trunk takes."""
    graph = gs.import_onnx(trunk)
    first = graph.inputs[0].outputs[0]
    place = [t.name for t in first.inputs].index(graph.inputs[0].name)
    add_frame_input(graph, spec)
    graph.outputs = [first.inputs[place]]
    graph.outputs[0].dtype = np.dtype(np.float32)
    return gs.export_onnx(graph.cleanup().toposort())


def whole_detector(trunk: onnx.ModelProto, spec: DetectorSpec) -> onnx.ModelProto:
    """The trunk between the frame input and the decoder, as rewrite.rewrite puts them."""
    graph = gs.import_onnx(trunk)
    add_frame_input(graph, spec)
    add_decode(graph, spec)
    add_nms(graph, spec, "operator")
    graph.ir_version = max(8, graph.ir_version or 8)
    return gs.export_onnx(graph)


def int8_share(model: onnx.ModelProto, whole: int) -> float:
    """Share of the convolutions' multiply-accumulates that are in INT8.

    whole: those of the float model. In float is a Conv whose data or weight does not come out of DequantizeLinear; what
    edge-retina makes of integer operators, such as the last convolutions of the heads, is no Conv any more.
    """
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    work = conv_macs(model)
    inside = [node for node in model.graph.node if node.output and node.output[0] in work]
    apart = [node for node in inside if any(makers.get(name) != "DequantizeLinear" for name in node.input[:2])]
    return 1 - sum(work[node.output[0]] for node in apart) / whole


def exclusions(trunk: onnx.ModelProto, first: int, last: bool) -> list[str]:
    """Names of the nodes to leave in float, see WAYS."""
    convs = [node for node in trunk.graph.node if node.op_type == "Conv"]
    heads = {output.name for output in trunk.graph.output}
    return [node.name for i, node in enumerate(convs) if i < first or (last and heads & set(node.output))]
