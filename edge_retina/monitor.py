"""What a TensorRT builder says and how far it is: its log, its progress, and how Ctrl-C reaches it.

Its callbacks are called from C++, where no exception may pass: one that leaves a callback is printed and lost.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

__all__ = ["STEPS", "held_interrupts", "open_log", "open_monitor"]

STEPS = 1000
_LEVELS = {
    "INTERNAL_ERROR": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}
_logger = logging.getLogger("edge_retina.tensorrt")
_logger.addHandler(logging.NullHandler())
# TensorRT keeps the first logger it is given, for what has no better one: none of them may be freed.
_logs: list[Any] = []
# Where TensorRT-RTX's builder, at verbose, prints its engine as IEngineInspector would; that one needs a GPU.
_ENGINE_STARTS, _ENGINE_ENDS = "Layers:\n", "\n\nI/O Tensors:"


def open_log(trt: ModuleType) -> Any:
    """An ILogger of that module that tells all to Python's logging as "edge_retina.tensorrt".

    errors: list of what came as an error. engine: text of the engine last built, where the builder prints one.
    """

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.engine = ""

        def log(self, severity: Any, msg: str) -> None:
            level = _LEVELS[severity.name]
            if level >= logging.ERROR:
                self.errors.append(msg.strip())
            elif msg.startswith(_ENGINE_STARTS):
                self.engine = msg.removeprefix(_ENGINE_STARTS).split(_ENGINE_ENDS)[0]
            _logger.log(level, "%s", msg)

    _logs.append(log := Log())
    return log


@dataclass
class _Phase:
    """A phase under way. parent: name of the phase it is a step of. total, done: steps."""

    parent: str | None
    total: int
    done: int = 0


def open_monitor(trt: ModuleType, on_step: Callable[[int, int], None], stop: threading.Event) -> Any:
    """An IProgressMonitor of that module: on_step(done, STEPS) whenever done grows; cancels once `stop` is set.

    failure: what on_step raised, which cancels as well; None. finish: tells that all is done.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._phases: dict[str, _Phase] = {}
            self._told = 0
            # TensorRT may call from several threads.
            self._lock = threading.RLock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = _Phase(parent_phase, max(num_steps, 1))

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._phases:
                    self._phases[phase_name].done = step + 1
                    self._tell(int(STEPS * self._fraction(phase_name)))
                return self.failure is None and not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def finish(self) -> None:
            self._tell(STEPS)

        def _fraction(self, name: str) -> float:
            """How much of the whole is done: a phase inside another is one step of that."""
            phase = self._phases[name]
            fraction = min(phase.done / phase.total, 1.0)
            while phase.parent in self._phases:
                phase = self._phases[phase.parent]
                fraction = min((phase.done + fraction) / phase.total, 1.0)
            return fraction

        def _tell(self, done: int) -> None:
            if done <= self._told or self.failure is not None:
                return
            self._told = done
            try:
                on_step(done, STEPS)
            except BaseException as failure:
                self.failure = failure

    return Monitor()


@contextmanager
def held_interrupts() -> Iterator[threading.Event]:
    """Ctrl-C sets the event in place of raising KeyboardInterrupt; a second one ends the process at once.

    Only in the main thread, and only where nobody else handles Ctrl-C; elsewhere the event stays clear.
    """
    asked = threading.Event()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield asked
        return

    def hold(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, hold)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
