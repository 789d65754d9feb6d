"""Frames, detections and requests for the tests of the page."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import numpy as np

from edge_retina.types import Detections, Frame

NAMES = ("cat", "dog")
TOKEN = "0123456789abcdef"


def frame(index: int = 0, camera: str = "door", shape: tuple[int, int] = (48, 64), *, live: bool = True) -> Frame:
    """A grey frame, captured now."""
    return Frame(np.full((*shape, 3), 100, np.uint8), index, time.monotonic_ns(), live=live, camera=camera)


def none(shape: tuple[int, int] = (48, 64)) -> Detections:
    return Detections.empty(shape, NAMES)


def dog(shape: tuple[int, int] = (48, 64)) -> Detections:
    box = np.array([[1.0, 2, 30, 40]], np.float32)
    return Detections(box, np.array([0.5], np.float32), np.array([1], np.int32), NAMES, shape)


def place(url: str) -> tuple[str, int]:
    """Host and port of an URL."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


class Viewer:
    """Someone who asked for a stream; what is left of it is not read. status, headers: of the answer."""

    def __init__(self, url: str, path: str, headers: dict[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection(*place(url), timeout=10)
        self._connection.request("GET", path, headers=headers or {})
        self.answer = self._connection.getresponse()
        self.status, self.headers = self.answer.status, self.answer.headers

    def part(self) -> tuple[dict[str, str], bytes]:
        """Headers and JPEG of the next part of a picture stream."""
        while (line := self.answer.readline()) == b"\r\n":
            pass
        assert line == b"--edge-retina-frame\r\n"
        head = dict(text.decode().strip().split(": ") for text in iter(self.answer.readline, b"\r\n"))
        return head, self.answer.read(int(head["Content-Length"]))

    def event(self, kind: str) -> dict[str, Any]:
        """Data of the next server-sent event of a kind."""
        while line := self.answer.readline():
            if line == f"event: {kind}\n".encode():
                return dict(json.loads(self.answer.readline().removeprefix(b"data: ")))
        raise AssertionError("the stream has ended")

    def rest(self) -> bytes:
        """All that comes until the server ends the stream."""
        return self.answer.read()

    def close(self) -> None:
        self.answer.close()
        self._connection.close()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
