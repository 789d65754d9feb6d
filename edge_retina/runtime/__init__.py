"""Running a bundle: one Protocol, one file per runtime, one door."""

from __future__ import annotations

import os
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_retina.bundle import Bundle
from edge_retina.errors import UsageError

__all__ = ["TARGETS", "Outputs", "Runtime", "cores", "open_runtime"]

TARGETS = ("auto", "ort")


class Outputs(NamedTuple):
    """What the graph gives for a batch; rows past count are zero, label -1.

    boxes: float32 (B, K, 4) xyxy in frame pixels. scores: float32 (B, K) descending. labels: int32 (B, K).
    count: int32 (B,).
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]  # type: ignore[assignment]  # hides tuple.count


class Runtime(Protocol):
    """A loaded bundle that runs batches. parallel: how many threads may call run at once."""

    name: str
    parallel: int

    def run(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Run frames uint8 (B, H, W, 3), BGR. Raises RuntimeFailure."""
        ...

    def close(self) -> None:
        """Give back what is held; closing twice is harmless."""
        ...

    def __enter__(self) -> Runtime:
        """The runtime itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        ...


def cores() -> int:
    """CPU cores this process may use; containers and taskset allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_runtime(bundle: Bundle, target: str = "auto", *, threads: int | None = None, parallel: int = 1) -> Runtime:
    """Load a bundle into a runtime.

    target: one of TARGETS; "auto" is ONNX Runtime, the only one yet. threads: CPU threads, None for all cores.
    parallel: frames worked on at once; 1 gives a frame's result soonest, more give more frames a second (the threads
    are shared out among them). Raises UsageError, RuntimeFailure, BundleError.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}; use one of {', '.join(TARGETS)}")
    if parallel < 1 or (threads is not None and threads < 1):
        raise UsageError(f"threads and parallel want 1 or more, found {threads} and {parallel}")
    from edge_retina.runtime.ort import OrtRuntime

    return OrtRuntime(bundle.model(), threads=threads, parallel=parallel)
