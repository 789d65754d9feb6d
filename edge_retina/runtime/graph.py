"""CUDA graphs: work captured once, launched in one call from then on. pycuda has none; cuda.bindings is passed in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from edge_retina.errors import RuntimeFailure

__all__ = ["CudaError", "Graph", "capture", "checked"]

_log = logging.getLogger(__name__)


class CudaError(Exception):
    """A call of the CUDA runtime that did not succeed; pycuda raises errors of its own."""


class Graph:
    """Captured work."""

    def __init__(self, cudart: ModuleType, executable: Any) -> None:
        self._cudart, self._executable = cudart, executable
        self._launch = cudart.cudaGraphLaunch

    def launch(self, stream: int) -> None:
        """Run it on a stream, given by its handle. Raises CudaError."""
        status = self._launch(self._executable, stream)[0]
        if status:
            checked(self._cudart, "cudaGraphLaunch", (status,))

    def free(self) -> None:
        """Give the graph back; it must not be running. Of a lost GPU there is nothing to give back."""
        self._cudart.cudaGraphExecDestroy(self._executable)


def capture(
    cudart: ModuleType, stream: int, work: Callable[[], None], errors: tuple[type[Exception], ...]
) -> Graph | None:
    """A graph of what `work` puts on a stream, none of it run; None, with a warning, where that cannot be had.

    errors: what `work` raises, besides RuntimeFailure, when it does something that no graph can hold. Only this
    thread's calls are held to the rules of capture: others may allocate meanwhile.
    """
    expected: tuple[type[Exception], ...] = (CudaError, RuntimeFailure, *errors)
    graph = None
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    try:
        checked(cudart, "cudaStreamBeginCapture", cudart.cudaStreamBeginCapture(stream, mode))
        try:
            work()
        finally:
            ended = cudart.cudaStreamEndCapture(stream)
        graph = checked(cudart, "cudaStreamEndCapture", ended)
        return Graph(cudart, checked(cudart, "cudaGraphInstantiate", cudart.cudaGraphInstantiate(graph, 0)))
    except expected as exc:
        cudart.cudaGetLastError()  # or it would show up in somebody's next call
        _log.warning("no CUDA graph: %s; work goes to the GPU piece by piece, as exact and a little slower", exc)
        return None
    finally:
        if graph is not None:
            cudart.cudaGraphDestroy(graph)


def checked(cudart: ModuleType, name: str, answer: tuple[Any, ...]) -> Any:
    """The value of a call's answer, which starts with its status. Raises CudaError."""
    if answer[0]:
        raise CudaError(f"{name}: {cudart.cudaGetErrorString(answer[0])[1].decode()}")
    return answer[1] if len(answer) > 1 else None
