"""TensorRT and TensorRT-RTX: one plan, run by one or several workers, each with a stream of its own.

A frame costs: a copy into page-locked memory, one graph launch (upload, network, download), one wait, a copy of the
few kilobytes that came back. What the workers hold is allocated when a first frame of a size comes, and grown only for
a larger one. With two workers, frame n+1 uploads while n computes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.runtime import Outputs
from edge_retina.runtime.cuda import Device
from edge_retina.runtime.device_frames import view_frames
from edge_retina.runtime.load import load_plan, open_profiler
from edge_retina.runtime.worker import Counts, Pieces, Worker

__all__ = ["Counts", "Pieces", "TrtRuntime"]

# At the end of the interpreter a thread may hang in a run; what it uses is then left to the driver to free.
_PATIENCE_AT_EXIT_S = 5.0
T = TypeVar("T")


class TrtRuntime:
    """A plan on a GPU.

    trt: the module tensorrt or tensorrt_rtx. plan: what its builder gave for this GPU and version. name: "tensorrt" or
    "tensorrt_rtx". parallel: frames worked on at once. plugin_library: loaded before the plan, which calls its
    AnchorDecode. allow_host_code: run machine code that a version-compatible plan brings along; only for plans whose
    origin is known. Raises RuntimeFailure: the plan is refused or not edge-retina's, or memory is short; UsageError.
    """

    def __init__(
        self,
        trt: ModuleType,
        plan: bytes,
        device: Device,
        *,
        name: str,
        parallel: int = 1,
        plugin_library: Path | None = None,
        allow_host_code: bool = False,
    ) -> None:
        if parallel < 1:
            raise UsageError(f"parallel wants 1 or more, found {parallel}")
        if name == "tensorrt_rtx" and plugin_library is not None:
            raise UsageError(
                "TensorRT-RTX has no plugins, and ends the process that gives it one; leave the library out"
            )
        self.name, self.parallel, self.device, self._trt = name, parallel, device, trt
        try:
            with device.current(), ExitStack() as undo:
                loaded = load_plan(trt, plan, plugin_library=plugin_library, allow_host_code=allow_host_code)
                workers = []
                for _ in range(parallel):
                    workers.append(Worker(loaded, device))
                    undo.callback(workers[-1].free)
                undo.pop_all()
        except device.errors as exc:
            raise device.failure(f"loading a plan of {len(plan)} bytes for {parallel} at once", exc) from exc
        self.batch_most: int | None = loaded.most[0]
        self._profiler: Any = None
        self._pool = _Pool(device, workers)
        self._finalizer = weakref.finalize(self, self._pool.close, _PATIENCE_AT_EXIT_S)

    def run(self, frames: Any) -> Outputs:
        """Run frames, uint8 (B, H, W, 3) BGR; the outputs are the caller's own, no later run touches them.

        frames: NumPy, or what is on this GPU already and shows it by DLPack or __cuda_array_interface__, C-contiguous,
        (H, W, 3) too; it is read where it lies and must not change before this returns. As many threads may call this
        at once as `parallel` says; more wait. Raises UsageError for frames the plan cannot take, RuntimeFailure.
        """
        on_host = isinstance(frames, np.ndarray)
        if on_host and (frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3):
            raise UsageError(f"wanted frames uint8 (B, H, W, 3), found {frames.dtype} {frames.shape}")

        def work(worker: Worker) -> Outputs:
            if on_host:
                return worker.run(frames)
            return worker.run_on_device(view_frames(frames, self.device, worker.stream))

        return self._with_worker(frames, work)

    def run_in_pieces(self, frames: npt.NDArray[np.uint8]) -> Pieces:
        """Run frames (B, H, W, 3) in host memory, piece by piece and with TensorRT's profiler on, which slows it.

        The runtime keeps the profiler, so open one of its own for it. Raises UsageError, RuntimeFailure.
        """
        if self._profiler is None:
            self._profiler = open_profiler(self._trt)
        return self._with_worker(frames, lambda worker: worker.run_in_pieces(frames, self._profiler))

    def _with_worker(self, frames: Any, work: Callable[[Worker], T]) -> T:
        device = self.device
        worker = self._pool.take(frames.shape if isinstance(frames, np.ndarray) else None)
        try:
            with device.current():
                try:
                    return work(worker)
                except UsageError:  # nothing was begun
                    raise
                except BaseException:
                    worker.forget()
                    raise
        except device.errors as exc:
            raise device.failure(f"running frames {list(getattr(frames, 'shape', ()))}", exc) from exc
        finally:
            self._pool.give(worker)

    @property
    def counts(self) -> Counts:
        """What all workers together did and hold."""
        return Counts(*map(sum, zip(*(worker.counts() for worker in self._pool.workers), strict=True)))

    def close(self) -> None:
        """Wait for the runs under way and give all back; closing twice is harmless."""
        self._pool.close()

    def __enter__(self) -> TrtRuntime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Pool:
    """The workers, and who has which."""

    def __init__(self, device: Device, workers: list[Worker]) -> None:
        self.workers, self._device = tuple(workers), device
        self._free, self._closed = workers, False
        self._changed = threading.Condition()

    def take(self, shape: tuple[int, ...] | None) -> Worker:
        """A free worker: one that last ran this shape, else the one idle longest, so that each size keeps its graph."""
        with self._changed:
            while not self._free and not self._closed:
                self._changed.wait()
            if self._closed:
                raise RuntimeFailure("this runtime is closed; load the bundle again: Detector.load(...)")
            free = self._free
            at = next((i for i, worker in enumerate(free) if worker.shape == shape), 0)
            return free.pop(at)

    def give(self, worker: Worker) -> None:
        """Back to the free ones."""
        with self._changed:
            self._free.append(worker)
            self._changed.notify()

    def close(self, patience_s: float | None = None) -> None:
        """Let nobody in, wait for those inside, free all; after patience_s leave all as it is."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: len(self._free) == len(self.workers), patience_s):
                return
        with suppress(*self._device.errors), self._device.current():
            for worker in self.workers:
                worker.free()
