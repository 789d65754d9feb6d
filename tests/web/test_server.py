from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import cv2
import httpx
import numpy as np
import pytest

from edge_retina.sinks import open_sink
from edge_retina.types import Detections, Frame
from edge_retina.web.sink import WebSink

NAMES = ("cat", "dog")


def frame(index: int = 0, camera: str = "door", shape: tuple[int, int] = (48, 64)) -> Frame:
    import time

    return Frame(np.full((*shape, 3), 100, np.uint8), index, time.monotonic_ns(), live=True, camera=camera)


def dog(shape: tuple[int, int] = (48, 64)) -> Detections:
    box = np.array([[1, 2, 30, 40]], np.float32)
    return Detections(box, np.array([0.5], np.float32), np.array([1], np.int32), NAMES, shape)


@pytest.fixture
def sink() -> Iterator[WebSink]:
    with open_sink("http://127.0.0.1:0") as opened:
        assert isinstance(opened, WebSink)
        yield opened


def test_before_the_first_frame(sink: WebSink) -> None:
    answer = httpx.get(f"{sink.url}/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "no frames", "cameras": {}})
    assert "<title>edge-retina" in httpx.get(sink.url).text


def test_one_frame(sink: WebSink) -> None:
    sink.write(frame(), dog())
    assert httpx.get(f"{sink.url}/healthz").json() == {"status": "ok", "cameras": {"door": "live"}}


def test_picture_stream(sink: WebSink) -> None:
    sink.write(frame(7), dog())
    connection = http.client.HTTPConnection(sink.url.removeprefix("http://"), timeout=5)
    connection.request("GET", "/stream.mjpg")
    answer = connection.getresponse()
    assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=edge-retina-frame"
    assert answer.readline() == b"--edge-retina-frame\r\n"
    head = dict(line.decode().strip().split(": ") for line in iter(answer.readline, b"\r\n"))
    assert (head["X-Camera"], head["X-Frame"]) == ("door", "7")
    image = cv2.imdecode(np.frombuffer(answer.read(int(head["Content-Length"])), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (48, 64, 3)
    assert np.ptp(image[30, 1].astype(int)) > 60  # the coloured edge of the box on grey
    connection.close()


def test_detections(sink: WebSink) -> None:
    sink.write(frame(3), dog())
    with httpx.stream("GET", f"{sink.url}/detections") as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == ["retry: 2000", "", "event: detections"]
        row = json.loads(next(lines).removeprefix("data: "))
    assert (row["camera"], row["frame"], row["detections"][0]["name"]) == ("door", 3, "dog")
