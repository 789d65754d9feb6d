"""Pass: cut the graph down to trunk and heads."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.importer import Imported

__all__ = ["TRUNK_INPUT", "cut_heads"]

TRUNK_INPUT = "images"


def cut_heads(graph: gs.Graph, found: Imported) -> int:
    """Make the trunk's input the only input and the head tensors the only outputs.

    Rule: whatever lies before `found.trunk_input` or after the heads goes; heads are renamed logits_0.., deltas_0..,
    fine to coarse; the batch axis becomes free; recorded shapes of inner tensors, true for one batch size only, are
    forgotten. Scope: main graph. Returns the number of tensors renamed, moved or dropped; a second run returns 0.
    Raises ModelError when a named tensor is not there.
    """
    spec = found.spec
    height, width = spec.input_size
    wanted = [(f"logits_{i}", name) for i, name in enumerate(found.logits)]
    wanted += [(f"deltas_{i}", name) for i, name in enumerate(found.deltas)]
    names = [name for name, _ in wanted]
    if [t.name for t in graph.outputs] == names and [t.name for t in graph.inputs] == [TRUNK_INPUT]:
        return 0
    tensors = graph.tensors()
    for name in (found.trunk_input, *found.logits, *found.deltas):
        if name not in tensors:
            raise ModelError(f"the graph has no tensor {name!r}, which its importer named")
    before = len(graph.nodes)
    for tensor in tensors.values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = None
    taken = {TRUNK_INPUT, *names}
    kept = {found.trunk_input, *found.logits, *found.deltas}
    for tensor in tensors.values():
        if tensor.name in taken and tensor.name not in kept:
            tensor.name = f"model/{tensor.name}"
    trunk = tensors[found.trunk_input]
    trunk.inputs.clear()
    trunk.name, trunk.dtype, trunk.shape = TRUNK_INPUT, np.dtype(np.float32), ["batch", 3, height, width]
    graph.inputs, graph.outputs = [trunk], []
    channels = {"logits": spec.num_classes, "deltas": 4}
    for name, old in wanted:
        tensor, level = tensors[old], int(name.split("_")[1])
        tensor.name, tensor.dtype = name, np.dtype(np.float32)
        per_cell = len(spec.cell_anchors[level])
        tensor.shape = ["batch", per_cell * channels[name.split("_")[0]], *spec.level_shapes[level]]
        graph.outputs.append(tensor)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    if [t.name for t in graph.inputs] != [TRUNK_INPUT]:
        raise ModelError(f"the heads depend on more than {found.trunk_input!r}: {[t.name for t in graph.inputs]}")
    return len(wanted) + 1 + before - len(graph.nodes)
