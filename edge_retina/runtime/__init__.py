"""Running a bundle: one Protocol, one file per runtime, one door."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_retina.bundle import Bundle
from edge_retina.errors import UsageError

__all__ = ["TARGETS", "Gpu", "Outputs", "Runtime", "cores", "open_runtime"]

TARGETS = ("auto", "tensorrt", "tensorrt_rtx", "ort")


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
    """A loaded bundle that runs batches.

    parallel: how many threads may call run at once. batch_most: most frames in one run; None: any number.
    """

    name: str
    parallel: int
    batch_most: int | None

    def run(self, frames: Any) -> Outputs:
        """Run frames uint8 (B, H, W, 3), BGR: a NumPy array or, on a GPU, one in its memory.

        Raises RuntimeFailure, UsageError.
        """
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


@dataclass(frozen=True)
class Gpu:
    """How a plan is chosen and run where there is a GPU; the defaults suit most.

    batch: most frames in one run. largest: (H, W) of the largest frame; None: 2160x3840. plan: a file to run in place
    of a cached plan. trusted: the public key that must have signed it, and the bundle. allow_host_code: run a plan
    that holds code for the CPU, as version-compatible ones do. plugin: False decodes in TensorRT's own layers.
    on_stage, on_step, on_note: told how far a plan's compilation is, which target was taken, and why.
    """

    batch: int = 1
    largest: tuple[int, int] | None = None
    plan: Path | None = None
    trusted: Path | None = None
    allow_host_code: bool = False
    plugin: bool = True
    on_stage: Callable[[str], None] = field(default=lambda _: None, repr=False)
    on_step: Callable[[int, int], None] = field(default=lambda *_: None, repr=False)
    on_note: Callable[[str], None] = field(default=lambda _: None, repr=False)


def open_runtime(
    bundle: Bundle, target: str = "auto", *, threads: int | None = None, parallel: int = 1, gpu: Gpu | None = None
) -> Runtime:
    """Load a bundle into a runtime.

    target: one of TARGETS; "auto" is the first of tensorrt, tensorrt_rtx and ort that works here. The first two run
    the cached plan of this bundle and this GPU, and compile it, once, where there is none. threads: CPU threads, None
    for all cores. parallel: frames worked on at once; 1 gives a frame's result soonest, more give more frames a second
    (on the CPU the threads are shared out among them; on a GPU one frame is copied while another is computed).
    Raises UsageError, RuntimeFailure, BundleError; MissingPackage for a target that is not installed.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}; use one of {', '.join(TARGETS)}")
    if parallel < 1 or (threads is not None and threads < 1):
        raise UsageError(f"threads and parallel want 1 or more, found {threads} and {parallel}")
    from edge_retina.runtime.choose import choose

    return choose(bundle, target, threads=threads, parallel=parallel, gpu=gpu or Gpu())
