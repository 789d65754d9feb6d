"""One connection to a live source: a thread that reads frames until it stops, and remembers why."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator

from edge_retina.types import Frame

__all__ = ["Reader"]


class Reader(threading.Thread):
    """Runs `begin`, which opens the source, and gives its frames to `put`; `finished` is called at the end.

    stop: has it end soon. frames: how many so far. error: what it ended by, None at a regular end. done: it has ended.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[threading.Event], Generator[Frame, None, None]],
        put: Callable[[Reader, Frame], None],
        finished: Callable[[], None],
    ) -> None:
        super().__init__(name=f"edge-retina-reader {name}", daemon=True)
        self._begin, self._put, self._finished = begin, put, finished
        self._started_ns = self._last_ns = time.monotonic_ns()
        self.stop = threading.Event()
        self.frames = 0
        self.error: BaseException | None = None
        self.done = False

    @property
    def silent_s(self) -> float:
        """Seconds since its last frame, or since it began."""
        return (time.monotonic_ns() - self._last_ns) / 1_000_000_000

    @property
    def lasted_s(self) -> float:
        """Seconds from its beginning to its last frame."""
        return (self._last_ns - self._started_ns) / 1_000_000_000

    def count(self) -> None:
        """One more frame has come."""
        self.frames += 1
        self._last_ns = time.monotonic_ns()

    def run(self) -> None:
        """The thread."""
        try:
            with contextlib.closing(self._begin(self.stop)) as frames:
                for frame in frames:
                    self._put(self, frame)
                    if self.stop.is_set():
                        break
        except BaseException as exc:  # for the one who watches to judge
            self.error = exc
        self.done = True
        self._finished()
