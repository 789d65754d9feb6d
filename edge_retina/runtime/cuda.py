"""CUDA for the TensorRT runtimes: a device in its primary context, its memory, its streams, its graphs.

The only file that imports pycuda and cuda.bindings, both when a device is opened. The primary context is the one that
PyTorch, CuPy and TensorRT itself use; it is current only inside `with device.current()`, on the thread that says so,
and what was current before is again afterwards. Memory, streams and graphs are made, used and freed in there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.errors import MissingPackage, RuntimeFailure, UsageError
from edge_retina.runtime.graph import CudaError, Graph, capture, checked

__all__ = ["Current", "Device", "DeviceMemory", "HostMemory", "Stream", "open_device"]

U8 = npt.NDArray[np.uint8]

# cuStreamCreate: does not wait for the legacy default stream, which other libraries work on.
_NON_BLOCKING = 1
# What __cuda_array_interface__ calls the legacy default stream.
_LEGACY_STREAM = 1

_log = logging.getLogger(__name__)
_opening = threading.Lock()


class Current:
    """Makes a context current on this thread from `with` to its end. Holds no state: one serves all threads."""

    __slots__ = ("_pop", "_push")

    def __init__(self, context: Any) -> None:
        self._push, self._pop = context.push, context.pop

    def __enter__(self) -> None:
        self._push()

    def __exit__(self, *_: object) -> None:
        self._pop()


@dataclass(frozen=True, eq=False)
class Device:
    """One GPU. compute_capability: such as "8.7". driver: the newest CUDA it runs, such as "12.6". memory: bytes.

    integrated: it shares its memory with the CPU, as on a Jetson, so that mapped host memory needs no copy.
    graphs: cuda-bindings is there, so that CUDA graphs can be captured.
    """

    index: int
    name: str
    compute_capability: str
    driver: str
    integrated: bool
    memory: int
    cuda: ModuleType
    cudart: ModuleType | None
    context: Current

    @property
    def graphs(self) -> bool:
        """Whether CUDA graphs can be captured."""
        return self.cudart is not None

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the calls of this file raise; `failure` makes a RuntimeFailure of them."""
        return (self.cuda.Error, CudaError)

    def current(self) -> Current:
        """The primary context, current on this thread inside `with device.current():`."""
        return self.context

    def free_memory(self) -> int:
        """Bytes of GPU memory that no process holds. Raises RuntimeFailure."""
        try:
            with self.current():
                return int(self.cuda.mem_get_info()[0])
        except self.errors as exc:
            raise self.failure("asking for free memory", exc) from exc

    def place_of(self, address: int) -> int | None:
        """Number of the GPU that an address belongs to; None for the host's. Call it with the device current."""
        cudart = self.cudart
        if cudart is not None:
            status, facts = cudart.cudaPointerGetAttributes(address)
            kinds = cudart.cudaMemoryType
            on_device = not status and facts.type in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
            return int(facts.device) if on_device else None
        try:
            self.cuda.mem_get_address_range(address)
        except self.cuda.LogicError:
            return None
        return self.index  # pycuda tells no more

    def failure(self, doing: str, error: Exception) -> RuntimeFailure:
        """The typed error for one of `errors`, with what to do about it; call it outside of `current()` or inside."""
        try:
            with self.current():
                free = int(self.cuda.mem_get_info()[0])
        except self.errors as exc:
            # CUDA's own words on such errors: "the process must be terminated and relaunched".
            return RuntimeFailure(
                f"{self.name} is lost to this process since {doing}: {error} (now every call ends with: {exc}); "
                "start the process again; if it happens again, see `dmesg | grep -i -e xid -e nvgpu`"
            )
        if isinstance(error, self.cuda.MemoryError):
            return RuntimeFailure(
                f"out of memory on {self.name} while {doing}: {free >> 20} MiB of {self.memory >> 20} are free; stop "
                "what else uses it, or take a smaller batch, smaller frames or fewer frames at once"
            )
        return RuntimeFailure(f"CUDA failed on {self.name} while {doing}: {error}")


def open_device(index: int = 0) -> Device:
    """The GPU of that number, its primary context retained for the life of the process.

    Raises MissingPackage without pycuda, RuntimeFailure without a driver or a GPU, UsageError for a wrong number.
    """
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            "running on TensorRT needs pycuda; run: pip install 'edge-retina[tensorrt]' (it is compiled: nvcc must be "
            "on the PATH, on a Jetson: export PATH=/usr/local/cuda/bin:$PATH)"
        ) from exc
    except ImportError as exc:
        raise RuntimeFailure(f"pycuda finds no NVIDIA driver: {exc}; check `nvidia-smi`") from exc
    try:
        cuda.init()
        count = cuda.Device.count()
        if not 0 <= index < count:
            raise UsageError(f"wanted GPU {index}, found {count} of them, numbered from 0; see `nvidia-smi -L`")
        handle, attribute = cuda.Device(index), cuda.device_attribute
        major, minor = handle.compute_capability()
        version = cuda.get_driver_version()
        with _opening:
            current = _retain(cuda, index)
        device = Device(
            index=index,
            name=handle.name(),
            compute_capability=f"{major}.{minor}",
            driver=f"{version // 1000}.{version % 1000 // 10}",
            integrated=bool(
                handle.get_attribute(attribute.INTEGRATED) and handle.get_attribute(attribute.CAN_MAP_HOST_MEMORY)
            ),
            memory=handle.total_memory(),
            cuda=cuda,
            cudart=_cudart(version),
            context=current,
        )
    except cuda.Error as exc:
        raise RuntimeFailure(f"no GPU can be used: {exc}; check `nvidia-smi`") from exc
    device.free_memory()  # a context broken earlier shows itself here
    return device


@cache
def _retain(cuda: ModuleType, index: int) -> Current:
    # Never detached: pycuda's detach of a primary context leaves it current on the thread that did it.
    return Current(cuda.Device(index).retain_primary_context())


def _cudart(driver: int) -> ModuleType | None:
    """The CUDA runtime of cuda-bindings; None where it is missing or wants a newer driver than the given one."""
    try:
        from cuda.bindings import runtime as cudart
    except ImportError as exc:
        _log.info("no CUDA graphs: %s; they need cuda-bindings of the installed CUDA's major version", exc)
        return None
    status, version = cudart.cudaRuntimeGetVersion()
    if status or version // 1000 > driver // 1000:  # within a major version any driver will do
        _log.warning(
            "no CUDA graphs: cuda-bindings are of CUDA %d.%d, the driver of %d.%d; run: "
            "pip install 'cuda-bindings==%d.*'",
            *(part for number in (version, driver) for part in (number // 1000, number % 1000 // 10)),
            driver // 1000,
        )
        return None
    return cudart  # type: ignore[no-any-return,unused-ignore]


class DeviceMemory:
    """Bytes on the GPU, aligned as TensorRT wants them. Raises one of device.errors."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self._block = device.cuda.mem_alloc(nbytes)
        self.address, self.nbytes = int(self._block), nbytes

    def free(self) -> None:
        """Give the memory back."""
        self._block.free()


class HostMemory:
    """Page-locked bytes on the host: what copies can run from while the CPU goes on.

    array: uint8 (nbytes,), not to be touched after `free`. address: with mapped=True, where the GPU reads and writes
    the same bytes, else 0. Raises one of device.errors.
    """

    def __init__(self, device: Device, nbytes: int, *, mapped: bool = False) -> None:
        flags = device.cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        self.array: U8 = device.cuda.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        self._block: Any = self.array.base
        self.address = int(self._block.get_device_pointer()) if mapped else 0
        self.nbytes = nbytes

    def free(self) -> None:
        """Give the memory back."""
        self._block.free()


class Stream:
    """Work in order, apart from what other streams do. Every method raises one of device.errors."""

    def __init__(self, device: Device) -> None:
        cuda = device.cuda
        self._device, self._cuda = device, cuda
        self._stream = cuda.Stream(_NON_BLOCKING)
        self.handle: int = self._stream.handle
        # A Jetson has few cores and little power: there a waiting thread sleeps. Elsewhere it waits as the context's
        # flags say, by default spinning, which ends some microseconds sooner. Both let other Python threads run.
        events = cuda.event_flags
        self._done = cuda.Event(events.BLOCKING_SYNC | events.DISABLE_TIMING) if device.integrated else None
        self._order = cuda.Event(events.DISABLE_TIMING)

    def upload(self, address: int, source: U8) -> None:
        """Copy page-locked host bytes to the GPU; they must stay as they are until the stream has got there."""
        self._cuda.memcpy_htod_async(address, source, self._stream)

    def download(self, target: U8, address: int) -> None:
        """Copy from the GPU to page-locked host bytes, which hold the copy after `wait`."""
        self._cuda.memcpy_dtoh_async(target, address, self._stream)

    def wait(self) -> None:
        """Wait on the host until all work is done."""
        if self._done is None:
            self._stream.synchronize()
        else:
            self._done.record(self._stream)
            self._done.synchronize()

    def follow(self, handle: int) -> None:
        """Start what comes next only when another library's stream has done what it was given so far.

        handle: a stream as __cuda_array_interface__ has it; 1 is the legacy default stream, 2 the thread's own.
        """
        cudart = self._device.cudart
        if handle == _LEGACY_STREAM:
            self._order.record()
            self._stream.wait_for_event(self._order)
        elif cudart is not None:
            flags = cudart.cudaEventDisableTiming
            event = checked(cudart, "cudaEventCreate", cudart.cudaEventCreateWithFlags(flags))
            try:
                checked(cudart, "cudaEventRecord", cudart.cudaEventRecord(event, handle))
                checked(cudart, "cudaStreamWaitEvent", cudart.cudaStreamWaitEvent(self.handle, event, 0))
            finally:
                cudart.cudaEventDestroy(event)  # CUDA keeps it until it has been waited for
        else:
            self._cuda.Context.synchronize()  # pycuda takes no foreign stream; slower, and as right

    def capture(self, work: Callable[[], None]) -> Graph | None:
        """A graph of what `work` puts on this stream, none of it run; None, and a warning, where there can be none."""
        cudart = self._device.cudart
        return None if cudart is None else capture(cudart, self.handle, work, self._device.errors)

    def launch(self, graph: Graph) -> None:
        """Run a captured graph."""
        graph.launch(self.handle)

    def free(self) -> None:
        """Give the stream back; it must have no work left."""
        del self._stream, self._order, self._done
