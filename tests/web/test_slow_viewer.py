"""A run goes on at its pace whoever looks, also where nobody takes what was asked for."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import Any

import numpy as np

from edge_retina.newest import Limits
from edge_retina.stream import run
from edge_retina.types import Detections

FRAMES, CALL_S = 40, 0.04


class Steady:
    """Takes as long for each picture, and lets the processor rest meanwhile: the load of the machine hardly counts."""

    bundle = SimpleNamespace(manifest=SimpleNamespace(frame_size=None))
    runtime = SimpleNamespace(parallel=1, name="ort")

    def __init__(self) -> None:
        self.calls_ns: list[int] = []

    def __call__(self, image: Any) -> Detections:
        self.calls_ns.append(time.monotonic_ns())
        time.sleep(CALL_S)
        box = np.array([[10.0, 10, 200, 200]], np.float32)
        return Detections(box, np.array([0.9]), np.array([0]), ("cat",), image.shape[:2])


def seconds(port: int, viewers: int) -> float:
    """How long so many frames take while so many ask for pictures and read none."""
    detector: Any = Steady()
    with ExitStack() as stack:

        def look(*_: object) -> None:
            if detector.calls_ns[1:]:
                return  # once, when the server is there
            for _ in range(viewers):
                viewer = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), 10)))
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                viewer.sendall(b"GET /pictures HTTP/1.1\r\nHost: localhost\r\n\r\n")

        source = "test://?size=640x480&fps=60&frames=0&live=1"
        outs = [f"http://127.0.0.1:{port}"]
        run(detector, source, outs, max_frames=FRAMES, limits=Limits(), on_frame=look)
    return (detector.calls_ns[-1] - detector.calls_ns[1]) / 1e9


def test_viewers_who_read_nothing_do_not_slow_detection() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = int(free.getsockname()[1])
    times: list[tuple[float, float]] = []
    while len(times) < 5:  # a loaded machine gets another chance
        times.append((seconds(port, 6), seconds(port, 0)))
        looked_at, alone = map(min, zip(*times, strict=True))
        if looked_at < 1.2 * alone:
            break
    assert looked_at < 1.2 * alone
