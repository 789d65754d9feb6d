"""USB cameras before a stand-in for OpenCV's V4L2 capture, as the kernel here has none: what it returns when a camera
is busy, silent or unplugged is what OpenCV's cap_v4l.cpp returns: never an exception, only False."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina.capture import opencv, v4l2
from edge_retina.errors import InputError, UsageError
from edge_retina.live import Camera
from edge_retina.sources import open_source
from edge_retina.types import U8

Read = U8 | None  # None: it does not decode


class Device:
    """A camera. busy: it cannot be opened. reads: what it gives, in order; then no frame comes, as if unplugged."""

    def __init__(self, *reads: Read, busy: bool = False) -> None:
        self.reads, self.busy = list(reads), busy
        self.options: list[int] = []
        self.opened: list[tuple[str, int]] = []
        self.released = 0

    def __call__(self, place: str, backend: int, options: list[int]) -> Device:
        self.opened.append((place, backend))
        self.options = options
        return self

    def isOpened(self) -> bool:
        return not self.busy

    def grab(self) -> bool:
        return bool(self.reads)

    def retrieve(self) -> tuple[bool, Read]:
        image = self.reads.pop(0)
        return image is not None, image

    def get(self, _key: int) -> float:
        return -1.0  # V4L2 knows no CAP_PROP_FRAME_COUNT

    def getBackendName(self) -> str:
        return "V4L2"

    def release(self) -> None:
        self.released += 1


Plug = Callable[[Device], str]


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Put a device at a path; the path."""

    def at(device: Device) -> str:
        path = tmp_path / "video7"
        path.touch()
        monkeypatch.setattr(opencv.cv2, "VideoCapture", device)
        return str(path)

    return at


def picture(value: int, shape: tuple[int, int] = (4, 6)) -> U8:
    return np.full((*shape, 3), value, np.uint8)


def test_no_device() -> None:
    with pytest.raises(InputError, match=r"no camera at /dev/video63, found .*; plug it in"):
        next(open_source("63"))


def test_a_camera_that_gives_nothing(plug: Plug) -> None:
    device = Device()
    uri = "v4l2://" + plug(device)
    with pytest.raises(InputError, match="stopped after 0 frames; check the cable"):
        next(open_source(uri))
    assert device.released == 1


def test_one_that_is_in_use_or_is_no_capture_device(plug: Plug) -> None:
    device = Device(busy=True)
    path = plug(device)
    with pytest.raises(InputError, match=f"{path} gives no video: in use, or not a capture device; run: v4l2-ctl"):
        next(open_source("v4l2://" + path))
    assert device.released == 1


def test_one_that_this_user_may_not_use(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plug(Device(picture(0)))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=f"no permission for {path}; run: sudo usermod -aG video"):
        next(open_source("v4l2://" + path))


def test_one_that_is_unplugged(plug: Plug) -> None:
    device = Device(picture(1), picture(2))
    frames = open_source("v4l2://" + plug(device))
    assert [next(frames).image[0, 0, 0], next(frames).image[0, 0, 0]] == [1, 2]
    with pytest.raises(InputError, match="stopped after 2 frames"):
        next(frames)
    assert device.released == 1


def test_damaged_and_empty_pictures_are_left_out(plug: Plug) -> None:
    device = Device(picture(1), None, picture(2, (0, 0)), picture(3))
    frames = open_source("v4l2://" + plug(device))
    assert [(f.index, int(f.image[0, 0, 0])) for f in (next(frames), next(frames))] == [(0, 1), (1, 3)]
    frames.close()
    assert device.released == 1


def test_what_is_asked_of_the_driver(plug: Plug) -> None:
    device = Device(picture(1))
    path = plug(device)
    frames = open_source(f"v4l2://{path}?size=1280x720&fps=30&format=mjpg")
    frame = next(frames)
    frames.close()
    assert (frame.live, frame.source) == (True, f"v4l2://{path}?size=1280x720&fps=30&format=mjpg")
    assert device.opened == [(path, cv2.CAP_V4L2)]
    asked = list(zip(device.options[::2], device.options[1::2], strict=True))
    assert asked[:3] == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),  # first, the sizes depend on it
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
    ]
    assert (cv2.CAP_PROP_FPS, 30) in asked
    assert (cv2.CAP_PROP_BUFFERSIZE, 1) in asked
    assert (cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000) in asked


def test_a_jetsons_jpeg_decoder_wants_gstreamer(plug: Plug) -> None:
    uri = "v4l2://" + plug(Device())
    with pytest.raises(UsageError, match="decodes JPEGs"):
        v4l2.parse_usb("0?decoder=gstreamer&format=yuyv")
    assert v4l2.parse_usb("0?decoder=gstreamer").decoder == "gstreamer"
    with pytest.raises(InputError, match="decoder=gstreamer needs"):
        next(open_source(f"{uri}?decoder=gstreamer"))


def test_a_camera_that_changes_its_size_goes_on(plug: Plug) -> None:
    device = Device(picture(1), picture(2, (8, 12)))
    events = []
    with Camera("v4l2://" + plug(device), on_event=events.append) as camera:
        frames = [camera.next(5)]
        while (frame := camera.take()) is not None or not any(event.kind == "down" for event in events):
            frames.append(frame)
    assert camera.counts.captured == 2
    assert [event.data["width"] for event in events if event.kind == "size"] == [12]
    down = next(event for event in events if event.kind == "down")
    assert "check the cable" in down.reason
