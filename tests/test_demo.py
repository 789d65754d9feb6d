"""The demo on its own samples: what it writes is there, what it counts is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina.demo import Tally
from edge_retina.types import Detections

FRAMES = 30


def found(*rows: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.float32(boxes).reshape(-1, 4), np.float32(scores), np.int32(labels), ("a", "b"), (100, 100))


@pytest.mark.parametrize(
    ("detections", "truth", "names", "wanted"),
    [
        (found(), [], [], (0, 0, 0)),
        (found(), [[0, 0, 10, 10]], ["a"], (1, 0, 0)),
        (found(((0, 0, 10, 10), 0.9, 0)), [], [], (0, 0, 1)),
        (found(((0, 0, 10, 10), 0.9, 0)), [[0, 0, 10, 10]], ["a"], (1, 1, 0)),
        (found(((0, 0, 10, 10), 0.9, 1)), [[0, 0, 10, 10]], ["a"], (1, 0, 1)),  # wrong label
        (found(((0, 0, 10, 4.9), 0.9, 0)), [[0, 0, 10, 10]], ["a"], (1, 0, 1)),  # IoU 0.49
        (found(((0, 0, 10, 10), 0.9, 0), ((0, 0, 10, 9), 0.8, 0)), [[0, 0, 10, 10]], ["a"], (1, 1, 1)),  # twice
    ],
)
def test_tally(detections, truth, names, wanted):
    tally = Tally()
    tally.add(detections, truth, names)
    assert tuple(sum(c.values()) for c in (tally.there, tally.found, tally.false)) == wanted


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    words = [sys.executable, "-m", "edge_retina", "demo", "--out", str(folder), "--max-frames", str(FRAMES)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_demo_writes_video_lines_and_picture(demo):
    folder, done = demo
    for name in ("digits.edge", "pan.mp4", "pan.jsonl", "contact-sheet.png"):
        assert (folder / name).stat().st_size > 0
        assert name in done.stdout
    rows = [json.loads(line) for line in (folder / "pan.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    video = cv2.VideoCapture(str(folder / "pan.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    video.release()
    sheet = cv2.imread(str(folder / "contact-sheet.png"))
    assert sheet.std() > 20


def test_demo_finds_most_of_what_is_there(demo):
    """The last row of the table: all, in the video, found, missed, false."""
    cells = next(line for line in demo[1].stdout.splitlines() if line.strip("│ ").startswith("all")).split("│")
    there, hit, missed, false = (int(cell) for cell in cells[2:6])
    assert there == hit + missed
    assert hit >= 0.8 * there
    assert false <= 0.2 * there


def test_demo_without_samples_says_where_they_are(tmp_path):
    words = [sys.executable, "-m", "edge_retina", "demo", "--samples", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "digits.onnx" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_reader_who_goes_away_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "edge_retina", "demo", "--out", str(tmp_path), "--max-frames", "2"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
