"""Streams to viewers, each at its own pace: who is slow sees less, and keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import quote

from edge_retina.web.board import Board, message
from edge_retina.web.metrics import Metrics
from edge_retina.web.pictures import Picture, Pictures, Pulse

__all__ = ["BOUNDARY", "Feeds"]

BOUNDARY = "edge-retina-frame"
_DELIMITER = f"--{BOUNDARY}\r\n".encode()
TICK_S = 1.0
HEARTBEAT_S = 5.0
# An empty piece waits until the one before has left, so that the next is chosen then and not before.
_TAKEN = b""
_RETRY = b"retry: 2000\n\n"
_HEARTBEAT = b": still here\n\n"


class Feeds:
    """What streams are made of. Of one event loop, which calls changed() when the board has and runs tick()."""

    def __init__(self, board: Board, metrics: Metrics, width: int, quality: int, fps: float) -> None:
        self._board, self._metrics = board, metrics
        self._changes, self._ticks = Pulse(), Pulse()
        self._pictures = Pictures(board, metrics, self._changes, width, quality, fps)
        self._status = self._history = b""
        self._history_of: object = None
        self._closed = False
        self.viewers = 0

    def changed(self) -> None:
        """There is something new on the board."""
        self._changes.beat()

    async def tick(self) -> None:
        """Once a second: the status for all who read it."""
        while not self._closed:
            if self.viewers:
                self._look()
            self._ticks.beat()
            self._changes.beat()  # for heartbeats
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._ticks.beat()
        self._changes.beat()
        self._pictures.close()

    async def stream(self, cameras: Sequence[str], *, one: bool) -> AsyncGenerator[bytes, None]:
        """JPEG parts of a multipart stream: of these cameras, or of all, also those to come; one: of one alone."""
        sent: dict[str, int] = {}
        yield _DELIMITER
        while not self._closed:
            names = cameras or self._board.cameras()
            # Who waited longest comes first.
            for camera in sorted(names[:1] if one else names, key=lambda name: sent.get(name, 0)):
                picture = self._pictures.newest(camera, sent.get(camera, 0))
                if picture is not None:
                    sent[camera] = picture.shown.sequence
                    if picture.jpeg:
                        yield _part(picture)
                        yield _TAKEN
                    break
            else:
                await self._changes.next()

    def results(self, cameras: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the newest result of each camera, then every result and event; of all, or of these.

        From now on, whenever the first piece is asked for.
        """
        sequence = self._board.sequence
        now = [shown for name in self._board.cameras() if (shown := self._board.newest(name)) is not None]
        now = [shown for shown in now if shown.sequence <= sequence and (not cameras or shown.camera in cameras)]
        return self._results(cameras, sequence, b"".join(shown.message for shown in now))

    async def _results(self, cameras: Sequence[str], sequence: int, now: bytes) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        yield _RETRY + now
        yield _TAKEN
        spoke = loop.time()
        while not self._closed:
            items = self._board.since(sequence)
            sequence = max([sequence, *(item.sequence for item in items)])
            text = b"".join(item.message for item in items if not cameras or item.camera in cameras)
            if text or loop.time() - spoke >= HEARTBEAT_S:
                spoke = loop.time()
                yield text or _HEARTBEAT
                yield _TAKEN
            elif not items:
                await self._changes.next()

    async def status(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: a summary each second, the history when it has grown."""
        self._look()
        known: object = None
        yield _RETRY
        while not self._closed:
            text = self._status
            if known != self._history_of:
                known = self._history_of
                text += self._history
            yield text
            yield _TAKEN
            await self._ticks.next()

    def summary(self) -> dict[str, Any]:
        """All cameras now, and how many look."""
        return self._board.summary() | {"viewers": self.viewers}

    def enter(self) -> None:
        """One more viewer."""
        self.viewers += 1
        self._metrics.viewers.set(self.viewers)

    def leave(self) -> None:
        """One viewer less."""
        self.viewers -= 1
        self._metrics.viewers.set(self.viewers)

    def _look(self) -> None:
        self._status = message("status", self.summary())
        version = self._board.version()
        if version != self._history_of:
            self._history_of = version
            self._history = message("history", self._board.history())


def _part(picture: Picture) -> bytes:
    shown = picture.shown
    head = (
        f"Content-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\n"
        f"X-Camera: {quote(shown.camera, safe='')}\r\nX-Frame: {shown.frame.index}\r\n\r\n"
    )
    # The next delimiter at once, for it is the sign that this picture is complete.
    return head.encode() + picture.jpeg + b"\r\n" + _DELIMITER
