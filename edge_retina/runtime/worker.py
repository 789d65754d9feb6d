"""One worker of the TensorRT runtimes: a stream, an execution context, the memory for one batch, a graph."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.runtime import Outputs
from edge_retina.runtime.cuda import Device, DeviceMemory, HostMemory, Stream
from edge_retina.runtime.device_frames import DeviceFrames, Shape
from edge_retina.runtime.graph import Graph

__all__ = ["FRAMES", "OUTPUTS", "Counts", "Pieces", "Plan", "Worker"]

FRAMES = "frames"
# Output to its type and the shape of a row; None is the number of detections, which the plan fixes.
OUTPUTS: dict[str, tuple[type[np.generic], tuple[int | None, ...]]] = {
    "boxes": (np.float32, (None, 4)),
    "scores": (np.float32, (None,)),
    "labels": (np.int32, (None,)),
    "count": (np.int32, ()),
}
# Of an address given to TensorRT, in bytes.
_ALIGNMENT = 256


class Plan(NamedTuple):
    """A plan that was loaded and found to be edge-retina's.

    engine: TensorRT's. errors: its error recorder. least, most: the shapes of frames that it takes, each dimension on
    its own. detections: rows of its outputs for one frame.
    """

    engine: Any
    errors: Any
    least: Shape
    most: Shape
    detections: int


class Counts(NamedTuple):
    """What was done and what is held.

    captured_launches, plain_launches: runs, as a graph or piece by piece. captures: graphs made. allocations: blocks of
    GPU memory taken since the start. bytes_held: how much of that is held; what TensorRT takes itself is not in it.
    """

    captured_launches: int = 0
    plain_launches: int = 0
    captures: int = 0
    allocations: int = 0
    bytes_held: int = 0


class Pieces(NamedTuple):
    """Milliseconds of one run whose pieces were waited for one by one.

    upload: with the copy into page-locked memory. layers: by TensorRT's names, in the order they ran; they are part of
    network. download: with the copy out of page-locked memory.
    """

    upload: float
    network: float
    download: float
    layers: tuple[tuple[str, float], ...]


class _Place(NamedTuple):
    """Where an output lies in the block of outputs."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]
    offset: int


class Worker:
    """Runs one batch at a time; made, used and freed with the device current, by one thread at a time.

    TensorRT freezes shapes and addresses into a captured graph, so there is one graph, for the shape that came last: a
    shape's first run goes piece by piece, as TensorRT wants it, its second captures, later ones launch. Every method
    raises RuntimeFailure or one of device.errors; after that call `forget`.
    """

    def __init__(self, plan: Plan, device: Device) -> None:
        self._plan, self._device = plan, device
        self._captured_launches = self._plain_launches = self._captures = self._allocations = 0
        self._graph: Graph | None = None
        self._frames: DeviceMemory | None = None
        self._staging: HostMemory | None = None
        self._shape: Shape | None = None
        self._address, self._from_host = 0, False
        # Whether the bound shape and addresses have run once; whether graphs can be had at all.
        self._settled, self._capturing = False, device.graphs
        with ExitStack() as undo:
            self.stream = Stream(device)
            undo.callback(self.stream.free)
            self._context = plan.engine.create_execution_context()
            if self._context is None:
                raise RuntimeFailure(
                    f"TensorRT makes no execution context: {plan.errors.told()}; take fewer frames at once"
                )
            undo.callback(self.__dict__.pop, "_context")
            self._context.error_recorder = plan.errors
            # Small, and written once: where the GPU shares the host's memory it writes what the host reads.
            size = _places(plan.most[0], plan.detections)[1]
            self._results = HostMemory(device, size, mapped=device.integrated)
            undo.callback(self._results.free)
            self._answer = None if device.integrated else self._allocate(size)
            undo.pop_all()

    @property
    def shape(self) -> Shape | None:
        """The shape of frames that a run would find everything ready for."""
        return self._shape

    def counts(self) -> Counts:
        """What this worker did and holds."""
        held = sum(block.nbytes for block in (self._frames, self._answer) if block is not None)
        return Counts(self._captured_launches, self._plain_launches, self._captures, self._allocations, held)

    def run(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Run frames in host memory, uint8 (B, H, W, 3); the outputs are the caller's. Raises UsageError too."""
        if frames.shape != self._shape or not self._from_host:
            self._take_from_host(frames.shape)
        np.copyto(self._pixels, frames)
        if self._graph is None and self._settled and self._capturing:
            self._capture()
        if self._graph is not None:
            self.stream.launch(self._graph)
            self._captured_launches += 1
            return self._finish()
        self._enqueue()
        return self._finish_plain()

    def run_in_pieces(self, frames: npt.NDArray[np.uint8], profiler: Any) -> Pieces:
        """Run frames in host memory to time them; profiler: of runtime.load, told of every run of this worker."""
        if frames.shape != self._shape or not self._from_host:
            self._take_from_host(frames.shape)
        self._drop_graph()
        self._context.profiler = profiler
        times = [time.perf_counter()]
        np.copyto(self._pixels, frames)
        self.stream.upload(self._address, self._source)
        self.stream.wait()
        times.append(time.perf_counter())
        self._execute()
        self.stream.wait()
        times.append(time.perf_counter())
        self._download()
        self._finish_plain()
        times.append(time.perf_counter())
        upload, network, download = ((end - start) * 1000 for start, end in pairwise(times))
        return Pieces(upload, network, download, tuple(profiler.taken()))

    def run_on_device(self, frames: DeviceFrames) -> Outputs:
        """Run frames where they lie on the GPU; otherwise as `run`. Piece by piece, for their address may change."""
        if frames.shape != self._shape or self._from_host or frames.address != self._address:
            self._bind(frames.shape, frames.address)
            self._from_host = False
        self._compute()
        return self._finish_plain()

    def forget(self) -> None:
        """After an error: wait for what is under way, and let the next run set everything up anew."""
        with suppress(*self._device.errors):
            self.stream.wait()
        self._drop_graph()
        self._shape = None

    def free(self) -> None:
        """Give all back, whatever state the GPU is in."""
        self.forget()
        # TensorRT's context has memory of its own, freed with it.
        self.__dict__.pop("_context", None)
        self._plan = self._plan._replace(engine=None)  # the weights go with the last worker
        for block in (self._frames, self._staging, self._answer, self._results):
            if block is not None:
                with suppress(*self._device.errors):
                    block.free()
        self._frames = self._staging = self._answer = None
        self.stream.free()

    def _take_from_host(self, shape: Shape) -> None:
        """Make room for host frames of this shape and bind it."""
        self._check(shape)
        size = int(np.prod(shape))
        if self._frames is None or self._frames.nbytes < size:
            self._drop_graph()
            self._shape = None
            # First back, then new: a GPU may have no room for both. Every run has waited, so nobody uses it.
            if self._frames is not None and self._staging is not None:
                frames, staging, self._frames, self._staging = self._frames, self._staging, None, None
                frames.free()
                staging.free()
            staging = HostMemory(self._device, size)
            try:
                self._frames, self._staging = self._allocate(size), staging
            except BaseException:
                staging.free()
                raise
        assert self._staging is not None
        self._bind(shape, self._frames.address)
        self._source = self._staging.array[:size]
        self._pixels = self._source.reshape(shape)
        self._from_host = True

    def _bind(self, shape: Shape, address: int) -> None:
        """Tell TensorRT the shape of the frames and every address; the graph that knew others goes."""
        self._check(shape)
        self._drop_graph()
        self._settled = False
        context, changed = self._context, shape != self._shape
        self._shape = None  # until all is bound
        done = context.set_tensor_address(FRAMES, address)
        if changed:
            self._places, self._used = _places(shape[0], self._plan.detections)
            base = self._results.address if self._answer is None else self._answer.address
            done = done and context.set_input_shape(FRAMES, shape)
            for place in self._places:
                done = done and context.set_tensor_address(place.name, base + place.offset)
        if not done or context.infer_shapes():
            raise RuntimeFailure(f"TensorRT does not take frames of {list(shape)}: {self._plan.errors.told()}")
        for place in self._places:
            if (found := tuple(context.get_tensor_shape(place.name))) != place.shape:
                raise RuntimeFailure(f"the plan gives {place.name} as {found} for frames {shape}, wanted {place.shape}")
        self._shape, self._address = shape, address

    def _check(self, shape: Shape) -> None:
        least, most = self._plan.least, self._plan.most
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            raise UsageError(
                f"this plan takes frames (B, H, W, 3) from {list(least)} to {list(most)}, found {list(shape)}; "
                "build one for such frames: edge-retina build --help tells the options for sizes and batches"
            )

    def _capture(self) -> None:
        """Make the graph; a network that none can be made of is not tried again."""
        ask = getattr(self._context, "is_stream_capturable", None)  # RTX has it, TensorRT tells by failing
        if ask is None or ask(self.stream.handle):
            self._graph = self.stream.capture(self._enqueue)
        self._capturing = self._graph is not None
        self._captures += self._capturing

    def _enqueue(self) -> None:
        """Put upload, network and download on the stream."""
        self.stream.upload(self._address, self._source)
        self._compute()

    def _compute(self) -> None:
        self._execute()
        self._download()

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self.stream.handle):
            raise RuntimeFailure(f"TensorRT failed on frames {list(self._shape or ())}: {self._plan.errors.told()}")

    def _download(self) -> None:
        if self._answer is not None:
            self.stream.download(self._results.array[: self._used], self._answer.address)

    def _finish_plain(self) -> Outputs:
        self._plain_launches += 1
        outputs = self._finish()
        self._settled = True
        return outputs

    def _finish(self) -> Outputs:
        """Wait, and copy what came back: a few kilobytes, in one piece."""
        self.stream.wait()
        block = self._results.array[: self._used].copy()
        return Outputs(*(np.ndarray(place.shape, place.dtype, block, place.offset) for place in self._places))

    def _allocate(self, nbytes: int) -> DeviceMemory:
        block = DeviceMemory(self._device, nbytes)
        self._allocations += 1
        return block

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.free()
            self._graph = None


def _places(batch: int, detections: int) -> tuple[tuple[_Place, ...], int]:
    """Where each output of a batch lies, and the bytes of all."""
    places, end = [], 0
    for name, (dtype, row) in OUTPUTS.items():
        shape = (batch, *(detections if size is None else size for size in row))
        places.append(_Place(name, shape, dtype, end))
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return tuple(places), end
