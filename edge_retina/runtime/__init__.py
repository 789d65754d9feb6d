"""Running a bundle: one Protocol, one file per runtime, one door."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_retina.bundle import Bundle
from edge_retina.errors import UsageError

__all__ = ["TARGETS", "Outputs", "Runtime", "open_runtime"]

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
    """A loaded bundle that runs batches; not shared between threads."""

    name: str

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


def open_runtime(bundle: Bundle, target: str = "auto", *, threads: int | None = None) -> Runtime:
    """Load a bundle into a runtime.

    target: one of TARGETS; "auto" is ONNX Runtime, the only one yet. threads: CPU threads, None for all cores.
    Raises UsageError, RuntimeFailure, BundleError.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}; use one of {', '.join(TARGETS)}")
    from edge_retina.runtime.ort import OrtRuntime

    return OrtRuntime(bundle.model(), threads=threads)
