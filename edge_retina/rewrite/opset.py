"""Pass: a newer opset, where a precision asks for one."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs
from onnx import version_converter

from edge_retina.errors import ModelError
from edge_retina.rewrite.fold import absorb_constants

__all__ = ["LEAST_OPSET", "raise_opset"]

# The first with float16 scales in QuantizeLinear; TensorRT 10.3 reads up to 20.
LEAST_OPSET = 19
_PREFIX = "model/opset/"
# What a conversion may look at, such as axes and scales, is shorter than this.
_SMALL = 4096


def raise_opset(graph: gs.Graph, least: int = LEAST_OPSET) -> gs.Graph:
    """The graph itself when its opset is at least `least`, else the same graph converted to exactly that.

    For a graph of standard operators, as the trunk is after cut_heads and fold. Tensors and nodes keep their names;
    tensors that the converter adds begin with `model/opset/`. Raises ModelError when there is no such conversion.
    """
    if graph.opset >= least:
        return graph
    before = set(graph.tensors())
    try:
        model = _converted(gs.export_onnx(graph), least)
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:  # the converter raises what it likes, and the checker judges what it did
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise ModelError(
            f"this precision wants opset {least} or newer, found {graph.opset}, which cannot be converted ({reason}); "
            f"export the model again, with torch.onnx.export(..., opset_version={least})"
        ) from exc
    converted: gs.Graph = gs.import_onnx(model)
    absorb_constants(converted)
    for number, tensor in enumerate(t for name, t in converted.tensors().items() if name not in before):
        tensor.name = f"{_PREFIX}{number}"
    ends = {id(tensor) for tensor in (*converted.inputs, *converted.outputs)}
    for tensor in converted.tensors().values():
        if isinstance(tensor, gs.Variable) and id(tensor) not in ends:
            tensor.shape = None  # as cut_heads leaves them
    converted.toposort()
    return converted


def _converted(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """The model in another opset; its weights, of which the converter would hold five copies, are inputs meanwhile."""
    heavy = [t for t in model.graph.initializer if t.ByteSize() > _SMALL]
    light = [t for t in model.graph.initializer if t.ByteSize() <= _SMALL]
    given = {value.name for value in model.graph.input}
    del model.graph.initializer[:]
    model.graph.initializer.extend(light)
    model.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in heavy)
    converted = version_converter.convert_version(model, least)
    inputs = [value for value in converted.graph.input if value.name in given]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    converted.graph.initializer.extend(heavy)
    return converted
