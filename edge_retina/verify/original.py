"""The graph as it was exported, post-processing and all, run as it is in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from edge_retina.errors import RuntimeFailure, SpecError
from edge_retina.importer import Imported, Source
from edge_retina.importer.heads import affine_before, ancestors, static_copy
from edge_retina.runtime.ort import open_session
from edge_retina.types import F32, U8
from edge_retina.verify.outputs import DetectionOutputs, Found, Output, find_detections

__all__ = ["Original", "Seen", "detection_outputs", "scaled"]

# What puts a picture of another size onto the network input.
_FITTING = ("Pad", "Resize", "Upsample")
# Larger deviations or means than these are for pixels 0..255, smaller ones for 0..1.
_UNIT = 2.0


def detection_outputs(source: Source) -> DetectionOutputs | None:
    """The outputs of a graph that are detections; None where it ends in raw heads. Raises SpecError."""
    return find_detections([Output(t.name, _kind(t), tuple(t.shape or ())) for t in source.graph.outputs])


def _kind(tensor: gs.Tensor) -> str:
    kind = "" if tensor.dtype is None else np.dtype(tensor.dtype).name
    return {"float32": "float", "float64": "double"}.get(kind, kind)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the original graph made of one picture.

    content: (H, W) to which it resized the picture, None where it does not resize or it cannot be seen.
    network_input: float32 (1, 3, H, W), None where it cannot be seen.
    """

    found: Found
    content: tuple[int, int] | None = None
    network_input: F32 | None = None


class Original:
    """An ONNX file whose outputs are detections.

    How its one input wants the picture is known from its shape, [3, H, W] or [H, W, 3] with or without a batch axis,
    and from the arithmetic in front of the trunk: pixels 0..1 where mean and std there are of that size, 0..255 where
    they are larger; without any it gets the network input as the spec normalises it. Channels are in the spec's order.
    Raises SpecError where that cannot be known, RuntimeFailure when ONNX Runtime refuses the file.
    """

    def __init__(self, path: Path, source: Source, found: Imported, outputs: DetectionOutputs) -> None:
        self.outputs, self._spec, self._layout = outputs, found.spec, found.layout
        graph = source.graph
        if len(graph.inputs) != 1:
            names = ", ".join(f"{t.name} {list(t.shape or [])}" for t in graph.inputs)
            raise SpecError(
                f"{path}: its own post-processing wants one input, the picture, found {names}; give recorded "
                "detections with --reference, or compare the heads with --heads"
            )
        image = graph.inputs[0]
        self._input, self._shape, self._type = image.name, tuple(image.shape or ()), image.dtype
        self._channels_last = self._find_channels(path, found)
        trunk = graph.tensors()[found.trunk_input]
        before = list(ancestors(trunk))
        self.fits = any(node.op in _FITTING for node in before)
        self.range = _range(static_copy(graph).tensors().get(found.trunk_input), inside=trunk is not image)
        taps = [node.outputs[0] for node in before if node.op == "Resize"]
        self._resized = taps[0].name if len(taps) == 1 and len(taps[0].outputs) else None
        self._trunk = trunk.name if trunk is not image and trunk.dtype != np.float16 else None
        self._session = self._open(path)

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the pictures it takes; None for any."""
        height, width = self._sides
        if isinstance(height, int) and isinstance(width, int):
            return height, width
        return None if self.fits else self._spec.input_size

    @property
    def fed(self) -> str:
        """What it is given, in words."""
        values = {"unit": "0..1", "pixel": "0..255", "normalised": "normalised as the spec says"}[self.range]
        return f"{self._input} {list(self._shape)}: {self._spec.color_order.upper()}, {values}"

    def __call__(self, picture: U8, network_input: F32) -> Seen:
        """Detections in a picture, uint8 (H, W, 3) BGR, in its pixels; the network input is what ours makes of it."""
        if self.range == "normalised":
            planes = network_input[0]
        else:
            ordered = picture[..., ::-1] if self._spec.color_order == "rgb" else picture
            planes = ordered.transpose(2, 0, 1).astype(np.float32) / np.float32(255 if self.range == "unit" else 1)
        value = planes.transpose(1, 2, 0) if self._channels_last else planes
        if len(self._shape) == 4:
            batch = self._shape[0] if isinstance(self._shape[0], int) and self._shape[0] > 0 else 1
            value = np.repeat(value[None], batch, axis=0)
        names = [*self.outputs.names, *(name for name in (self._resized, self._trunk) if name is not None)]
        try:
            got = self._session.run(names, {self._input: np.ascontiguousarray(value, self._type or np.float32)})
        except Exception as exc:  # onnxruntime's errors have no common base
            raise RuntimeFailure(
                f"the original graph fails in ONNX Runtime on a picture of {picture.shape[1]}x{picture.shape[0]}; give "
                f"recorded detections with --reference, or compare the heads with --heads: {exc!s:.300}"
            ) from exc
        values: dict[str, npt.NDArray[Any]] = dict(zip(names, got, strict=True))
        return Seen(self.outputs.read(values), self._content(values), self._network_input(values))

    def _find_channels(self, path: Path, found: Imported) -> bool:
        """Whether channels come last."""
        if len(self._shape) not in (3, 4):
            raise SpecError(
                f"{path}: its own post-processing wants a picture [3, H, W] or [B, 3, H, W], found {self._input} "
                f"{list(self._shape)}; give recorded detections with --reference, or compare the heads with --heads"
            )
        first, last = self._shape[-3] == 3, self._shape[-1] == 3
        return last if first != last else found.layout.input == "nhwc"

    @property
    def _sides(self) -> tuple[Any, Any]:
        start = len(self._shape) - (3 if self._channels_last else 2)
        return self._shape[start], self._shape[start + 1]

    def _open(self, path: Path) -> Any:
        """A session with the taps for outputs too, or, where ONNX Runtime has something against those, without."""
        model = onnx.load(str(path))
        names = {output.name for output in model.graph.output}
        taps = [name for name in (self._resized, self._trunk) if name is not None and name not in names]
        plain = model.SerializeToString()
        kind = onnx.TensorProto.FLOAT
        model.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in dict.fromkeys(taps))
        try:
            return open_session(model.SerializeToString())
        except RuntimeFailure:
            self._resized = self._trunk = None
            return open_session(plain)

    def _content(self, values: dict[str, npt.NDArray[Any]]) -> tuple[int, int] | None:
        if self._resized is None:
            return None
        shape = values[self._resized].shape
        sides = [size for size in shape if size != 1]
        if len(sides) != 3 or 3 not in (sides[0], sides[-1]):
            return None
        height, width = sides[1:] if sides[0] == 3 else sides[:2]
        return height, width

    def _network_input(self, values: dict[str, npt.NDArray[Any]]) -> F32 | None:
        if self._trunk is None or values[self._trunk].ndim != 4:
            return None
        batch = values[self._trunk][:1].astype(np.float32)
        batch = batch.transpose(0, 3, 1, 2) if self._layout.input == "nhwc" else batch
        return np.ascontiguousarray(batch) if batch.shape == (1, 3, *self._spec.input_size) else None


def _range(trunk: gs.Tensor | None, *, inside: bool) -> str:
    """Either "unit" for pixels 0..1, "pixel" for 0..255 or "normalised" where the graph does not normalise."""
    affine = affine_before(trunk) if inside and trunk is not None else None
    if affine is None:
        return "normalised"
    return "unit" if max(float(np.abs(values).max()) for values in affine) <= _UNIT else "pixel"


def scaled(picture: U8, size: tuple[int, int]) -> U8:
    """The picture stretched to (H, W), smoothed where it shrinks; the same where it has that size."""
    if picture.shape[:2] == size:
        return picture
    smaller = size[0] < picture.shape[0] and size[1] < picture.shape[1]
    way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=way), np.uint8)
