"""The subnets of an MMDetection RetinaNet, and what its neck and backbone look like in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.importer.heads import constant, source

__all__ = ["is_caffe", "subnets"]

_CLS_NAME = "retina_cls"  # the attribute of RetinaHead, in names of weights and nodes
_LEAST_LEVELS = 3

Subnet = list[gs.Node]


def subnets(graph: gs.Graph) -> tuple[Subnet, Subnet] | None:
    """The last Convs of class and box subnet, fine to coarse; None where they are not MMDetection's.

    Its marks, besides two subnets shared by the levels whose last Convs are the outputs, class maps first: the name
    that RetinaHead gives its last class Conv, or, where names are gone, a P7 made of P6 without a ReLU between.
    """
    heads = _output_heads(graph)
    return heads if heads is not None and (_has_name(heads[0][0]) or _has_plain_extra_level(graph)) else None


def is_caffe(graph: gs.Graph) -> bool:
    """Whether Bottlenecks halve in their first, 1 x 1 Conv. Source: mmdet backbones/resnet.py, style."""
    for node in graph.nodes:
        if _halves(node, 1):
            readers = [r for out in node.outputs for r in out.outputs]
            if len(readers) == 1 and readers[0].op == "BatchNormalization":
                readers = list(readers[0].outputs[0].outputs)
            if any(reader.op == "Relu" for reader in readers):
                return True
    return False


def _output_heads(graph: gs.Graph) -> tuple[Subnet, Subnet] | None:
    """The Convs that give the outputs, class maps then box maps, fine to coarse; each half shares one 3 x 3 weight."""
    half = len(graph.outputs) // 2
    if half < _LEAST_LEVELS or len(graph.outputs) % 2:
        return None
    convs = []
    weights: list[npt.NDArray[Any]] = []
    for index, conv in enumerate(map(source, graph.outputs)):
        weight = constant(conv.inputs[1]) if conv is not None and _is_conv(conv) else None
        if conv is None or weight is None or weight.shape[2:] != (3, 3) or conv.attrs.get("group", 1) != 1:
            return None
        if index % half and not np.array_equal(weight, weights[-1]):
            return None
        convs.append(conv)
        weights.append(weight)
    return convs[:half], convs[half:]


def _has_name(conv: gs.Node) -> bool:
    return any(_CLS_NAME in (name or "") for name in (conv.name, *(t.name for t in (*conv.inputs, *conv.outputs))))


def _has_plain_extra_level(graph: gs.Graph) -> bool:
    """Whether a 3 x 3 Conv of stride 2 reads another one's output directly. Source: mmdet necks/fpn.py, FPN.forward."""
    for node in graph.nodes:
        before = source(node.inputs[0]) if _halves(node, 3) else None
        if before is not None and _halves(before, 3):
            return True
    return False


def _is_conv(node: gs.Node) -> bool:
    return bool(node.op == "Conv" and len(node.inputs) > 1)


def _halves(node: gs.Node, kernel: int) -> bool:
    halves = _is_conv(node) and list(node.attrs.get("strides", [])) == [2, 2]
    weight = constant(node.inputs[1]) if halves else None
    return weight is not None and weight.shape[2:] == (kernel, kernel)
