"""A camera that stays: read by a thread, watched by another, connected again whenever it stops.

    with Camera("rtsp://user:pw@camera/1", "front", on_event=print) as camera:
        while (frame := camera.next()) is not None:
            ...

States, each an Event: connecting, live, stale (no frame for a while), down (another attempt follows after a wait that
grows). Only the newest frame is kept; none is handed out twice, and none is made up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Generator
from types import TracebackType

from edge_retina.backoff import Backoff
from edge_retina.capture import Patience
from edge_retina.errors import EdgeRetinaError, InputError, UsageError
from edge_retina.events import Event
from edge_retina.newest import Bell, CameraCounts, Limits, Newest
from edge_retina.reader import Connection, Reader
from edge_retina.sources import open_source, redact
from edge_retina.types import Frame

__all__ = ["Bell", "Camera", "CameraCounts", "Limits"]

# What stop() waits for the reader; one that a driver holds longer ends by itself when its wait for a frame is over.
STOP_S = 0.4
_LOOK_S = 0.1

Opener = Callable[..., Generator[Frame, None, None]]


class Camera:
    """A live source under supervision. All methods may be called from any thread.

    name: what its frames and events bear [its URI, passwords removed]. limits: which frames take() gives.
    on_event: told each change, by threads of this camera. bell: shared by several feeds.
    """

    live = True

    def __init__(
        self,
        uri: str | int | os.PathLike[str],
        name: str = "",
        *,
        on_event: Callable[[Event], None] = lambda _: None,
        bell: Bell | None = None,
        patience: Patience | None = None,
        backoff: Backoff | None = None,
        limits: Limits | None = None,
        opener: Opener = open_source,
    ) -> None:
        self._uri, self.label = uri, redact(uri)
        self.name = name or self.label
        self._on_event, self._bell = on_event, bell or Bell()
        self._patience, self._backoff = patience or Patience(), backoff or Backoff()
        limits = dataclasses.replace(limits or Limits(), stale_s=self._patience.stale_s)
        self._newest = Newest(self.name, self._bell, limits)
        self._open = opener
        self._changed = threading.Condition(self._bell.lock)
        self._stopping = threading.Event()
        self._connection: Connection | None = None
        self._reconnects = self._outages = 0
        self._first_failure: EdgeRetinaError | None = None
        self.state, self.ended = "connecting", False
        self.error: EdgeRetinaError | None = None
        self._thread = threading.Thread(target=self._supervise, name=f"edge-retina-camera {self.name}", daemon=True)

    def __repr__(self) -> str:
        return f"Camera({self.label!r}, {self.name!r}, state={self.state!r})"

    @property
    def counts(self) -> CameraCounts:
        """The counts of this moment."""
        with self._bell.lock:
            n = self._newest
            return CameraCounts(n.captured, n.processed, n.dropped, int(n.waits), self._reconnects, self._outages)

    @property
    def exhausted(self) -> bool:
        """True when no frame will come any more."""
        return self.ended and not self._newest.waits

    @property
    def hopeless(self) -> EdgeRetinaError | None:
        """Why there never was a frame, where nothing came of the first attempt or further ones make no sense."""
        return self.error or (self._first_failure if self._newest.captured == 0 else None)

    def start(self) -> None:
        """Connect, in the background."""
        self._thread.start()

    def take(self, now_ns: int | None = None) -> Frame | None:
        """The newest frame that nobody took yet; None where there is none, or none is due. Never waits."""
        return self._newest.take(now_ns)

    def due_s(self, now_ns: int) -> float | None:
        """Seconds until the frame that waits may be taken; None where none waits."""
        return self._newest.due_s(now_ns)

    def next(self, timeout_s: float | None = None) -> Frame | None:
        """Wait for take() to give a frame; None when the source has ended, this was stopped, or time is up.

        Raises the error of a source that cannot work, and of one whose first attempt failed.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        with self._bell.rung:
            while not self._stopping.is_set():
                if (frame := self.take()) is not None:
                    return frame
                if self.hopeless is not None:
                    raise self.hopeless
                if self.exhausted or (end is not None and time.monotonic() >= end):
                    return None
                due_s = self.due_s(time.monotonic_ns())
                self._bell.rung.wait(_LOOK_S if due_s is None else min(_LOOK_S, due_s))
        if self.error is not None:
            raise self.error
        return None

    def halt(self) -> None:
        """Tell it to end, and do not wait."""
        with self._bell.lock:
            self._stopping.set()
            self._changed.notify_all()
            self._bell.rung.notify_all()
            connection = self._connection
        if connection is not None:
            connection.stop.set()

    def stop(self) -> None:
        """End reading within about a second; the frame that waits counts as dropped. Twice does no harm."""
        self.halt()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(2 * STOP_S)
        self._newest.drop()

    def __enter__(self) -> Camera:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # The supervisor's thread.

    def _supervise(self) -> None:
        reader = Reader(self.name)
        reader.start()
        try:
            self._keep_connected(reader)
        finally:
            reader.close()
            reader.join(STOP_S)
        if not self._stopping.is_set():
            self._enter("down", "the source has ended", ended=True)
        with self._bell.lock:
            self.ended = True
            self._bell.rung.notify_all()

    def _keep_connected(self, reader: Reader) -> None:
        """One connection after another, until the source has ended, cannot work, or stop() is called."""
        attempt = 0
        while not self._stopping.is_set():
            attempt += 1
            self._enter("connecting", attempt=attempt)
            connection = Connection(self._begin, self._put, self._finished)
            with self._bell.lock:
                self._connection = connection
            reader.read(connection)
            reason = self._watch(connection)
            with self._bell.lock:
                self._connection = None  # from here on nothing of it is taken
            connection.stop.set()
            if self._stopping.is_set() or reason is None:
                break
            self._failed(connection, reason)
            self._await_end(connection)

    def _failed(self, connection: Connection, reason: str) -> None:
        """Note a failed attempt or an outage, and wait until the next attempt."""
        error = (
            connection.error if isinstance(connection.error, EdgeRetinaError) else InputError(f"{self.label}: {reason}")
        )
        with self._bell.lock:
            was_live = connection.frames > 0
            self._outages += was_live
            if isinstance(error, UsageError) or not isinstance(error, InputError):
                self.error = error  # no attempt will mend that
                self._stopping.set()
            elif self._first_failure is None and self._newest.captured == 0:
                self._first_failure = error
            self._bell.rung.notify_all()
        wait_s = self._backoff.next_s(lasted_s=connection.lasted_s if was_live else 0.0)
        if self.error is not None:
            self._enter("down", reason, ended=True)
            return
        self._enter("down", reason, retry_s=round(wait_s, 3))
        self._stopping.wait(wait_s)

    def _await_end(self, connection: Connection) -> None:
        """No second connection beside one that a driver still holds; what it holds would be held twice."""
        told = False
        while not connection.done and not self._stopping.is_set():
            connection.wait(_LOOK_S)
            if (
                not connection.done
                and not told
                and connection.silent_s > 2 * max(self._patience.open_s, self._patience.silence_s)
            ):
                told = True
                self._enter("down", "its driver does not answer; it may need to be unplugged")

    def _watch(self, connection: Connection) -> str | None:
        """Look on until the connection has failed: the reason, None where its source has ended or stop() was called."""
        patience = self._patience
        while True:
            with self._changed:
                frames, silent_s = connection.frames, connection.silent_s
                if self._stopping.is_set():
                    return None
                if connection.done and (frames == 0 or self.state in ("live", "stale")):
                    return None if connection.error is None else self._reason(connection.error)
                state = "connecting" if frames == 0 else "live" if silent_s < patience.stale_s else "stale"
                limit_s = patience.open_s if frames == 0 else patience.silence_s
                if silent_s >= limit_s:
                    return f"no frame for {silent_s:.1f} s"
                if state == self.state:
                    bounds = (limit_s, patience.stale_s) if state == "live" else (limit_s,)
                    self._changed.wait(max(0.001, min(bounds) - silent_s))
                    continue
                if state == "live" and self.state == "connecting" and self._outages:
                    self._reconnects += 1
            self._enter(state)

    def _reason(self, error: BaseException) -> str:
        """What an error says, without passwords; also where it is not ours and holds the URI."""
        text = str(error).replace(str(self._uri), self.label)
        return redact(text if isinstance(error, EdgeRetinaError) else f"{type(error).__name__}: {text}")

    def _enter(self, state: str, reason: str = "", **data: object) -> None:
        with self._bell.lock:
            self.state = state
            if state == "live" and self._newest.shape is not None:
                data["height"], data["width"] = self._newest.shape
        self._tell(Event(state, self.name, reason=reason, data=data))

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(Exception):  # one who listens must not end the watch
            self._on_event(event)

    # The reader's thread.

    def _begin(self, stop: threading.Event) -> Generator[Frame, None, None]:
        return self._open(self._uri, stop=stop, patience=self._patience)

    def _put(self, connection: Connection, frame: Frame) -> None:
        """Take a frame from the connection, if it is still the one that counts."""
        with self._bell.lock:
            if self._connection is not connection or self._stopping.is_set():
                return
            event = self._newest.put(frame)
            first, was_silent = connection.frames == 0, self.state == "stale"
            connection.count()
            if first or was_silent:
                self._changed.notify_all()
            self._bell.rung.notify_all()
        if event is not None:
            self._tell(event)

    def _finished(self) -> None:
        """The connection has ended: the supervisor is to look why."""
        with self._bell.lock:
            self._changed.notify_all()
