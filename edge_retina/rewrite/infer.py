"""What ONNX shape inference knows of a graphsurgeon graph, without its weights being copied about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

__all__ = ["TensorType", "infer_types"]

# Values that a shape depends on are shorter than this; inference needs no others.
_SMALL = 4096


@dataclass(frozen=True)
class TensorType:
    """Element type of a tensor and its shape: the name of a free side or None for it; None if the rank is unknown."""

    dtype: np.dtype[np.generic]
    shape: tuple[int | str | None, ...] | None

    @property
    def nbytes(self) -> int | None:
        """Size in bytes, None where the shape is not known."""
        if self.shape is None:
            return None
        size = int(self.dtype.itemsize)
        for side in self.shape:
            if not isinstance(side, int):
                return None
            size *= side
        return size


def infer_types(graph: gs.Graph) -> dict[str, TensorType]:
    """Type of every tensor of the main graph that inference finds one for, by name, constants included."""
    model = gs.export_onnx(graph, do_type_check=False)
    light = [t for t in model.graph.initializer if t.ByteSize() <= _SMALL]
    heavy = [t for t in model.graph.initializer if t.ByteSize() > _SMALL]
    model.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in heavy)
    del model.graph.initializer[:]
    model.graph.initializer.extend(light)
    known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {
        value.name: _type_of(value.type.tensor_type)
        for value in (*known.input, *known.value_info, *known.output)
        if value.type.tensor_type.elem_type
    }
    for tensor in light:
        types[tensor.name] = TensorType(_dtype(tensor.data_type), tuple(tensor.dims))
    return types


def _type_of(kind: onnx.TypeProto.Tensor) -> TensorType:
    shape: tuple[int | str | None, ...] | None = None
    if kind.HasField("shape"):
        sides = kind.shape.dim
        shape = tuple(side.dim_value if side.HasField("dim_value") else side.dim_param or None for side in sides)
    return TensorType(_dtype(kind.elem_type), shape)


def _dtype(elem_type: int) -> np.dtype[np.generic]:
    dtype: npt.DTypeLike = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    return np.dtype(dtype)
