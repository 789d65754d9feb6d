"""Frames that are on the GPU already: found by DLPack or __cuda_array_interface__, checked, never copied."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from edge_retina.errors import UsageError
from edge_retina.runtime.cuda import Device, Stream

__all__ = ["DeviceFrames", "Shape", "view_frames"]

Shape = tuple[int, int, int, int]

_WANTED = "wanted frames uint8 (B, H, W, 3) or (H, W, 3), C-contiguous"

# NvInferRuntime.h, setTensorAddress: "the pointer must have at least 256-byte alignment".
_ALIGNMENT = 256
# dlpack.h: kDLCUDA and kDLCUDAManaged, kDLUInt.
_DL_ON_GPU, _DL_UINT = (2, 13), 1


class DeviceFrames(NamedTuple):
    """Frames on the GPU. address: of the first byte. owner: keeps them alive as long as it lives."""

    address: int
    shape: Shape
    owner: object


def view_frames(frames: Any, device: Device, stream: Stream) -> DeviceFrames:
    """Where frames lie; `stream` runs what comes next only when their producer is done with them.

    frames: uint8 (B, H, W, 3) or (H, W, 3), C-contiguous, on `device`, with DLPack or __cuda_array_interface__. Call
    it with the device current. Raises UsageError for anything else, one of device.errors.
    """
    if hasattr(frames, "__dlpack__") and hasattr(frames, "__dlpack_device__"):
        return _by_dlpack(frames, device, stream)
    if hasattr(frames, "__cuda_array_interface__"):
        return _by_interface(frames, device, stream)
    raise UsageError(
        f"{_WANTED}: a NumPy array, or with __dlpack__ or __cuda_array_interface__; found {type(frames).__name__}"
    )


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _by_dlpack(frames: Any, device: Device, stream: Stream) -> DeviceFrames:
    kind, index = (int(value) for value in frames.__dlpack_device__())
    if kind not in _DL_ON_GPU or index != device.index:
        raise UsageError(
            f"wanted frames on GPU {device.index}, found DLPack device ({kind}, {index}); "
            "give host frames as NumPy arrays"
        )
    try:
        # The producer makes our stream wait for its own. The capsule is only looked at: its own destructor frees it.
        capsule = frames.__dlpack__(stream=stream.handle)
        tensor = _DLTensor.from_address(_pointer_of(capsule, b"dltensor"))
    except (BufferError, TypeError, ValueError) as exc:
        raise UsageError(f"{_WANTED}; {type(frames).__name__}.__dlpack__ gives none: {exc}") from exc
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    if (tensor.code, tensor.bits, tensor.lanes) != (_DL_UINT, 8, 1):
        raise UsageError(f"{_WANTED}; found DLPack type code {tensor.code} of {tensor.bits} bits x {tensor.lanes}")
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceFrames(address, _checked(address, shape, strides), capsule)


def _by_interface(frames: Any, device: Device, stream: Stream) -> DeviceFrames:
    facts = frames.__cuda_array_interface__
    kind, version = facts["typestr"], facts.get("version", 0)
    if kind != "|u1" or version < 2 or facts.get("mask") is not None:
        raise UsageError(
            f"{_WANTED}, __cuda_array_interface__ 2 or later without a mask; found {kind}, version {version}"
        )
    address = int(facts["data"][0])
    shape = _checked(address, tuple(facts["shape"]), facts.get("strides"))
    found = device.place_of(address)
    if found != device.index:
        where = "host memory" if found is None else f"memory of GPU {found}"
        raise UsageError(f"wanted frames on GPU {device.index}, found an address in {where}")
    # Version 2 says nothing about streams; its producers (PyTorch) work on the legacy default stream unless told to.
    follow = facts.get("stream") if version >= 3 else 1
    if follow == 0:
        raise UsageError("found stream 0 in __cuda_array_interface__, which its definition disallows; use 1 or 2")
    if follow is not None:
        stream.follow(int(follow))
    return DeviceFrames(address, shape, frames)


def _checked(address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Shape:
    """The shape with a batch dimension; strides are in bytes, which for uint8 are elements."""
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
        raise UsageError(f"{_WANTED}; found shape {shape}")
    expected = [1]
    for size in shape[:0:-1]:
        expected.insert(0, expected[0] * size)
    # The stride of a dimension of one is anything.
    if strides is not None and any(
        stride != wanted for stride, wanted, size in zip(strides, expected, shape, strict=True) if size > 1
    ):
        raise UsageError(
            f"{_WANTED}; found strides {strides} for shape {shape}; call .contiguous() or its like on them"
        )
    if address % _ALIGNMENT:
        raise UsageError(
            f"TensorRT wants frames at a multiple of {_ALIGNMENT} bytes, found {address:#x}; clone the slice"
        )
    return (1, *shape) if len(shape) == 3 else shape  # type: ignore[return-value]
