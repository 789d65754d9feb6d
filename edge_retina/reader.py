"""The thread that reads a camera: one for as long as the camera is watched, one connection after another."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator

from edge_retina.types import Frame

__all__ = ["Connection", "Reader"]


class Connection:
    """One connection to a live source: read until it stops, then it remembers why.

    stop: has it end soon. frames: how many so far. error: what it ended by, None at a regular end. done: it has ended
    and holds nothing any more.
    """

    def __init__(
        self,
        begin: Callable[[threading.Event], Generator[Frame, None, None]],
        put: Callable[[Connection, Frame], None],
        finished: Callable[[], None],
    ) -> None:
        """To be read by one thread. begin: opens the source; put: gets its frames; finished: called at the end."""
        self._begin, self._put, self._finished = begin, put, finished
        self._started_ns = self._last_ns = time.monotonic_ns()
        self._done = threading.Event()
        self.stop = threading.Event()
        self.frames = 0
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """True once it has ended."""
        return self._done.is_set()

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

    def read(self) -> None:
        """Read all of it; raises nothing."""
        try:
            with contextlib.closing(self._begin(self.stop)) as frames:
                for frame in frames:
                    self._put(self, frame)
                    if self.stop.is_set():
                        break
        except BaseException as exc:  # for the one who watches to judge
            self.error = exc
        self._done.set()
        self._finished()

    def wait(self, seconds: float) -> bool:
        """Wait until it is done; False where time is up before."""
        return self._done.wait(seconds)


class Reader(threading.Thread):
    """Reads the connections that it is given, in order, until it is closed.

    One thread for all, because glibc gives each new thread another heap: with a thread for each connection a process
    that reconnects for months grows, though nothing is held.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=f"edge-retina-reader {name}", daemon=True)
        self._given: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()

    def read(self, connection: Connection) -> None:
        """Read this one when those before it have ended; does not wait."""
        self._given.put(connection)

    def close(self) -> None:
        """No more will come: end after those that were given; does not wait."""
        self._given.put(None)

    def run(self) -> None:
        """The thread."""
        while (connection := self._given.get()) is not None:
            connection.read()
            del connection  # its frames and its error are not to lie here until the next one comes
