"""Capture and sinks: real sources, files and a live pattern, through a real detector."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import tiny_model, write_pictures

from edge_retina import Detector, build
from edge_retina.bench.ends import read_frames, time_ends
from edge_retina.errors import InputError, OutputError


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    tiny_model(tmp_path / "m.onnx")
    return Detector.load(build(tmp_path / "m.onnx").path, target="ort", threads=1)


def test_no_frames(tmp_path: Path) -> None:
    assert read_frames("test://?frames=3", most=0, held=2).frames == ()
    with pytest.raises(InputError):
        read_frames(str(tmp_path), most=3, held=2)


def test_frames_of_a_file_are_timed_and_the_first_are_held(tmp_path: Path, detector: Detector) -> None:
    folder = write_pictures(tmp_path / "pictures", 4)
    read = read_frames(str(folder), most=10, held=2)
    assert [frame.index for frame in read.frames] == [0, 1]
    assert len(read.capture_ms) == 4
    ends = time_ends(detector, str(folder), (), read, frames=5)
    assert ends.capture_ms == read.capture_ms
    assert len(ends.sinks_ms) == 5
    assert ends.loop is None
    assert ends.to_json()["run"] is None


def test_a_live_source_goes_through_the_loop(tmp_path: Path, detector: Detector) -> None:
    source = "test://?size=64x48&fps=100&live=1"
    read = read_frames(source, most=2, held=2)
    out = tmp_path / "kept.jsonl"
    ends = time_ends(detector, source, [str(out)], read, frames=6)
    assert ends.loop is not None
    assert ends.loop.frames == 6
    assert len(ends.capture_ms) == len(ends.loop.age_ms) == 6
    assert all(wait <= age for wait, age in zip(ends.capture_ms, ends.loop.age_ms, strict=True))
    assert ends.to_json()["run"]["age"]["p50_ms"] > 0
    assert out.is_file()


def test_a_place_that_cannot_be_written(tmp_path: Path, detector: Detector) -> None:
    (tmp_path / "file").write_text("")
    read = read_frames("test://?size=64x48&frames=1", most=1, held=1)
    with pytest.raises(OutputError):
        time_ends(detector, "test://?size=64x48", [str(tmp_path / "file" / "out.jsonl")], read, frames=2)


def test_passwords_are_not_told(detector: Detector) -> None:
    read = read_frames("test://?size=64x48&frames=1", most=1, held=1)
    from edge_retina.bench.ends import Ends

    assert "secret" not in str(Ends("rtsp://me:***@cam/1", read.capture_ms, (), None).to_json())
