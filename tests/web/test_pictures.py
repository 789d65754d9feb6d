from __future__ import annotations

import asyncio

import cv2
import numpy as np
import pytest
from web.made import dog, frame, none

from edge_retina.errors import UsageError
from edge_retina.types import U8, Detections
from edge_retina.web import pictures
from edge_retina.web.board import Board, Shown
from edge_retina.web.metrics import Metrics
from edge_retina.web.pictures import Pictures, Pulse, encode


def decoded(jpeg: bytes) -> U8:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


def test_no_detections() -> None:
    image = decoded(encode(Shown(1, "a", frame(), none()), 1280, 80))
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - 100).max() <= 1


def test_boxes_are_drawn() -> None:
    image = decoded(encode(Shown(1, "a", frame(), dog()), 1280, 95))
    assert np.ptp(image[30, 1].astype(int)) > 60
    assert np.ptp(image[30, 50].astype(int)) < 10


def test_a_wide_frame_is_shown_smaller() -> None:
    shape = (480, 640)
    box = Detections(
        np.array([[320, 160, 480, 320]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), ("x",), shape
    )
    image = decoded(encode(Shown(1, "a", frame(shape=shape), box), 320, 95))
    assert image.shape == (240, 320, 3)
    coloured = np.ptp(image.astype(int), axis=2) > 60
    assert coloured[120, 158:163].any()
    assert coloured[120, 238:243].any()
    assert not coloured[:, 250:].any()


def test_the_frame_is_not_drawn_on() -> None:
    given = frame()
    encode(Shown(1, "a", given, dog()), 1280, 80)
    assert given.image.min() == given.image.max() == 100


def test_pulse_wakes_all() -> None:
    async def check() -> None:
        pulse = Pulse()
        pulse.beat()  # nobody waits: the next must wait for the next beat
        waiting = [asyncio.create_task(pulse.next()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        pulse.beat()
        await asyncio.wait_for(asyncio.gather(*waiting), 5)

    asyncio.run(check())


class Counted:
    """Pictures over a board, and how often each frame was encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fps: float = 1000.0) -> None:
        self.encoded: list[int] = []
        self.metrics = Metrics()
        self.board, self.changed = Board(self.metrics), Pulse()
        self.pictures = Pictures(self.board, self.metrics, self.changed, 1280, 80, fps)
        real = pictures.encode

        def counting(shown: Shown, width: int, quality: int) -> bytes:
            self.encoded.append(shown.sequence)
            return real(shown, width, quality)

        monkeypatch.setattr(pictures, "encode", counting)

    async def ready(self, camera: str, after: int) -> int:
        while (picture := self.pictures.newest(camera, after)) is None:
            await asyncio.wait_for(self.changed.next(), 5)
        return picture.shown.sequence


def test_only_what_somebody_asks_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        counted = Counted(monkeypatch)
        assert counted.pictures.newest("a", 0) is None
        for index in range(5):
            counted.board.write(frame(index, "a"), dog())
            counted.board.write(frame(index, "b"), dog())
        await asyncio.sleep(0.05)
        assert counted.encoded == []
        assert await asyncio.gather(*(counted.ready("a", 0) for _ in range(20))) == [9] * 20
        assert counted.encoded == [9]
        assert counted.pictures.newest("a", 9) is None
        counted.board.write(frame(6, "a"), none())
        assert await asyncio.gather(*(counted.ready("a", 9) for _ in range(20))) == [11] * 20
        assert counted.encoded == [9, 11]
        counted.pictures.close()

    asyncio.run(check())


def test_no_more_than_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        counted = Counted(monkeypatch, fps=5)
        loop = asyncio.get_running_loop()
        after, start = 0, loop.time()
        for index in range(60):
            counted.board.write(frame(index, "a"), none())
            if counted.pictures.newest("a", after) is not None:
                after = counted.board.sequence
            await asyncio.sleep(0.01)
        seconds = loop.time() - start
        assert 2 <= len(counted.encoded) <= seconds * 5 / 0.9 + 1
        counted.pictures.close()

    asyncio.run(check())


def test_a_frame_that_cannot_be_drawn_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        counted = Counted(monkeypatch)
        counted.board.write(frame(0, "a"), dog((4, 4)))  # of a frame of another size
        assert await counted.ready("a", 0) == 1
        picture = counted.pictures.newest("a", 0)
        assert picture is not None
        assert picture.jpeg == b""
        counted.board.write(frame(1, "a"), dog())
        assert await counted.ready("a", 1) == 2
        counted.pictures.close()

    asyncio.run(check())
    assert isinstance(caplog.records[0].exc_info[1], UsageError)  # type: ignore[index]
