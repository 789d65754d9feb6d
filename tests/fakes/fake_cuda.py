"""A GPU of Python: pycuda.driver and cuda.bindings.runtime over host memory, strict where the real ones are undefined.

Work on a stream happens only when somebody waits for it, so that what is read too early is poison (0xA5), what is
overwritten too early is noticed, and what is freed too early is missing. Misuse raises, and is kept in `gpu.misuses`,
for a `del` or a broad `except` may swallow it; `installed()` looks there at its end, and for leaks.
"""

from __future__ import annotations

import enum
import itertools
import sys
import threading
import zlib
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

POISON = 0xA5
ALIGNMENT = 256
# Device addresses look like nothing the host has.
FIRST_ADDRESS, GAP = 0x10_0000_0000, 1 << 16
LEGACY, PER_THREAD = 1, 2

U8 = np.ndarray[Any, np.dtype[np.uint8]]


class Misuse(Exception):
    """Something that is undefined on a real GPU."""


class Error(Exception):
    """pycuda.driver.Error."""


class MemoryError_(Error):
    """pycuda.driver.MemoryError."""


class LogicError(Error):
    """pycuda.driver.LogicError."""


class LaunchError(Error):
    """pycuda.driver.LaunchError."""


class RuntimeError_(Error):
    """pycuda.driver.RuntimeError."""


class Status(enum.IntEnum):
    """cudaError_t, as far as it is needed."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class MemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class EventFlags(enum.IntFlag):
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2


class Attribute(enum.Enum):
    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19


@dataclass(eq=False)
class Block:
    """A range of addresses. kind: device, pinned or mapped; of a mapped one `start` is where the device sees it."""

    start: int
    data: U8
    kind: str
    live: bool = True


@dataclass
class Op:
    """Work on a stream. begin: at once when it is put there; run: when the stream gets to it."""

    name: str
    run: Callable[[], None]
    begin: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Capture:
    thread: int
    mode: CaptureMode
    ops: list[Op] = field(default_factory=list)
    invalid: bool = False


@dataclass(eq=False)
class Queue:
    """What the driver knows of a stream."""

    handle: int
    flags: int
    work: deque[Op] = field(default_factory=deque)
    capture: Capture | None = None
    live: bool = True


@dataclass(eq=False)
class Mark:
    """What an event holds: the stream it was recorded on, and whether that got there."""

    queue: Queue | None = None
    done: bool = True


@dataclass(eq=False)
class GraphExec:
    ops: list[Op]
    live: bool = True


class Gpu:
    """One machine with one GPU (`count` of them by number). Counts calls and allocations, injects faults.

    allocations: device blocks ever taken. instant: kernels and copies take no time and do nothing, so that what is left
    is the host's work; what a host buffer holds then stays. Faults: `fail_allocation(n)` makes the n-th allocation from
    now fail; `launch_fault` "once" or "sticky" breaks the next kernel; `end_capture_fault` breaks captures;
    `capturable` False: the engine says so itself (RTX). free: bytes.
    """

    def __init__(
        self,
        *,
        name: str = "Fake Orin",
        capability: tuple[int, int] = (8, 7),
        integrated: bool = False,
        driver: int = 12060,
        memory: int = 8 << 30,
        count: int = 1,
    ) -> None:
        self.name, self.capability, self.integrated, self.driver = name, capability, integrated, driver
        self.memory, self.count = memory, count
        self.bindings_version = 12060
        self.instant = False
        self.calls: Counter[str] = Counter()
        self.misuses: list[str] = []
        self.allocations = 0
        self.waits = 0
        self.executions: list[tuple[int, bool]] = []  # thread, in a graph
        self.launch_fault = ""
        self.end_capture_fault = False
        self.capturable = True
        self.lost = ""
        self.blocks: list[Block] = []
        self.pinned: list[Block] = []
        self.queues: dict[int, Queue] = {}
        self.events = 0
        self.contexts = 0
        self.engines = 0
        self.graphs: list[GraphExec] = []
        self.stacks: dict[int, list[object]] = {}
        self.primary = Context(self)
        self._next = FIRST_ADDRESS
        self._handles = itertools.count(0x7000)
        self._fail_in = 0
        self.lock = threading.RLock()
        self.legacy = Queue(LEGACY, 0)
        self.queues[LEGACY] = self.legacy
        self.queues[PER_THREAD] = Queue(PER_THREAD, 0)

    # What every call goes through.

    def misuse(self, text: str) -> Misuse:
        self.misuses.append(text)
        return Misuse(text)

    def enter(self, name: str, *, cleanup: bool = False, implicit: bool = False) -> None:
        """Count a call, and see that it may be made: the primary context is current, the GPU there.

        cleanup: what gives back may be called of a lost GPU. implicit: with no context at all the call makes the
        primary one current, as the CUDA runtime does.
        """
        self.calls[name] += 1
        stack = self.stacks.get(threading.get_ident())
        if stack[-1] is not self.primary if stack else not implicit:
            raise self.misuse(f"{name} on a thread where the primary context is not current")
        if self.lost and not cleanup:
            raise LogicError(f"{name} failed: {self.lost}")

    def unsafe(self, name: str) -> None:
        """What must not be called while a stream is being captured."""
        thread = threading.get_ident()
        for queue in list(self.queues.values()):
            capture = queue.capture
            if capture is None or capture.mode == CaptureMode.cudaStreamCaptureModeRelaxed:
                continue
            if capture.thread == thread or capture.mode == CaptureMode.cudaStreamCaptureModeGlobal:
                capture.invalid = True
                raise self.misuse(f"{name} while a stream is being captured")

    def fail_allocation(self, number: int = 1) -> None:
        """Let the number-th allocation from now fail, of device or of pinned memory."""
        self._fail_in = number

    # Memory.

    def allocate(self, nbytes: int, kind: str) -> Block:
        if nbytes < 1:
            raise LogicError("cuMemAlloc failed: invalid argument")
        self._fail_in -= 1
        if self._fail_in == 0 or nbytes > self.free_bytes():
            raise MemoryError_("cuMemAlloc failed: out of memory")
        data = np.full(nbytes, POISON, np.uint8)
        block = Block(self._next, data, kind)
        self._next += -(-nbytes // GAP) * GAP + GAP
        self.blocks.append(block)
        if kind == "device":
            self.allocations += 1
        else:
            self.pinned.append(block)
        return block

    def free_bytes(self) -> int:
        return self.memory - sum(block.data.nbytes for block in self.blocks if block.live)

    def view(self, address: int, nbytes: int, what: str) -> U8:
        """The bytes at a device address; raises Misuse unless all of them are in one live block."""
        at = bisect_right(self.blocks, address, key=lambda block: block.start) - 1
        block = self.blocks[at] if at >= 0 else None
        if block is None or address >= block.start + block.data.nbytes or block.kind == "pinned":
            raise self.misuse(f"{what}: {address:#x} is no device address")
        if not block.live:
            raise self.misuse(f"{what}: the memory at {address:#x} was freed")
        offset = address - block.start
        if offset + nbytes > block.data.nbytes:
            raise self.misuse(f"{what}: {nbytes} bytes wanted at {address:#x}, {block.data.nbytes - offset} are there")
        return block.data[offset : offset + nbytes]

    def host(self, array: Any, what: str) -> U8:
        """The bytes of a host array; raises Misuse unless they are page-locked and live."""
        view = np.asarray(memoryview(array)).reshape(-1).view(np.uint8)
        start = view.__array_interface__["data"][0]
        for block in self.pinned:
            first = block.data.__array_interface__["data"][0]
            if first <= start and start + view.nbytes <= first + block.data.nbytes:
                if not block.live:
                    raise self.misuse(f"{what}: page-locked memory that was freed")
                return view
        raise self.misuse(f"{what}: the host memory is pageable, so the copy would not be asynchronous")

    # Streams.

    def put(self, queue: Queue, op: Op) -> None:
        """Put work on a stream, or into the graph that is being captured from it."""
        if not queue.live:
            raise self.misuse(f"{op.name} on a stream that was destroyed")
        if queue.capture is not None:
            if queue.capture.thread != threading.get_ident():
                raise self.misuse(f"{op.name} from another thread than the one that captures the stream")
            queue.capture.ops.append(op)
            return
        op.begin()
        queue.work.append(op)

    def drain(self, queue: Queue) -> None:
        """Do all work of a stream."""
        while queue.work:
            self.step(queue)

    def step(self, queue: Queue) -> None:
        """Do the next work of a stream; where that fails, the rest is not done."""
        try:
            queue.work.popleft().run()
        except BaseException:
            queue.work.clear()
            raise

    def kernel_fault(self) -> None:
        """Break the kernel that runs now, if that was asked for."""
        fault, self.launch_fault = self.launch_fault, ""
        if fault == "sticky":
            self.lost = "an illegal memory access was encountered"
            raise LogicError(f"cuStreamSynchronize failed: {self.lost}")
        if fault == "once":
            raise LaunchError("cuStreamSynchronize failed: too many resources requested for launch")

    def wait_for(self, mark: Mark) -> None:
        """Do what comes before an event's mark."""
        while not mark.done and mark.queue is not None and mark.queue.work:
            self.step(mark.queue)

    # The end.

    def leaks(self) -> list[str]:
        """What was made and not given back."""
        return [
            *(f"{block.data.nbytes} bytes of {block.kind} memory" for block in self.blocks if block.live),
            *(f"stream {queue.handle:#x}" for queue in self.queues.values() if queue.live and queue.handle > 2),
            *("a graph" for graph in self.graphs if graph.live),
            *([f"{self.events} events"] if self.events else []),
            *([f"{self.contexts} execution contexts"] if self.contexts else []),
            *([f"{self.engines} engines"] if self.engines else []),
            *(f"a context on the stack of thread {thread}" for thread, stack in self.stacks.items() if stack),
        ]


class Context:
    """pycuda's Context of the primary context."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def push(self) -> None:
        gpu = self._gpu
        if gpu.instant:
            return
        gpu.calls["Context.push"] += 1
        gpu.stacks.setdefault(threading.get_ident(), []).append(self)

    def pop(self) -> None:
        gpu = self._gpu
        if gpu.instant:
            return
        gpu.calls["Context.pop"] += 1
        stack = gpu.stacks.get(threading.get_ident())
        if not stack:
            raise gpu.misuse("Context.pop without a context")
        stack.pop()


def driver_module(gpu: Gpu) -> ModuleType:
    """pycuda.driver on this GPU."""
    cuda = ModuleType("pycuda.driver")

    class Device:
        def __init__(self, number: int) -> None:
            if not gpu.calls["init"]:
                raise gpu.misuse("Device before init")
            if not 0 <= number < gpu.count:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        @staticmethod
        def count() -> int:
            return gpu.count

        def name(self) -> str:
            return gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return gpu.capability

        def total_memory(self) -> int:
            return gpu.memory

        def get_attribute(self, attribute: Attribute) -> int:
            return int(gpu.integrated or attribute is Attribute.CAN_MAP_HOST_MEMORY)

        def retain_primary_context(self) -> Context:
            gpu.calls["retain_primary_context"] += 1
            return gpu.primary

        def make_context(self, flags: int = 0) -> None:
            raise gpu.misuse("a context of its own shares nothing with PyTorch or TensorRT; retain the primary one")

    class ContextNames:
        @staticmethod
        def pop() -> None:
            gpu.primary.pop()

        @staticmethod
        def synchronize() -> None:
            gpu.enter("Context.synchronize")
            gpu.unsafe("Context.synchronize")
            gpu.waits += 1
            for queue in list(gpu.queues.values()):
                gpu.drain(queue)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            gpu.enter("Stream")
            self.handle = next(gpu._handles)
            self._queue = gpu.queues[self.handle] = Queue(self.handle, flags)

        def synchronize(self) -> None:
            if gpu.instant:
                return
            gpu.enter("Stream.synchronize")
            gpu.unsafe("Stream.synchronize")
            gpu.waits += 1
            with gpu.lock:
                gpu.drain(self._queue)

        def wait_for_event(self, event: Event) -> None:
            gpu.enter("Stream.wait_for_event")
            mark = event.mark
            gpu.put(self._queue, Op("wait_for_event", lambda: gpu.wait_for(mark)))

        def __del__(self) -> None:
            queue = getattr(self, "_queue", None)
            if queue is None:
                return
            queue.live = False
            stack = gpu.stacks.get(threading.get_ident())
            if not stack or stack[-1] is not gpu.primary:
                gpu.misuse("a stream dropped where the context is not current, and so leaked")
            if queue.work:
                gpu.misuse("a stream dropped with work on it")

    class Event:
        def __init__(self, flags: int = 0) -> None:
            gpu.enter("Event")
            gpu.events += 1
            self.flags, self.mark = flags, Mark()

        def record(self, stream: Stream | None = None) -> Event:
            if gpu.instant:
                return self
            gpu.enter("Event.record")
            queue = gpu.legacy if stream is None else stream._queue
            self.mark = record(queue)
            return self

        def synchronize(self) -> Event:
            if gpu.instant:
                return self
            gpu.enter("Event.synchronize")
            gpu.unsafe("Event.synchronize")
            gpu.waits += 1
            with gpu.lock:
                gpu.wait_for(self.mark)
            return self

        def __del__(self) -> None:
            if not hasattr(self, "mark"):
                return
            gpu.events -= 1
            stack = gpu.stacks.get(threading.get_ident())
            if not stack or stack[-1] is not gpu.primary:
                gpu.misuse("an event dropped where the context is not current, and so leaked")

    def record(queue: Queue) -> Mark:
        mark = Mark(queue, False)

        def run() -> None:
            mark.done = True

        gpu.put(queue, Op("record", run))
        return mark

    class Allocation:
        """DeviceAllocation and PagelockedHostAllocation."""

        def __init__(self, nbytes: int, kind: str) -> None:
            self._block = gpu.allocate(nbytes, kind)
            self.facts: dict[str, Any] = {}

        def __int__(self) -> int:
            return self._block.start

        __index__ = __int__

        @property
        def __array_interface__(self) -> dict[str, Any]:
            return {**self._block.data.__array_interface__, **self.facts}

        def get_device_pointer(self) -> int:
            gpu.enter("get_device_pointer")
            if self._block.kind != "mapped":
                raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
            return self._block.start

        def free(self) -> None:
            gpu.enter("free", cleanup=True)  # pycuda prints what goes wrong here, and raises nothing
            gpu.unsafe("free")
            if not self._block.live:
                raise gpu.misuse("memory freed twice")
            self._block.live = False

    def mem_alloc(nbytes: int) -> Allocation:
        gpu.enter("mem_alloc")
        gpu.unsafe("mem_alloc")
        return Allocation(nbytes, "device")

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> U8:
        gpu.enter("pagelocked_empty")
        gpu.unsafe("pagelocked_empty")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        owner = Allocation(size, "mapped" if mem_flags & HostAllocFlags.DEVICEMAP else "pinned")
        owner.facts = {"shape": tuple(np.atleast_1d(shape).tolist()), "typestr": np.dtype(dtype).str}
        return np.asarray(owner)  # its base is its owner, as pycuda has it

    def memcpy_htod_async(target: int, source: Any, stream: Stream | None = None) -> None:
        if gpu.instant:
            return
        gpu.enter("memcpy_htod_async")
        queue = queue_of(stream, "memcpy_htod_async")
        data = gpu.host(source, "memcpy_htod_async")
        gpu.view(int(target), data.nbytes, "memcpy_htod_async")
        gpu.put(queue, upload(gpu, int(target), data))

    def memcpy_dtoh_async(target: Any, source: int, stream: Stream | None = None) -> None:
        if gpu.instant:
            return
        gpu.enter("memcpy_dtoh_async")
        queue = queue_of(stream, "memcpy_dtoh_async")
        data = gpu.host(target, "memcpy_dtoh_async")
        gpu.view(int(source), data.nbytes, "memcpy_dtoh_async")
        gpu.put(queue, download(gpu, data, int(source)))

    def queue_of(stream: Stream | None, name: str) -> Queue:
        if stream is None:
            raise gpu.misuse(f"{name} on the default stream")
        return stream._queue

    def mem_get_info() -> tuple[int, int]:
        gpu.enter("mem_get_info")
        return gpu.free_bytes(), gpu.memory

    def mem_get_address_range(address: int) -> tuple[int, int]:
        gpu.enter("mem_get_address_range")
        for block in gpu.blocks:
            if block.live and block.kind != "pinned" and block.start <= address < block.start + block.data.nbytes:
                return block.start, block.data.nbytes
        raise LogicError("cuMemGetAddressRange failed: not found")

    def init(flags: int = 0) -> None:
        gpu.calls["init"] += 1
        if not gpu.count:
            raise RuntimeError_("cuInit failed: no CUDA-capable device is detected")

    names = {
        "init": init,
        "get_driver_version": lambda: gpu.driver,
        "Device": Device,
        "Context": ContextNames,
        "Stream": Stream,
        "Event": Event,
        "event_flags": EventFlags,
        "device_attribute": Attribute,
        "host_alloc_flags": HostAllocFlags,
        "mem_alloc": mem_alloc,
        "pagelocked_empty": pagelocked_empty,
        "memcpy_htod_async": memcpy_htod_async,
        "memcpy_dtoh_async": memcpy_dtoh_async,
        "mem_get_info": mem_get_info,
        "mem_get_address_range": mem_get_address_range,
        "Error": Error,
        "MemoryError": MemoryError_,
        "LogicError": LogicError,
        "LaunchError": LaunchError,
        "RuntimeError": RuntimeError_,
    }
    cuda.__dict__.update(names)
    return cuda


class HostAllocFlags:
    PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4


def upload(gpu: Gpu, target: int, data: U8) -> Op:
    seen: list[int] = []

    def begin() -> None:
        seen[:] = [zlib.crc32(data)]

    def run() -> None:
        if [zlib.crc32(data)] != seen:
            raise gpu.misuse("page-locked memory was written to while its upload was pending")
        gpu.view(target, data.nbytes, "upload")[:] = data

    return Op("upload", run, begin)


def download(gpu: Gpu, data: U8, source: int) -> Op:
    def begin() -> None:
        data[:] = POISON

    def run() -> None:
        data[:] = gpu.view(source, data.nbytes, "download")

    return Op("download", run, begin)


def bindings_module(gpu: Gpu) -> ModuleType:
    """cuda.bindings.runtime on this GPU: every call answers (status, ...)."""
    cudart = ModuleType("cuda.bindings.runtime")
    ok, invalid = (Status.cudaSuccess,), Status.cudaErrorInvalidValue

    def ready(name: str) -> Status:
        try:
            gpu.enter(name)
        except LogicError:
            return Status.cudaErrorIllegalAddress
        return Status.cudaSuccess

    def begin_capture(stream: int, mode: CaptureMode) -> tuple[Any, ...]:
        if status := ready("cudaStreamBeginCapture"):
            return (status,)
        queue = gpu.queues[stream]
        if queue.capture is not None or queue.handle <= PER_THREAD:
            raise gpu.misuse("capture of a stream that is captured already, or of a default one")
        queue.capture = Capture(threading.get_ident(), mode)
        return ok

    def end_capture(stream: int) -> tuple[Any, ...]:
        if status := ready("cudaStreamEndCapture"):
            return (status, None)
        queue = gpu.queues[stream]
        capture, queue.capture = queue.capture, None
        if capture is None or capture.thread != threading.get_ident():
            raise gpu.misuse("cudaStreamEndCapture by another thread, or without a capture")
        if capture.invalid or gpu.end_capture_fault:
            return (Status.cudaErrorStreamCaptureInvalidated, None)
        return (*ok, capture.ops)

    def instantiate(graph: list[Op], flags: int) -> tuple[Any, ...]:
        if status := ready("cudaGraphInstantiate"):
            return (status, None)
        gpu.unsafe("cudaGraphInstantiate")
        executable = GraphExec(list(graph))
        gpu.graphs.append(executable)
        return (*ok, executable)

    def launch(executable: GraphExec, stream: int) -> tuple[Any, ...]:
        if gpu.instant:
            return ok
        if status := ready("cudaGraphLaunch"):
            return (status,)
        if not executable.live:
            raise gpu.misuse("launch of a graph that was destroyed")
        for op in executable.ops:
            gpu.put(gpu.queues[stream], op)
        return ok

    def destroy_exec(executable: GraphExec) -> tuple[Any, ...]:
        gpu.calls["cudaGraphExecDestroy"] += 1
        if not executable.live:
            raise gpu.misuse("a graph destroyed twice")
        executable.live, executable.ops = False, []
        return (ready("cudaGraphExecDestroy"),)

    def destroy(graph: list[Op]) -> tuple[Any, ...]:
        return (ready("cudaGraphDestroy"),)

    def attributes(address: int) -> tuple[Any, ...]:
        if status := ready("cudaPointerGetAttributes"):
            return (status, None)
        for block in gpu.blocks:
            if block.live and block.kind == "device" and block.start <= address < block.start + block.data.nbytes:
                return (*ok, Attributes(MemoryType.cudaMemoryTypeDevice, getattr(block, "gpu", 0)))
        return (*ok, Attributes(MemoryType.cudaMemoryTypeUnregistered, 0))

    def event_create(flags: int) -> tuple[Any, ...]:
        if status := ready("cudaEventCreateWithFlags"):
            return (status, None)
        gpu.events += 1
        return (*ok, Mark())

    def event_record(event: Mark, stream: int) -> tuple[Any, ...]:
        if status := ready("cudaEventRecord"):
            return (status,)
        if stream not in gpu.queues:
            return (invalid,)
        event.queue, event.done = gpu.queues[stream], False

        def run() -> None:
            event.done = True

        gpu.put(event.queue, Op("record", run))
        return ok

    def wait_event(stream: int, event: Mark, flags: int) -> tuple[Any, ...]:
        if status := ready("cudaStreamWaitEvent"):
            return (status,)
        gpu.put(gpu.queues[stream], Op("wait_event", lambda: gpu.wait_for(event)))
        return ok

    def event_destroy(event: Mark) -> tuple[Any, ...]:
        gpu.events -= 1
        return (ready("cudaEventDestroy"),)

    names = {
        "cudaError_t": Status,
        "cudaStreamCaptureMode": CaptureMode,
        "cudaMemoryType": MemoryType,
        "cudaEventDisableTiming": 2,
        "cudaStreamBeginCapture": begin_capture,
        "cudaStreamEndCapture": end_capture,
        "cudaGraphInstantiate": instantiate,
        "cudaGraphLaunch": launch,
        "cudaGraphExecDestroy": destroy_exec,
        "cudaGraphDestroy": destroy,
        "cudaPointerGetAttributes": attributes,
        "cudaEventCreateWithFlags": event_create,
        "cudaEventRecord": event_record,
        "cudaStreamWaitEvent": wait_event,
        "cudaEventDestroy": event_destroy,
        "cudaRuntimeGetVersion": lambda: (Status.cudaSuccess, gpu.bindings_version),
        "cudaGetLastError": lambda: (Status.cudaSuccess,),
        "cudaGetErrorString": lambda status: (Status.cudaSuccess, Status(status).name.encode()),
    }
    cudart.__dict__.update(names)
    return cudart


@dataclass(frozen=True)
class Attributes:
    type: MemoryType
    device: int


_machine: Gpu | None = None


def machine() -> Gpu:
    """The GPU that is installed."""
    if _machine is None:
        raise Misuse("no fake GPU is installed: with fake_cuda.installed() as gpu")
    return _machine


@contextmanager
def misused(gpu: Gpu, words: str) -> Iterator[None]:
    """What happens inside is a misuse, and says these words."""
    with suppress(Misuse):
        yield
    told = "; ".join(gpu.misuses)
    assert words in told, f"wanted a misuse with {words!r}, found {told!r}"
    gpu.misuses.clear()


@contextmanager
def installed(*, pycuda: bool = True, bindings: bool = True, **facts: Any) -> Iterator[Gpu]:
    """A GPU of these facts behind `import pycuda.driver` and `cuda.bindings`; without either where it says False.

    At the end nothing may have leaked, and no misuse may have been swallowed on the way.
    """
    global _machine
    gpu = Gpu(**facts)
    names = ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.runtime")
    before = {name: sys.modules.get(name) for name in names}
    packages = {name: ModuleType(name) for name in ("pycuda", "cuda", "cuda.bindings")}
    for package in packages.values():
        package.__path__ = []
    modules: dict[str, Any] = {**packages, "pycuda.driver": driver_module(gpu)}
    modules["cuda.bindings.runtime"] = bindings_module(gpu)
    packages["pycuda"].driver = modules["pycuda.driver"]  # type: ignore[attr-defined]
    packages["cuda"].bindings = packages["cuda.bindings"]  # type: ignore[attr-defined]
    packages["cuda.bindings"].runtime = modules["cuda.bindings.runtime"]  # type: ignore[attr-defined]
    if not pycuda:
        modules["pycuda"] = modules["pycuda.driver"] = None
    if not bindings:
        modules |= dict.fromkeys(("cuda", "cuda.bindings", "cuda.bindings.runtime"))
    outer, _machine = _machine, gpu
    sys.modules.update(modules)
    try:
        yield gpu
        assert not gpu.misuses, gpu.misuses
        assert not gpu.leaks(), gpu.leaks()
    finally:
        _machine = outer
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
