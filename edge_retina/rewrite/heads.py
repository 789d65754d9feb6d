"""Pass: cut the graph down to trunk and heads."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.importer import Imported
from edge_retina.importer.heads import nodes_of
from edge_retina.rewrite.infer import infer_types

__all__ = ["TRUNK_INPUT", "cut_heads"]

TRUNK_INPUT = "images"
_PREFIX = "model/"
# Whose constant inputs are weights; infinities elsewhere (limits, masks, paddings) can be meant.
_WEIGHTED = ("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul")
_LOOPS = ("Loop", "Scan")
_FLOATS = (np.float16, np.float32, np.float64)


def cut_heads(graph: gs.Graph, found: Imported) -> int:
    """Make the trunk's input the only input and the head tensors the only outputs.

    Rule: whatever lies before `found.trunk_input` or after the heads goes; heads are renamed logits_0.., deltas_0..,
    fine to coarse; every other tensor gets the prefix `model/`, so that no name of ours is taken; input and heads are
    float32, by a Cast where the model is float16; the batch axis becomes free; recorded shapes of inner tensors, true
    for one batch size only, are forgotten. Scope: main graph. Returns the number of tensors renamed and nodes dropped;
    a second run returns 0. Raises ModelError: a named tensor is missing, the heads need more than the trunk's input, a
    weight is NaN or infinite, a loop.
    """
    wanted = [(f"logits_{i}", name) for i, name in enumerate(found.logits)]
    wanted += [(f"deltas_{i}", name) for i, name in enumerate(found.deltas)]
    names = [name for name, _ in wanted]
    tensors = graph.tensors()
    if _is_cut(graph, names):
        return 0
    for name in (found.trunk_input, *found.logits, *found.deltas):
        if name not in tensors:
            raise ModelError(f"the graph has no tensor {name!r}, which its importer named")
    before = len(graph.nodes)
    ends = [tensors[name] for name in (found.trunk_input, *found.logits, *found.deltas)]
    if any(tensor.dtype is None for tensor in ends):  # which tells whether the model is float16
        types = infer_types(graph)
        for tensor in ends:
            if tensor.dtype is None and tensor.name in types:
                tensor.dtype = types[tensor.name].dtype
    trunk, heads = tensors[found.trunk_input], [tensors[old] for _, old in wanted]
    trunk.inputs.clear()
    graph.inputs, graph.outputs = [trunk], heads
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    inner = graph.tensors()
    _check(found, trunk, inner)
    if loops := [node for node in nodes_of(graph) if node.op in _LOOPS]:
        raise ModelError(
            f"{loops[0].op} {loops[0].name!r} stands between {found.trunk_input!r} and the heads, where nothing tells "
            "that it ends; export the model without loops"
        )
    for tensor in inner.values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = None
        tensor.name = _PREFIX + tensor.name
    graph.inputs = [_float32_input(graph, trunk, found)]
    graph.outputs = [_float32_head(graph, head, name, found) for name, head in zip(names, heads, strict=True)]
    graph.toposort()
    return len(inner) + max(0, before - len(graph.nodes))


def _is_cut(graph: gs.Graph, names: list[str]) -> bool:
    """True when everything the rule asks for holds already; a fresh model may use our names by chance."""
    if [t.name for t in graph.outputs] != names or [t.name for t in graph.inputs] != [TRUNK_INPUT]:
        return False
    ours = {TRUNK_INPUT, *names}
    return all(name in ours or name.startswith(_PREFIX) for name in graph.tensors())


def _check(found: Imported, trunk: gs.Tensor, tensors: dict[str, gs.Tensor]) -> None:
    loose = [
        t.name for t in tensors.values() if isinstance(t, gs.Variable) and not t.inputs and t is not trunk and t.name
    ]
    if loose:
        raise ModelError(f"the heads depend on more than {found.trunk_input!r}: {', '.join(loose[:5])}")
    for tensor in tensors.values():
        weighs = isinstance(tensor, gs.Constant) and any(node.op in _WEIGHTED for node in tensor.outputs)
        if weighs and tensor.dtype in _FLOATS and not np.isfinite(tensor.values).all():
            raise ModelError(
                f"weight {tensor.name!r} holds NaN or infinity; export a checkpoint from before training diverged"
            )


def _float32_input(graph: gs.Graph, trunk: gs.Variable, found: Imported) -> gs.Variable:
    shape = ["batch", 3, *found.spec.input_size]
    if trunk.dtype != np.float16:
        trunk.name, trunk.dtype, trunk.shape = TRUNK_INPUT, np.dtype(np.float32), shape
        return trunk
    images = gs.Variable(TRUNK_INPUT, np.float32, shape)
    graph.nodes.append(gs.Node("Cast", "trunk/cast", {"to": np.float16}, [images], [trunk]))
    return images


def _float32_head(graph: gs.Graph, head: gs.Variable, name: str, found: Imported) -> gs.Variable:
    kind, _, level = name.partition("_")
    spec = found.spec
    channels = len(spec.cell_anchors[int(level)]) * (spec.num_classes if kind == "logits" else 4)
    shape = ["batch", channels, *spec.level_shapes[int(level)]]
    if head.dtype != np.float16:
        head.name, head.dtype, head.shape = name, np.dtype(np.float32), shape
        return head
    result = gs.Variable(name, np.float32, shape)
    graph.nodes.append(gs.Node("Cast", f"{name}/cast", {"to": np.float32}, [head], [result]))
    return result
