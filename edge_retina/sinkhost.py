"""Sinks in threads of their own, so that a slow or broken one holds up nothing that is live."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from edge_retina.errors import EdgeRetinaError, OutputError
from edge_retina.events import Event
from edge_retina.sink import Sink, StopStream
from edge_retina.sources import redact
from edge_retina.types import Detections, Frame

__all__ = ["SinkHost"]

# Results that wait for a sink: of a live run those that may be lost, of files how far it may lag behind.
_WAITING = {True: 8, False: 4}
# Events that wait for a sink which hangs; further ones are lost to it. A scene with many tracks has hundreds a second.
_EVENTS_WAITING = 2000
_TELL_EVERY_S = 10.0
# After a signal everything is to be closed within two seconds.
_HURRY_S = 0.7
_CLOSE_S = 0.4
# What a sink gets that is about to finish its file, as long as it may take on a busy machine; one that hangs does not.
_FINISH_S = 10.0

Item = tuple[Frame, Detections] | Event


class SinkHost:
    """The sinks of a run. live: never wait for one; a result it has no room for is lost to it, and counted.

    A sink that fails is closed and reported as an event. Of files the run then ends with its error; a live run goes on
    while another sink works. on_event: told of it, by the sinks' threads.
    """

    def __init__(
        self, sinks: Sequence[tuple[str | os.PathLike[str], Sink]], *, live: bool, on_event: Callable[[Event], None]
    ) -> None:
        self._on_event, self._live = on_event, live
        self._seats = [
            (_Inline if sink.main_thread else _Seat)(sink, redact(out), live, self._tell) for out, sink in sinks
        ]
        for seat in self._seats:
            seat.start()

    @property
    def lost(self) -> dict[str, int]:
        """Results that a sink was too slow for, by its name; only those that lost any."""
        return {seat.label: seat.lost for seat in self._seats if seat.lost}

    @property
    def failures(self) -> list[EdgeRetinaError]:
        """What ended a sink, in their order."""
        return [seat.error for seat in self._seats if seat.error is not None]

    def write(self, frame: Frame, detections: Detections) -> None:
        """Hand a result to every sink that works. Raises StopStream; a failure as the class says."""
        for seat in self._seats:
            seat.put((frame, detections))
        self._check()

    def event(self, event: Event) -> None:
        """Hand an event to every sink that works; any thread may do so."""
        for seat in self._seats:
            seat.put(event)

    def close(self, *, hurry: bool = False) -> None:
        """Let the sinks finish what waits, and close them. hurry: within about a second. Raises the first failure.

        A live run whose other sinks worked has told of a failure already, and does not raise it.
        """
        end = time.monotonic() + _HURRY_S if hurry or self._live else None
        for seat in self._seats:
            seat.finish(end)
        for seat in self._seats:
            seat.join(end)
        failures = self.failures
        if failures and (not self._live or len(failures) == len(self._seats)):
            raise failures[0]

    def _check(self) -> None:
        if any(seat.stopped for seat in self._seats):
            raise StopStream
        failures = self.failures
        if failures and (not self._live or len(failures) == len(self._seats)):
            raise failures[0]

    def _tell(self, event: Event) -> None:
        for seat in self._seats:
            seat.put(event)
        self._on_event(event)


class _Seat:
    """One sink, its thread and what waits for it."""

    def __init__(self, sink: Sink, label: str, live: bool, tell: Callable[[Event], None]) -> None:
        self._sink, self.label, self._live, self._tell = sink, label, live, tell
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._room = _WAITING[live]
        self._finishing = self._closing = False
        self._end: float | None = None
        self._told_s = float("-inf")
        self.lost = 0
        self.error: EdgeRetinaError | None = None
        self.stopped = False
        self._thread = threading.Thread(target=self._run, name=f"edge-retina-sink {label}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> None:
        tell = False
        with self._changed:
            while not self._live and isinstance(item, tuple) and self._frames() >= self._room and self._works:
                self._changed.wait()
            if not self._works:
                return
            if isinstance(item, Event) and len(self._waiting) >= _EVENTS_WAITING:
                return
            if isinstance(item, tuple) and self._frames() >= self._room:
                self._waiting.remove(next(other for other in self._waiting if isinstance(other, tuple)))
                self.lost += 1
                tell = time.monotonic() - self._told_s > _TELL_EVERY_S
                if tell:
                    self._told_s = time.monotonic()
            self._waiting.append(item)
            self._changed.notify_all()
        if tell:
            with contextlib.suppress(Exception):
                self._tell(Event("sink", reason="too slow", data={"sink": self.label, "lost": self.lost}))

    @property
    def _works(self) -> bool:
        return not (self.error or self.stopped or self._finishing)

    def _frames(self) -> int:
        return sum(isinstance(item, tuple) for item in self._waiting)

    def finish(self, end: float | None) -> None:
        """No more will come. end: on the monotonic clock, what still waits then is lost; None: all is written."""
        with self._changed:
            self._finishing, self._end = True, end
            self._changed.notify_all()

    def join(self, end: float | None) -> None:
        """Wait until it is closed; one that does not let go is left behind."""
        self._thread.join(None if end is None else max(0.0, end - time.monotonic()) + _CLOSE_S)
        if self._closing:
            self._thread.join(_FINISH_S)
        if self._thread.is_alive():
            with self._changed:
                self.error = OutputError(f"{self.label}: does not end; what it still held may be lost")

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                hand_over(self._sink, item)
        except StopStream:
            self._leave(stopped=True)
        except Exception as exc:  # whatever it is, the run goes on
            self._failed(exc)
        self._closing = True
        try:
            self._sink.close()
        except Exception as exc:
            if self.error is None:
                self._failed(exc)

    def _next(self) -> Item | None:
        with self._changed:
            while not self._waiting and not self._finishing:
                self._changed.wait()
            if not self._waiting:
                return None
            if self._end is not None and time.monotonic() > self._end:
                self.lost += self._frames()
                return None
            item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def _failed(self, exc: Exception) -> None:
        error = exc if isinstance(exc, EdgeRetinaError) else OutputError(f"{self.label}: {type(exc).__name__}: {exc}")
        self._leave(error=error)
        with contextlib.suppress(Exception):  # stderr may be gone; the sink is to be closed all the same
            self._tell(Event("sink", reason=redact(str(error)), data={"sink": self.label}))

    def _leave(self, *, error: EdgeRetinaError | None = None, stopped: bool = False) -> None:
        with self._changed:
            self.error, self.stopped = error, stopped
            self._waiting.clear()
            self._changed.notify_all()


class _Inline(_Seat):
    """A sink that works in the thread of the run only, as windows do: what waits is handed over with the next frame."""

    def start(self) -> None:
        """No thread."""

    def put(self, item: Item) -> None:
        with self._changed:
            if not self._works:
                return
            if isinstance(item, Event):
                if len(self._waiting) < _EVENTS_WAITING:
                    self._waiting.append(item)
                return
            self._waiting.append(item)
            items = list(self._waiting)
            self._waiting.clear()
        try:
            for each in items:
                hand_over(self._sink, each)
        except StopStream:
            self._leave(stopped=True)
        except Exception as exc:
            self._failed(exc)
            with contextlib.suppress(Exception):
                self._sink.close()

    def join(self, end: float | None) -> None:
        if self.error is None:
            try:
                self._sink.close()
            except Exception as exc:
                self._failed(exc)


def hand_over(sink: Sink, item: Item) -> None:
    """A result or an event, to the method that takes it."""
    if isinstance(item, Event):
        sink.event(item)
    else:
        sink.write(*item)
