"""The part of a bundle's model that every runtime has to compute: normalised picture in, heads out."""

from __future__ import annotations

import numpy as np

from edge_retina.errors import ModelError

__all__ = ["PICTURE", "cut_trunk"]

PICTURE = "picture"
_FRAME = "frame/"


def cut_trunk(model: bytes) -> bytes:
    """Trunk of a bundle's model as ONNX of standard operators: `picture` float32 [1, 3, H, W] in, heads out.

    Outputs logits_0.., deltas_0.., float32 [1, A * K, H, W] and [1, A * 4, H, W], logits first. What the graph has for
    ONNX Runtime's sake alone is put back. Raises ModelError for a model that is not edge-retina's.
    """
    import onnx
    import onnx_graphsurgeon as gs

    from edge_retina.rewrite.decode import DOMAIN, FUNCTION
    from edge_retina.rewrite.integer_conv import restore_convs
    from edge_retina.rewrite.stem import restore_stem

    graph = gs.import_onnx(onnx.load_from_string(model))
    restore_convs(graph)
    restore_stem(graph)
    call = next((node for node in graph.nodes if (node.domain, node.op) == (DOMAIN, FUNCTION)), None)
    last = [node for node in graph.nodes if node.op == "Reshape" and str(node.name).startswith(_FRAME)]
    if call is None or not last:
        raise ModelError("wanted the model of a bundle, found one without frame input or AnchorDecode")
    heads, source = list(call.inputs)[:-1], last[-1]
    sides = [int(side) for side in source.inputs[1].values[1:]]
    picture = source.outputs[0]
    source.outputs.clear()
    picture.name, picture.dtype, picture.shape = PICTURE, np.dtype(np.float32), [1, *sides]
    graph.nodes.remove(call)
    call.inputs.clear()
    graph.inputs, graph.outputs, graph.functions = [picture], heads, []
    for head in heads:
        head.dtype = np.dtype(np.float32)
        if head.shape is not None:
            head.shape = [1, *head.shape[1:]]
    graph.import_domains = [onnx.helper.make_opsetid("", graph.opset)]
    graph.cleanup().toposort()
    cut: bytes = gs.export_onnx(graph).SerializeToString()
    return cut
