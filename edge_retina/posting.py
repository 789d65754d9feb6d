"""Results sent to a server: `post+http://server:9000/detections`, `post+https://...`.

The lines of edge_retina.jsonl, as many as wait, in one POST of type application/x-ndjson; any answer 2xx means taken.
A user and password in the URI are sent as Basic authentication, never shown. Delivery is at least once: where an answer
got lost its lines come again, and frame, camera and timestamp tell which they are.

The standard library's http.client carries it: it does TLS and keep-alive, shows its socket, which is how a request that
hangs is ended within two seconds, logs no addresses, and is one dependency less on a robot than urllib3 or httpx.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from edge_retina.errors import OutputError, UsageError
from edge_retina.events import Event
from edge_retina.jsonl import event_line, json_line
from edge_retina.sink import Sink
from edge_retina.types import Detections, Frame

__all__ = ["PostCounts", "PostLines"]

# Half a minute of one camera; about a megabyte.
_MOST_WAITING = 1000
_MOST_AT_ONCE = 64
_TIMEOUT_S = 5.0
# A server that answers by a byte now and then never runs into the limit above.
_ANSWER_S = 15.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0
# How long write() waits for room when a file is read, which loses nothing while the server keeps taking.
_PATIENCE_S = 10.0
# At the end: for what still waits, and then for the thread.
_LAST_WORDS_S, _FAREWELL_S = 0.9, 0.3
_MOST_ANSWER_BYTES = 65_536
# Statuses that say "later", beside 5xx: Request Timeout, Too Early, Too Many Requests.
_LATER = (408, 425, 429)

Answer = Literal["taken", "later", "refused"]


@dataclass(frozen=True, slots=True)
class PostCounts:
    """Lines, each in one of four: posted, refused by the server, dropped for want of room or time, waiting."""

    posted: int = 0
    refused: int = 0
    dropped: int = 0
    waiting: int = 0
    failures: int = 0  # requests that came to nothing, not lines


def _ignore(_: Event) -> None:
    """Nobody wants to hear of it."""


class PostLines(Sink):
    """Posts each frame's line and each event's, from a thread of its own.

    uri: post+http://[user:password@]host[:port]/path[?query]. shown: the same without secrets, for messages.
    on_event: told, from that thread, when the server stops taking lines ("sink") and when it takes them again.
    write() returns at once: while the server is away the newest lines wait, older ones are dropped and counted, and the
    server is told how many in the first lines it takes. Frames of a file wait for room as long as the server takes any.
    Raises UsageError for a URI without a host.
    """

    def __init__(self, uri: str, shown: str, *, on_event: Callable[[Event], None] = _ignore) -> None:
        self._shown, self.on_event = shown, on_event
        self._connection, self._path, self._headers = _connection(uri, shown)
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._ending = self._cut = self._failing = False
        self._posted = self._refused = self._dropped = self._failures = self._untold = self._sending = 0
        self._reason = ""
        self._began_s = 0.0
        self._thread = threading.Thread(target=self._work, name="edge-retina-post", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> PostCounts:
        """What became of the lines so far."""
        with self._changed:
            waiting = len(self._lines) + self._sending
            return PostCounts(self._posted, self._refused, self._dropped, waiting, self._failures)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Let the frame's line wait to be sent."""
        self._wait_in_line(json_line(frame, detections), patient=not frame.live)

    def event(self, event: Event) -> None:
        """Let the event's line wait to be sent."""
        self._wait_in_line(event_line(event), patient=False)

    def close(self) -> None:
        """Send what waits, for a second, and end the thread. Raises OutputError where lines did not arrive."""
        with self._changed:
            already, self._ending = self._ending, True
            self._changed.notify_all()
        self._thread.join(_LAST_WORDS_S)
        self.abort()
        lost = self._dropped + self._refused
        if lost and not already:
            raise OutputError(f"{self._shown}: {lost} of {lost + self._posted} lines did not arrive: {self._reason}")

    def abort(self) -> None:
        """End the thread; what waits is dropped. Never raises."""
        with self._changed:
            self._ending = self._cut = True
            self._drop(len(self._lines), "the run ended first")
            self._changed.notify_all()
        # Looking up a name cannot be cut short; the thread then ends by itself a little later.
        deadline = time.monotonic() + _FAREWELL_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            _hang_up(self._connection)
            self._thread.join(0.05)
        with self._changed:
            if self._sending:
                self._dropped, self._sending = self._dropped + self._sending, 0

    def _wait_in_line(self, line: str, *, patient: bool) -> None:
        with self._changed:
            if patient:
                self._changed.wait_for(self._has_room_or_hope_is_gone, _PATIENCE_S)
            if self._ending:
                self._drop_one("the run has ended")
                return
            if self._sending and time.monotonic() - self._began_s > _ANSWER_S:
                self._began_s = time.monotonic()
                _hang_up(self._connection)
            if len(self._lines) >= _MOST_WAITING:
                self._drop(1, self._reason or "the server is slower than the camera")
            self._lines.append(line)
            self._changed.notify_all()

    def _has_room_or_hope_is_gone(self) -> bool:
        return len(self._lines) < _MOST_WAITING or self._failing or self._ending

    def _drop_one(self, reason: str) -> None:
        self._dropped += 1
        self._reason = self._reason or reason

    def _drop(self, count: int, reason: str) -> None:
        for _ in range(count):
            self._lines.popleft()
            self._untold += 1
            self._drop_one(reason)

    def _work(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while (batch := self._take()) is not None:
            while (answer := self._post(batch)) == "later" and not self._ending:
                self._tell_of_failure()
                with self._changed:
                    # Full jitter, so that a hundred robots do not all come back in the same moment.
                    self._changed.wait_for(lambda: self._ending, random.uniform(0.1, 1) * pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            pause_s = _FIRST_PAUSE_S
            self._settle(batch, answer)
        self._connection.close()

    def _take(self) -> list[str] | None:
        """The next lines to send, after an account of those dropped; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._ending)
            if self._cut or not self._lines:
                return None
            batch = [self._lines.popleft() for _ in range(min(len(self._lines), _MOST_AT_ONCE))]
            self._sending = len(batch)
            self._changed.notify_all()
            return batch

    def _settle(self, batch: list[str], answer: Answer) -> None:
        with self._changed:
            if self._sending == 0:  # abort() did not wait, and has counted them
                return
            self._sending = 0
            recovered = self._failing and answer == "taken"
            if answer == "taken":
                self._posted, self._failing = self._posted + len(batch), False
            elif answer == "refused":
                self._refused += len(batch)
            else:
                self._dropped += len(batch)
            dropped, self._untold = self._untold, 0 if answer == "taken" else self._untold
            if answer == "taken" and dropped:
                lost = Event("sink", reason=f"{dropped} lines dropped: {self._reason}", data={"dropped": dropped})
                self._lines.appendleft(event_line(lost))
        if answer == "refused":
            self._tell_of_failure()
        if recovered:
            self._tell(f"takes lines again, {dropped} dropped meanwhile")

    def _tell_of_failure(self) -> None:
        """Once per outage, not once per attempt."""
        with self._changed:
            told, self._failing = self._failing, True
            self._changed.notify_all()
        if not told:
            self._tell(self._reason)

    def _tell(self, reason: str) -> None:
        self.on_event(Event("sink", reason=reason, data={"sink": self._shown}))

    def _post(self, batch: list[str]) -> Answer:
        """One request. What the server or the network has against it goes into self._reason."""
        self._began_s = time.monotonic()
        try:
            self._connection.request("POST", self._path, "".join(batch).encode(), self._headers)
            if self._cut:
                return "later"
            with self._connection.getresponse() as response:
                response.read(_MOST_ANSWER_BYTES)
                whole = response.isclosed()
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            self._failures += 1
            self._reason = f"{type(exc).__name__}: {getattr(exc, 'strerror', None) or 'no answer'}"
            return "later"
        if not whole:  # an endless answer: the connection cannot be used again
            self._connection.close()
        if 200 <= response.status < 300:
            return "taken"
        self._failures += 1
        self._reason = f"the server answered {response.status}"
        return "later" if response.status >= 500 or response.status in _LATER else "refused"


def _connection(uri: str, shown: str) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """A connection that is not open yet, the path to post to, and the headers. Raises UsageError."""
    url = urlsplit(uri.removeprefix("post+"))
    try:
        host, port = url.hostname, url.port
        (host or "").encode("idna")  # as the socket will; what it does not take is no host
    except ValueError:
        host, port = None, None
    if not host or url.scheme not in ("http", "https"):
        raise UsageError(f"{shown}: wanted post+http://HOST[:PORT]/PATH or post+https://..., with a port below 65536")
    headers = {"Content-Type": "application/x-ndjson", "User-Agent": "edge-retina"}
    if url.username is not None:
        secret = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if not path.isascii() or any(character <= " " for character in path):
        raise UsageError(f"{shown}: a path wants ASCII without spaces; write others as %20 and the like")
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=_TIMEOUT_S), path, headers


def _hang_up(connection: http.client.HTTPConnection) -> None:
    """End whatever the connection's thread waits for."""
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
