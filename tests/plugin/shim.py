"""The plugin's virtual interfaces as Python, over shim.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.rewrite.decode import call_attributes
from edge_retina.spec import DetectorSpec

FLOAT32, INT32, CHAR, INT64 = 1, 5, 6, 10  # nvinfer1::PluginFieldType
BUILD, RUNTIME = 0, 1  # nvinfer1::TensorRTPhase
TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3}  # nvinfer1::DataType
LINEAR, CHW2, HWC8, CHW4, CHW16, CHW32, HWC = 0, 1, 2, 3, 4, 5, 8  # nvinfer1::TensorFormat
DTYPES = {FLOAT32: np.float32, INT32: np.int32, CHAR: np.uint8, INT64: np.int64}

_i, _p, _s = ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "said": (_s, []),
    "logger": (None, [ctypes.c_int]),
    "creators": (_i, [_p] * 4),
    "declared": (None, [_i, _p, _p]),
    "create": (_p, [_i, _p, _p, _p, _p, _i]),
    "destroy": (None, [_p]),
    "clone": (_p, [_p]),
    "attach": (_p, [_p]),
    "fields": (_i, [_p]),
    "field": (None, [_p, _i, _p, _p, _p, _p]),
    "timing_id": (_s, [_p]),
    "metadata": (_s, [_p]),
    "name": (_s, [_p, _i]),
    "has": (_i, [_p, _i]),
    "outputs": (_i, [_p]),
    "output_types": (_i, [_p, _p, _i, _p, _i]),
    "output_shapes": (_i, [_p, _p, _i, _i, _p, _i]),
    "supports": (_i, [_p, _i, _p, _i, _i]),
    "configure": (_i, [_p, _p, _i, _i, ctypes.c_int64]),
    "workspace": (ctypes.c_size_t, [_p, _p, _i, _i, ctypes.c_int64]),
    "shape_change": (_i, [_p, _p, _i, _i]),
    "enqueue": (_i, [_p, _p, _i, _i, _p, _p, _p]),
}


@dataclass(frozen=True)
class Field:
    """A plugin field: its type as a number, its length as declared, and the values' bytes, None for a null pointer."""

    name: str | None
    type: int
    length: int
    data: bytes | None


def parsed(attributes: Mapping[str, object], *, ends: str = "\0") -> list[Field]:
    """ONNX attributes as the parsers hand them over; ends: what text ends with, by the parser's version."""
    fields = []
    for name, value in attributes.items():
        if isinstance(value, str):
            data = (value + ends).encode()
            fields.append(Field(name, CHAR, len(data), data))
            continue
        values = value if isinstance(value, list) else [value]
        kind = FLOAT32 if isinstance(values[0], float) else INT32
        array = np.array(values, DTYPES[kind])
        fields.append(Field(name, kind, array.size, array.tobytes()))
    return fields


def attributes_of(spec: DetectorSpec) -> dict[str, object]:
    """Of the call that a spec makes, its input's size among them."""
    return call_attributes(spec)


@dataclass(frozen=True)
class Tensor:
    """A description of one input or output."""

    shape: tuple[int, ...]
    type: int = TYPES["float32"]
    format: int = LINEAR

    def numbers(self) -> list[int]:
        return [self.type, self.format, len(self.shape), *self.shape, *[0] * (8 - len(self.shape))]


def heads(spec: DetectorSpec, batch: int = 1, type_: str = "float32", format_: int = LINEAR) -> list[Tensor]:
    """Descriptions of all inputs of a spec's call."""
    shapes = [
        (batch, len(spec.cell_anchors[level]) * channels, *spec.level_shapes[level])
        for channels in (spec.num_classes, 4)
        for level in range(spec.num_levels)
    ]
    return [*(Tensor(shape, TYPES[type_], format_) for shape in shapes), Tensor((8,))]


def results(spec: DetectorSpec, batch: int = 1) -> list[Tensor]:
    """Descriptions of its four outputs."""
    kept, ints = spec.max_detections, TYPES["int32"]
    return [Tensor((batch, kept, 4)), Tensor((batch, kept)), Tensor((batch, kept), ints), Tensor((batch,), ints)]


def _numbers(tensors: Sequence[Tensor]) -> npt.NDArray[np.int64]:
    return np.array([tensor.numbers() for tensor in tensors], np.int64)


class Plugin:
    """One plugin object, which `close` destroys."""

    def __init__(self, shim: Shim, handle: int) -> None:
        self.shim, self.handle = shim, handle

    def __enter__(self) -> Plugin:
        return self

    def __exit__(self, *_: object) -> None:
        self.shim.call("destroy", self.handle)

    def clone(self, how: str = "clone") -> Plugin:
        return Plugin(self.shim, self.shim.call(how, self.handle))

    def fields(self) -> list[Field]:
        found = []
        for i in range(self.shim.call("fields", self.handle)):
            name, kind, length, data = _s(), _i(), _i(), _p()
            self.shim.call("field", self.handle, i, *map(ctypes.byref, (name, kind, length, data)))
            size = length.value * np.dtype(DTYPES[kind.value]).itemsize
            assert name.value is not None
            found.append(Field(name.value.decode(), kind.value, length.value, ctypes.string_at(data.value or 0, size)))
        return found

    def text(self, what: str) -> str:
        return self.shim.call(what, self.handle).decode()

    def name(self, which: int) -> str:
        return self.shim.call("name", self.handle, which).decode()

    def has(self, capability: int) -> bool:
        return bool(self.shim.call("has", self.handle, capability))

    def output_types(self, inputs: Sequence[int], outputs: int = 4) -> list[int] | None:
        given, got = np.array(inputs, np.int32), np.full(outputs, -1, np.int32)
        error = self.shim.call("output_types", self.handle, given.ctypes.data, len(inputs), got.ctypes.data, outputs)
        return None if error else got.tolist()

    def output_shapes(self, inputs: Sequence[Tensor], shape_inputs: int = 0) -> list[tuple[int, ...]] | None:
        given, got = _numbers(inputs), np.zeros((4, 9), np.int64)
        error = self.shim.call(
            "output_shapes", self.handle, given.ctypes.data, len(inputs), shape_inputs, got.ctypes.data, 4
        )
        return None if error else [tuple(row[1 : 1 + row[0]]) for row in got.tolist()]

    def supports(self, position: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        given = _numbers([*inputs, *outputs])
        return bool(self.shim.call("supports", self.handle, position, given.ctypes.data, len(inputs), len(outputs)))

    def configure(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch: int = 1) -> int:
        given = _numbers([*inputs, *outputs])
        return self.shim.call("configure", self.handle, given.ctypes.data, len(inputs), len(outputs), batch)

    def workspace(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch: int = 1) -> int:
        given = _numbers([*inputs, *outputs])
        return self.shim.call("workspace", self.handle, given.ctypes.data, len(inputs), len(outputs), batch)

    def shape_change(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        given = _numbers([*inputs, *outputs])
        return self.shim.call("shape_change", self.handle, given.ctypes.data, len(inputs), len(outputs))

    def enqueue(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        given: Sequence[int | None],
        into: Sequence[int | None],
        workspace: int | None,
    ) -> int:
        descs = _numbers([*inputs, *outputs])
        pointers = [(_p * len(addresses))(*addresses) for addresses in (given, into)]
        return self.shim.call(
            "enqueue", self.handle, descs.ctypes.data, len(inputs), len(outputs), *pointers, workspace
        )


@dataclass
class Shim:
    """A build of the plugin and its creator."""

    path: Path
    library: ctypes.CDLL = field(init=False)

    def __post_init__(self) -> None:
        self.library = ctypes.CDLL(str(self.path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.library, f"shim_{name}")
            function.restype, function.argtypes = result, arguments
        self.call("logger", 1)

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self.library, f"shim_{name}")(*arguments)

    def said(self) -> str:
        """What the plugin logged since the last call."""
        return self.call("said").decode()

    def creator(self) -> tuple[int, str, str, str, dict[str, int]]:
        """How many creators, name, version and namespace of the first, and the fields it declares with their types."""
        texts, count = [_s(), _s(), _s()], _i()
        creators = self.call("creators", *map(ctypes.byref, (*texts, count)))
        declared = {}
        for i in range(count.value):
            name, kind = _s(), _i()
            self.call("declared", i, ctypes.byref(name), ctypes.byref(kind))
            declared[(name.value or b"").decode()] = kind.value
        name, version, space = ((text.value or b"").decode() for text in texts)
        return creators, name, version, space, declared

    def create(self, fields: Sequence[Field] | None, phase: int = BUILD) -> Plugin | None:
        """What createPlugin gives; None for fields: a null collection."""
        if fields is None:
            handle = self.call("create", -1, None, None, None, None, phase)
            return Plugin(self, handle) if handle else None
        n = len(fields)
        names = (_s * n)(*(None if f.name is None else f.name.encode() for f in fields))
        # Each value's bytes in memory of just that size, at an odd address: a plan promises no alignment.
        buffers = [
            None if f.data is None else ctypes.create_string_buffer(b"?" + f.data, len(f.data) + 1) for f in fields
        ]
        data = (_p * n)(*(ctypes.addressof(b) + 1 if b else None for b in buffers))
        types, lengths = (_i * n)(*(f.type for f in fields)), (_i * n)(*(f.length for f in fields))
        handle = self.call("create", n, names, types, lengths, data, phase)
        return Plugin(self, handle) if handle else None
