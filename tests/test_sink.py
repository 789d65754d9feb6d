"""What all sinks share: closed in every case, and never over their own source."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_retina.errors import OutputError
from edge_retina.events import Event
from edge_retina.sink import Sink, StopStream, protect_source
from edge_retina.types import Detections, Frame


class Noted(Sink):
    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._failure = failure

    def write(self, frame: Frame, detections: Detections) -> None:
        self.calls.append("write")

    def close(self) -> None:
        self.calls.append("close")
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        self.calls.append("abort")


def test_without_a_frame_it_is_closed() -> None:
    with Noted() as sink:
        assert isinstance(sink, Noted)
    assert sink.calls == ["close"]


@pytest.mark.parametrize("error", [OutputError("no"), StopStream(), KeyboardInterrupt(), RuntimeError("bug")])
def test_what_was_written_is_kept_whatever_ends_it(error: BaseException) -> None:
    sink = Noted(OutputError("the disk is full"))
    with pytest.raises(type(error)) as caught, sink:  # the first error, not the one of close()
        raise error
    assert caught.value is error
    assert sink.calls == ["close"]


def test_an_error_of_close_is_heard_where_there_was_none() -> None:
    with pytest.raises(OutputError, match="the disk is full"), Noted(OutputError("the disk is full")):
        pass


def test_most_sinks_need_not_know_of_events() -> None:
    sink = Noted()
    sink.event(Event("live", "front"))
    assert sink.calls == []
    assert not sink.main_thread


def frame(path: Path | str) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), path=str(path))


def test_the_source_is_not_written_over(tmp_path: Path) -> None:
    source, other, link = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"
    source.write_bytes(b"1")
    other.write_bytes(b"2")
    os.link(source, link)
    for target in (source, link):  # by whatever name
        with pytest.raises(OutputError, match="is the source itself"):
            protect_source(frame(source), target)
    protect_source(frame(source), other)
    protect_source(frame(source), tmp_path / "new.mp4")
    protect_source(frame(""), source)  # a camera
    protect_source(frame(tmp_path / "gone.mp4"), source)
