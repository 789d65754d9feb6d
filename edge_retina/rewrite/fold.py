"""Pass: what can be computed now is not computed per frame, and a Conv does its own scaling and shifting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from edge_retina.rewrite.fold_conv import fold_convs
from edge_retina.rewrite.fold_shapes import fold_shapes
from edge_retina.rewrite.infer import infer_types

__all__ = ["absorb_constants", "fold"]

# A constant larger than this, and than what it is computed from, stays a computation: the file would swell.
_LARGEST_RESULT = 1 << 20
# Another value on each run, or precision that someone chose to write into the graph.
_NOT_EVALUATED = frozenset(
    (
        "Bernoulli",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Multinomial",
        "QuantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    )
)


def fold(graph: gs.Graph) -> int:
    """Evaluate constant nodes, drop nodes that do nothing, and fold scaling and shifting after a Conv into it.

    Rule: Constant nodes become initializers; Identity, Dropout as at inference, and Cast to the type that is there
    go; nodes whose inputs are all constants are evaluated, results over 1 MiB left out that are larger than their
    inputs; shape arithmetic becomes constant where shapes are known. BatchNormalization and Mul, Add, Sub, Div by
    constants per channel or scalar are folded into weight and bias of the Conv before them, where nobody else reads
    what lies between. Weights shared by several Convs stay shared by those with equal folds. Computed in float64,
    stored in the weight's type. Scope: main graph; graph inputs and outputs keep their names. Returns the number of
    nodes gone and shapes made constant; a second run returns 0.
    """
    graph.toposort()
    before, shapes = len(graph.nodes), 0
    while True:
        size = len(graph.nodes)
        absorb_constants(graph)
        _drop_idle(graph)
        _evaluate(graph)
        now = fold_shapes(graph)
        shapes += now
        graph.cleanup(remove_unused_graph_inputs=False)
        if len(graph.nodes) == size and not now:
            break
    fold_convs(graph)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    return before - len(graph.nodes) + shapes


def absorb_constants(graph: gs.Graph) -> int:
    """Turn Constant nodes of the main graph into initializers; returns how many, those that are graph outputs not."""
    found = [node for node in graph.nodes if node.op == "Constant" and not _is_output(graph, node.outputs[0])]
    gone = 0
    for node in found:
        ((kind, value),) = node.attrs.items()
        if kind == "value":
            array = value.values
        elif kind in ("value_float", "value_floats"):
            array = np.array(value, np.float32)
        elif kind in ("value_int", "value_ints"):
            array = np.array(value, np.int64)
        else:  # strings, sparse tensors
            continue
        node.outputs[0].to_constant(np.asarray(array))
        node.outputs.clear()
        gone += 1
    graph.nodes = [node for node in graph.nodes if node.outputs]
    return gone


def _is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    return any(tensor is output for output in graph.outputs)


def _drop_idle(graph: gs.Graph) -> None:
    casts = any(node.op == "Cast" for node in graph.nodes)
    types = {name: kind.dtype for name, kind in infer_types(graph).items()} if casts else {}
    for node in list(graph.nodes):
        idle = node.op == "Identity" or _is_idle_dropout(node) or _is_idle_cast(node, types)
        if node.domain in (None, "", "ai.onnx") and idle:
            _bypass(graph, node)
    graph.nodes = [node for node in graph.nodes if node.outputs]


def _is_idle_dropout(node: gs.Node) -> bool:
    if node.op != "Dropout":
        return False
    training = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    drops = training is not None and not (isinstance(training, gs.Constant) and not training.values.any())
    return not drops and not any(mask.outputs for mask in node.outputs[1:])


def _is_idle_cast(node: gs.Node, types: Mapping[str, np.dtype[np.generic]]) -> bool:
    """To the type that its input has."""
    if node.op != "Cast" or isinstance(node.inputs[0], gs.Constant):
        return False
    before, after = (types.get(tensor.name) for tensor in (node.inputs[0], node.outputs[0]))
    return before is not None and before == after


def _bypass(graph: gs.Graph, node: gs.Node) -> None:
    """Let the readers of a node's output read its input, unless a graph output would lose its name."""
    source, result = node.inputs[0], node.outputs[0]
    keep, gone = source, result
    if _is_output(graph, result):
        if isinstance(source, gs.Constant) or not source.inputs or _is_output(graph, source):
            return
        keep, gone = result, source
        producer = source.inputs[0]
        node.outputs.clear()
        producer.outputs = [result if t is source else t for t in producer.outputs]
    node.outputs.clear()
    node.inputs.clear()
    for reader in list(gone.outputs):
        reader.inputs = [keep if t is gone else t for t in reader.inputs]


def _evaluate(graph: gs.Graph) -> None:
    """Constant results of nodes with constant inputs, in one walk, for `graph` is in order."""
    for node in graph.nodes:
        if node.op in _NOT_EVALUATED or node.domain not in (None, "", "ai.onnx"):
            continue
        given = [t for t in node.inputs if not t.is_empty()]
        if not node.outputs or not all(isinstance(t, gs.Constant) for t in given):
            continue
        subgraphs = any(isinstance(value, gs.Graph) for value in node.attrs.values())
        if subgraphs or any(_is_output(graph, t) for t in node.outputs):
            continue
        results = _run(graph, node)
        if results is not None:
            for tensor, value in zip(list(node.outputs), results, strict=True):
                tensor.to_constant(value)
            node.outputs.clear()
    graph.nodes = [node for node in graph.nodes if node.outputs]


def _run(graph: gs.Graph, node: gs.Node) -> list[npt.NDArray[Any]] | None:
    """Values of a node's outputs; None where it cannot be evaluated or the result is too large to keep."""
    outputs = [gs.Variable(t.name) for t in node.outputs]
    copy = node.copy(inputs=list(node.inputs), outputs=outputs)
    alone = gs.Graph([copy], outputs=outputs, opset=graph.opset, import_domains=graph.import_domains)
    alone.ir_version = graph.ir_version
    # All operators in Python: 11 MB that most models need nothing of.
    from onnx.reference import ReferenceEvaluator

    try:
        types = infer_types(alone)
        room = max(_LARGEST_RESULT, sum(t.values.nbytes for t in node.inputs if not t.is_empty()))
        if any(t.name not in types or not 0 <= (types[t.name].nbytes or 0) <= room for t in outputs):
            return None
        values = ReferenceEvaluator(gs.export_onnx(alone, do_type_check=False)).run(None, {})
    except Exception:  # an operator that inference or the reference does not know; it is the runtime's then
        return None
    finally:
        copy.inputs.clear()
    arrays = [np.asarray(value) for value in values]
    right = all(a.dtype == types[t.name].dtype and a.nbytes <= room for a, t in zip(arrays, outputs, strict=True))
    return arrays if right else None
