"""The rewritten graph in ONNX Runtime, from a frame on or from its network input on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from edge_retina.errors import RuntimeFailure
from edge_retina.geometry import Geometry
from edge_retina.rewrite.frame_input import GEOMETRY
from edge_retina.rewrite.trunk import Trunk
from edge_retina.runtime.ort import open_session
from edge_retina.spec import DetectorSpec
from edge_retina.types import F32, U8
from edge_retina.verify.outputs import Found

__all__ = ["Rewritten"]

_OUTPUTS = ["boxes", "scores", "labels", "count"]


class Rewritten:
    """A model as `rewrite` makes it, for frames of any size. Raises RuntimeFailure when ONNX Runtime refuses it."""

    def __init__(self, model: onnx.ModelProto, spec: DetectorSpec) -> None:
        self.spec = spec
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._network_input = _network_input(gs.import_onnx(model))
        info = onnx.helper.make_tensor_value_info(self._network_input, onnx.TensorProto.FLOAT, None)
        self._model.graph.output.append(info)
        self._session = open_session(self._model.SerializeToString())

    def __call__(self, frame: U8) -> tuple[Found, F32]:
        """Detections in one frame, uint8 (H, W, 3) BGR, and its network input, float32 (1, 3, H, W)."""
        *found, network_input = _run(self._session, [*_OUTPUTS, self._network_input], {"frames": frame[None]})
        return _first(found), network_input

    def from_network_input(self, network_input: F32, geometry: Geometry) -> Found:
        """Detections for a network input (1, 3, H, W) on which the frame lies so, in frame pixels."""
        vector = np.array(geometry.vector(), np.float32)
        return _first(_run(self._later, _OUTPUTS, {self._network_input: network_input, GEOMETRY: vector}))

    @cached_property
    def _later(self) -> Any:
        """The session without the frame input."""
        graph = gs.import_onnx(self._model)
        tensors = graph.tensors()
        vector, batch = tensors[GEOMETRY], tensors[self._network_input]
        for tensor, shape in ((vector, [8]), (batch, [1, 3, *self.spec.input_size])):
            tensor.inputs.clear()
            tensor.dtype, tensor.shape = np.dtype(np.float32), shape
        graph.inputs, graph.outputs = [batch, vector], [tensors[name] for name in _OUTPUTS]
        return open_session(gs.export_onnx(graph.cleanup()).SerializeToString())


def _network_input(graph: gs.Graph) -> str:
    """What the trunk takes from the frame input."""
    trunk = Trunk(graph)
    names = {t.name for node in trunk.nodes for t in node.inputs if t.inputs and t.inputs[0] not in trunk.nodes}
    assert len(names) == 1, names
    return str(names.pop())


def _run(session: Any, names: list[str], feed: dict[str, Any]) -> list[Any]:
    try:
        return list(session.run(names, feed))
    except Exception as exc:  # onnxruntime's errors have no common base
        raise RuntimeFailure(f"ONNX Runtime failed on the rewritten model: {str(exc)[:300]}") from exc


def _first(outputs: list[Any]) -> Found:
    boxes, scores, labels, count = (value[0] for value in outputs)
    return boxes[:count], scores[:count], labels[:count].astype(np.int64)
