from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from edge_retina import sinks, window
from edge_retina.errors import OutputError
from edge_retina.sinks import StopStream, open_sink
from edge_retina.types import Detections, Frame


def test_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(OutputError, match=r"(neither DISPLAY|headless).*out\.mp4"):
        open_sink("display://")


@pytest.mark.skipif(sys.platform != "linux", reason="X11")
def test_display_that_is_not_there_does_not_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":987")
    with pytest.raises(OutputError, match=r"(on display ':987'|headless).*out\.mp4"):
        open_sink("display://0")


class FakeScreen:
    """The window functions of OpenCV, with a user who acts at a given frame."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, key: int = -1, visible: float = 1.0, at: int = 1) -> None:
        self.calls: list[str] = []
        self.shown = 0
        for name in ("namedWindow", "resizeWindow", "destroyWindow"):
            monkeypatch.setattr(cv2, name, lambda *_, name=name: self.calls.append(name))
        monkeypatch.setattr(cv2, "imshow", self._show)
        monkeypatch.setattr(cv2, "waitKey", lambda _: key if self.shown == at else -1)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible if self.shown == at else 1.0)
        monkeypatch.setattr(sinks, "require_display", lambda: None)

    def _show(self, *_: object) -> None:
        self.shown += 1


def show_frames(count: int) -> None:
    with open_sink("display://0") as sink:
        for index in range(count):
            sink.write(Frame(np.zeros((48, 64, 3), np.uint8), index), Detections.empty((48, 64)))


@pytest.mark.parametrize(
    ("key", "visible"), [(ord("q"), 1.0), (ord("Q"), 1.0), (27, 1.0), (27 | 1 << 20, 1.0), (-1, 0.0), (-1, -1.0)]
)
def test_window_stops_the_stream(monkeypatch: pytest.MonkeyPatch, key: int, visible: float) -> None:
    screen = FakeScreen(monkeypatch, key=key, visible=visible, at=3)
    with pytest.raises(StopStream):
        show_frames(9)
    assert screen.shown == 3
    assert screen.calls == ["namedWindow", "resizeWindow", "destroyWindow"]


def test_window_without_frames_never_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch)
    with open_sink("display://"):
        pass
    assert screen.calls == []


def test_window_error_is_an_output_error(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeScreen(monkeypatch)

    def fail(*_: object) -> None:
        raise cv2.error("no GTK")

    monkeypatch.setattr(cv2, "imshow", fail)
    with pytest.raises(OutputError, match="no GTK"):
        show_frames(1)


def test_build_without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "\n  GUI:                           NONE\n")
    with pytest.raises(OutputError, match="opencv-python-headless"):
        window.require_display()
