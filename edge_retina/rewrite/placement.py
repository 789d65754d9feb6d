"""Where Q/DQ pairs go: which convolutions are quantized, which of their edges, which tensors share a scale.

The rules are those that TensorRT's fusions want (NVIDIA Model-Optimizer, modelopt/onnx/quantization: int8.py,
graph_utils.py, partitioning.py), and what ONNX Runtime needs besides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.rewrite.groups import Groups

__all__ = ["Placement", "layer_name", "place", "quantizable"]

# Nodes that only move or compare values: Q/DQ commutes with them as long as both sides have one scale.
_MOVES = ("Concat", "MaxPool", "Resize")
# What a convolution absorbs as its epilogue.
_EPILOGUES = ("Clip", "Relu")


@dataclass(frozen=True)
class Placement:
    """Edges to quantize. A node is named after its first output.

    convs: convolutions with INT8 data and weights, in graph order.
    edges: (node, index of its input) to the tensor there; each tensor gets one Q/DQ pair, whatever reads it.
    cpu_edges: the same for pairs that ONNX Runtime needs to run a convolution in INT8 and TensorRT does not.
    groups: quantized tensor to the name of its group; the tensors of a group share one scale.
    observed: group to the tensors whose values decide its scale.
    signed: groups whose tensors can be negative.
    """

    convs: tuple[str, ...]
    edges: dict[tuple[str, int], str]
    cpu_edges: dict[tuple[str, int], str]
    groups: dict[str, str]
    observed: dict[str, tuple[str, ...]]
    signed: frozenset[str]

    def tensors(self) -> set[str]:
        """Every tensor whose values calibration has to see."""
        return {name for members in self.observed.values() for name in members}


def layer_name(node: gs.Node) -> str:
    """What a node is called: its first output, which unlike its name is always there and always unique."""
    return str(node.outputs[0].name)


def quantizable(graph: gs.Graph) -> list[gs.Node]:
    """Convolutions of the main graph whose weights are constants of their own, in graph order."""
    return [n for n in graph.nodes if n.op == "Conv" and isinstance(n.inputs[1], gs.Constant)]


def place(graph: gs.Graph, skip: Collection[str] = ()) -> Placement:
    """Decide the placement for a rewritten graph with folded BatchNorms.

    skip: convolutions to leave in float, by their output's name. Rules: every input of a quantized Conv; of a residual
    or FPN Add the side that does not come straight from a quantized Conv, so that Conv + Add + Relu fuse; through
    MaxPool, nearest Resize and Concat where both sides are quantized anyway, with one scale; nothing between a Conv and
    its epilogue or behind the last convolutions of the heads: logits and deltas, and what follows them, stay float.
    """
    heads = {t.name for node in graph.nodes if node.domain == "edge_retina" for t in node.inputs}
    convs = [n for n in quantizable(graph) if layer_name(n) not in skip]
    chosen = {layer_name(n) for n in convs}
    depth = _depths(graph)
    edges = {(layer_name(n), 0): n.inputs[0].name for n in convs}
    for node in graph.nodes:
        side = _skip_side(node, chosen, depth) if node.op == "Add" else None
        if side is not None:
            edges[layer_name(node), side] = node.inputs[side].name
    union = Groups()
    for node in reversed(graph.nodes):
        if _moves_codes(node, edges, chosen):
            for i, tensor in enumerate(_moved_by(node)):
                edges[layer_name(node), i] = tensor.name
                # The upstream tensor names the group.
                union.join(tensor.name, layer_name(node))
    cpu_edges = dict(_cpu_edges(convs, edges, heads))
    quantized = set(edges.values())
    edges |= {edge: name for edge, name in cpu_edges.items() if name in quantized}
    cpu_edges = {edge: name for edge, name in cpu_edges.items() if name not in quantized}
    groups = {name: union.root(name) for name in sorted({*edges.values(), *cpu_edges.values()})}
    tensors = graph.tensors()
    observed = {
        group: tuple(sorted(n for n, g in groups.items() if g == group and not _moved(tensors[n], groups)))
        for group in groups.values()
    }
    signed = frozenset(group for name, group in groups.items() if not _non_negative(tensors[name]))
    return Placement(tuple(layer_name(n) for n in convs), edges, cpu_edges, groups, observed, signed)


def _depths(graph: gs.Graph) -> dict[str, int]:
    """Longest path from the input to each tensor, in nodes."""
    depth: dict[str, int] = {}
    for node in graph.nodes:
        here = 1 + max((depth.get(t.name, 0) for t in node.inputs), default=0)
        depth |= {t.name: here for t in node.outputs}
    return depth


def _producer(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None


def _skip_side(node: gs.Node, chosen: set[str], depth: dict[str, int]) -> int | None:
    """Which input of an Add to quantize: the one opposite to the convolution that will absorb the Add."""
    if any(isinstance(t, gs.Constant) for t in node.inputs) or len(node.inputs) != 2:
        return None
    absorbing = [i for i, t in enumerate(node.inputs) if t.name in chosen and len(t.outputs) == 1]
    if not absorbing:
        return None
    # Of two convolutions the one at the end of the longer path: the other is the projection of the skip.
    return 1 - max(absorbing, key=lambda i: depth[node.inputs[i].name])


def _moves_codes(node: gs.Node, edges: dict[tuple[str, int], str], chosen: set[str]) -> bool:
    """True when a moving node has quantized readers and stands behind what is quantized already."""
    output = node.outputs[0]
    read = any(edges.get((layer_name(r), i)) == output.name for r in output.outputs for i in range(len(r.inputs)))
    return read and _moves(node) and all(t.name in edges.values() or _conv_behind(t, chosen) for t in _moved_by(node))


def _moves(node: gs.Node) -> bool:
    """True when every value that a node puts out is one that went in."""
    return node.op in _MOVES and (node.op != "Resize" or node.attrs.get("mode", "nearest") in ("nearest", b"nearest"))


def _moved_by(node: gs.Node) -> list[gs.Tensor]:
    return list(node.inputs) if node.op == "Concat" else [node.inputs[0]]


def _conv_behind(tensor: gs.Tensor, chosen: set[str]) -> bool:
    """True when a tensor holds what quantized convolutions, with their Adds and activations, put out."""
    node = _producer(tensor)
    while node is not None and node.op in _EPILOGUES:
        node = _producer(node.inputs[0])
    if node is not None and node.op == "Add":
        return any(t.name in chosen for t in node.inputs)
    if node is not None and _moves(node):
        return all(_conv_behind(t, chosen) for t in _moved_by(node))
    return node is not None and layer_name(node) in chosen


def _cpu_edges(
    convs: list[gs.Node], edges: dict[tuple[str, int], str], heads: set[str]
) -> Iterator[tuple[tuple[str, int], str]]:
    """Edges behind quantized convolutions whose result would leave them in float.

    ONNX Runtime runs a Conv in INT8 only between Q/DQ pairs on all sides.
    """
    for conv in convs:
        result = conv.outputs[0]
        if len(result.outputs) == 1 and result.outputs[0].op == "Relu":
            result = result.outputs[0].outputs[0]
        if result.name in heads:
            continue
        for reader in result.outputs:
            for i, tensor in enumerate(reader.inputs):
                if tensor is result and (layer_name(reader), i) not in edges:
                    yield (layer_name(reader), i), result.name


def _moved(tensor: gs.Tensor, groups: dict[str, str]) -> bool:
    """True when a tensor holds nothing but values of its group's other tensors."""
    node = _producer(tensor)
    return (
        node is not None
        and node.op in _MOVES
        and node.inputs[0].name in groups
        and groups[node.inputs[0].name] == groups[tensor.name]
    )


def _non_negative(tensor: gs.Tensor) -> bool:
    node = _producer(tensor)
    if node is None:
        return False
    if node.op in ("Relu", "Sigmoid"):
        return True
    if node.op == "Clip":
        low = node.inputs[1] if len(node.inputs) > 1 else None
        return isinstance(low, gs.Constant) and bool(np.all(low.values >= 0))
    return node.op in _MOVES and all(_non_negative(t) for t in _moved_by(node))
