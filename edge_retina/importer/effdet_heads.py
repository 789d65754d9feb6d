"""The BiFPN of an EfficientDet and its two subnets, found by the weights that their levels share."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import constant, source

__all__ = ["Subnets", "subnets"]

_LEAST_LEVELS = 3
_FUSED = (2, 3)  # maps that a node of the BiFPN takes in

Weight = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Subnets:
    """The last Conv of both subnets on every level, in no order, and classes per anchor. fusion: a Concat of the BiFPN.

    Its inputs are the maps that are fused there, each of them Unsqueezed.
    """

    cls: tuple[gs.Node, ...]
    box: tuple[gs.Node, ...]
    classes: int
    fusion: gs.Node


def subnets(graph: gs.Graph, anchors: int) -> Subnets | None:
    """What follows a BiFPN, whose nodes stack their inputs and sum over the stack; None where there is none.

    anchors: per cell. Raises SpecError where the heads have another number.
    """
    fusions = [stack for node in graph.nodes if node.op == "ReduceSum" and (stack := _stack(node))]
    heads = _shared_last_convs(graph) if len(fusions) >= _LEAST_LEVELS else []
    if len(heads) != 2 or len(heads[0]) != len(heads[1]):
        return None
    widths = [0 if (weight := constant(head[0].inputs[1])) is None else len(weight) for head in heads]
    if 4 * anchors not in widths or any(width % anchors for width in widths):
        raise SpecError(
            f"effdet: wanted {anchors} anchors per cell, {4 * anchors} box channels, found {widths}. "
            "Other anchors are not in the graph: export with edge_retina.importer.exporters.effdet"
        )
    # With four classes both heads are as wide; focal loss leaves the class biases lower than those of the boxes.
    cls, box = sorted((0, 1), key=lambda i: (widths[i] == 4 * anchors, _mean_bias(heads[i][0])))
    return Subnets(tuple(heads[cls]), tuple(heads[box]), widths[cls] // anchors, fusions[0])


def _stack(total: gs.Node) -> gs.Node | None:
    """The Concat(Unsqueeze, ...) of two or three tensors that a node sums over, weighted by softmax or not."""
    stack = source(total.inputs[0]) if total.inputs else None
    if stack is not None and stack.op == "Mul":
        stack = next((node for node in map(source, stack.inputs) if node is not None and node.op == "Concat"), None)
    if stack is None or stack.op != "Concat" or len(stack.inputs) not in _FUSED:
        return None
    rises = [node for node in map(source, stack.inputs) if node is not None and node.op == "Unsqueeze"]
    return stack if len(rises) == len(stack.inputs) else None


def _shared_last_convs(graph: gs.Graph) -> list[list[gs.Node]]:
    """The Convs after which no other comes before the outputs, grouped by their weight; groups of several only."""
    queue, seen = deque(graph.outputs), set()
    groups: list[tuple[Weight, list[gs.Node]]] = []
    while queue:
        for node in queue.popleft().inputs:
            if id(node) in seen:
                continue
            seen.add(id(node))
            weight = constant(node.inputs[1]) if node.op == "Conv" and len(node.inputs) > 1 else None
            if weight is None:
                queue.extend(node.inputs)
                continue
            group = next((convs for other, convs in groups if np.array_equal(other, weight)), None)
            if group is None:
                groups.append((weight, [node]))
            else:
                group.append(node)
    return [group for _, group in groups if len(group) >= _LEAST_LEVELS]


def _mean_bias(conv: gs.Node) -> float:
    """Of a Conv, 0 where it has none: exporters drop a bias of zeros."""
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return 0.0 if bias is None else float(bias.mean())
