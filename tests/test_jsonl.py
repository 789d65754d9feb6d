"""Lines of JSON: what is in them, and that a file holds whole ones only."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_sinks import file_size_limit

from edge_retina.errors import OutputError
from edge_retina.events import Event
from edge_retina.jsonl import JsonLines, Stdout, event_line, json_line
from edge_retina.types import Detections, Frame

EMPTY = Detections.empty((2, 4), ("cat",))


def frame(index: int = 0, **options: object) -> Frame:
    return Frame(np.zeros((2, 4, 3), np.uint8), index, **options)  # type: ignore[arg-type]


def test_a_frame_of_a_file_without_detections() -> None:
    line = json_line(frame(7, timestamp_ns=40, source="a.mp4"), EMPTY)
    assert line == ('{"source": "a.mp4", "frame": 7, "timestamp_ns": 40, "width": 4, "height": 2, "detections": []}\n')


def test_a_detection_by_hand() -> None:
    found = Detections(
        np.array([[0.126, 0, 3.333, 2]]), np.array([0.87654]), np.array([0]), ("kätzchen\n",), (2, 4), np.array([5])
    )
    line = json_line(frame(), found)
    assert line.count("\n") == 1
    (row,) = json.loads(line)["detections"]
    assert row == {"box": [0.13, 0.0, 3.33, 2.0], "score": 0.8765, "label": 0, "name": "kätzchen\n", "id": 5}


def test_a_live_frame_has_an_age_and_the_time_of_its_capture() -> None:
    captured_ns = time.monotonic_ns() - 250_000_000
    row = json.loads(json_line(frame(timestamp_ns=captured_ns, live=True, camera="front", stale=True), EMPTY))
    assert (row["camera"], row["stale"]) == ("front", True)
    assert 250 <= row["age_ms"] < 60_000
    # Of the wall clock, as many milliseconds ago.
    assert (time.time_ns() - row["time_ns"]) / 1e6 == pytest.approx(row["age_ms"], abs=5000)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_json_is_refused(value: float) -> None:
    found = Detections(np.array([[0, 0, value, 2]]), np.array([0.5]), np.array([0]), ("cat",), (2, 4))
    with pytest.raises(ValueError, match="JSON"):
        json_line(frame(), found)


def test_an_event_is_told_from_a_frame_by_its_key() -> None:
    row = json.loads(event_line(Event("down", "front", 1, 2, "no frame", {"retry_s": 0.5})))
    assert row == {"event": "down", "camera": "front", "at_ns": 1, "time_ns": 2, "reason": "no frame", "retry_s": 0.5}
    assert "event" not in json.loads(json_line(frame(), EMPTY))


def test_without_a_line_there_is_no_file_and_what_stood_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("before\n")
    with JsonLines(path):
        assert path.read_text() == "before\n"
    assert [one.name for one in tmp_path.iterdir()] == ["out.jsonl"]
    assert path.read_text() == "before\n"


def test_a_line_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLines(path) as sink:
        for count in (1, 2, 3):
            sink.write(frame(count), EMPTY)
            assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == list(range(1, count + 1))
        sink.event(Event("live", "front"))
        assert len(path.read_text().splitlines()) == 4


def test_of_a_line_that_did_not_fit_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLines(path) as sink:
        sink.write(frame(1), EMPTY)
        length = path.stat().st_size
        with file_size_limit(length + 10), pytest.raises(OutputError, match="cannot write"):
            sink.write(frame(2), EMPTY)
        assert path.stat().st_size == length
        sink.write(frame(3), EMPTY)  # there is room again
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [1, 3]


def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    path, read = tmp_path / "pipe.jsonl", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    with JsonLines(path) as sink:
        sink.write(frame(1), EMPTY)
    reader.join(10)
    assert json.loads(read[0])["frame"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["pipe.jsonl"]


def test_standard_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="stdout is closed"):
        Stdout()
