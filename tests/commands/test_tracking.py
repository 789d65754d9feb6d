"""--track, --line and --zone, from the command line to the lines of JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge_retina.commands.run import run_command
from edge_retina.commands.runtime import Chosen
from edge_retina.errors import UsageError
from edge_retina.types import Detections


class Bright:
    """Finds one bright square, in place of a network."""

    bundle = SimpleNamespace(manifest=SimpleNamespace(frame_size=None))
    runtime = SimpleNamespace(parallel=1, name="ort")

    def __call__(self, image: Any) -> Detections:
        ys, xs = np.nonzero(image[:, :, 0] > 128)
        box = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(xs) else []
        xyxy = np.array(box, np.float32).reshape(-1, 4)
        return Detections(xyxy, np.full(len(box), 0.9), np.zeros(len(box)), ("ball",), image.shape[:2])


@pytest.fixture
def ride(tmp_path, monkeypatch):
    """A video of a ball that rolls from left to right, and a folder with a bundle that finds it."""

    @contextlib.contextmanager
    def opened(*_: object, **__: object) -> Iterator[Bright]:
        yield Bright()

    monkeypatch.setattr(Chosen, "open", opened)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.edge").write_bytes(b"")
    writer = cv2.VideoWriter("ride.avi", cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 120))
    for i in range(40):
        image = np.zeros((120, 320, 3), np.uint8)
        image[40:80, 7 * i : 7 * i + 40] = 255
        writer.write(image)
    writer.release()
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(run_command, ["model.edge", "--source", "ride.avi", *words], catch_exceptions=False)


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_track_nothing_changes(ride):
    result = run("--out", "out.jsonl")
    assert "tracks:" not in result.stderr
    found = rows(ride / "out.jsonl")
    assert len(found) == 40
    assert not any("event" in row or "id" in row["detections"][0] for row in found)


def test_numbers_counts_and_dwell(ride):
    result = run("--track", "--out", "out.jsonl")
    assert "tracks: 1 ball" in result.stderr
    found = rows(ride / "out.jsonl")
    frames = [row for row in found if "event" not in row]
    assert [row["frame"] for row in frames] == list(range(40))
    assert [row["detections"][0].get("id") for row in frames] == [None, *[1] * 39]
    new, gone = (row for row in found if row.get("event") == "track")
    assert (new["state"], new["frame"], new["now"]) == ("new", 1, 1)
    # Seen with its number in frames 1 to 39, of 40 ms each.
    assert (gone["state"], gone["frames"], gone["seconds"], gone["now"]) == ("gone", 39, 1.52, 0)
    assert found[-1] == gone


def test_a_line_and_a_zone(ride):
    words = ("--line", "gate=50%,100%,50%,0", "--zone", "yard=100,0,200,0,200,120,100,120", "--out", "out.jsonl")
    result = run(*words)
    assert "gate: 1 in, 0 out" in result.stderr
    told = [row for row in rows(ride / "out.jsonl") if row.get("event") in ("line", "zone")]
    assert [(row["event"], row.get("direction", row.get("state"))) for row in told] == [
        ("zone", "enter"),
        ("line", "in"),
        ("zone", "leave"),
    ]
    # The foot is at 7 i + 20, the margin 3.4 pixels: in from i = 12 (104), over 163.4 at 21 (167), out at 27 (209).
    assert [row["frame"] for row in told] == [12, 21, 27]


def test_snapshots_of_what_happens(ride):
    run("--zone", "yard=100,0,200,0,200,120,100,120", "--out", "shots/?on=zone", "--out", "out.jsonl?rotate=1MB")
    assert [path.name.split("_", 1)[1] for path in sorted((ride / "shots").iterdir())] == [
        "zone_yard_enter_ball_1.jpg",
        "zone_yard_leave_ball_1.jpg",
    ]
    assert len(rows(ride / "out.jsonl")) > 40


def test_a_ball_too_faint_to_be_shown_is_still_followed(ride, monkeypatch):
    """Below --min-score from frame 15 to 25; it crosses the line at 21, as it does when it is bright."""

    class Fading(Bright):
        def __call__(self, image: Any) -> Detections:
            found = super().__call__(image)
            faint = 105 <= found.xyxy[0, 0] <= 175
            return dataclasses.replace(found, scores=np.array([0.25 if faint else 0.9]))

    @contextlib.contextmanager
    def opened(*_: object, **__: object) -> Iterator[Bright]:
        yield Fading()

    monkeypatch.setattr(Chosen, "open", opened)
    result = run("--line", "gate=50%,100%,50%,0", "--out", "out.jsonl")
    assert "tracks: 1 ball" in result.stderr
    found = rows(ride / "out.jsonl")
    frames = [row["detections"] for row in found if "event" not in row]
    assert [len(row) for row in frames] == [*[1] * 15, *[0] * 11, *[1] * 14]
    assert {row[0].get("id") for row in frames[1:] if row} == {1}
    assert [row["frame"] for row in found if row.get("event") == "line"] == [21]


@pytest.mark.parametrize("words", [("--track-score", "0.95"), ("--min-score", "0.95")])
def test_a_score_from_which_there_are_tracks(ride, words):
    assert "tracks: none" in run("--track", *words, "--out", "out.jsonl").stderr
    assert "tracks: 1 ball" in run("--track", "--track-score", "0.9", "--out", "out.jsonl").stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--line", "gate=1,2,3"), "wanted NAME=x,y,x,y"),
        (("--line", "gate=1,2,1,2"), "two different points"),
        (("--zone", "yard=1,2,3,4"), "wanted 3 points or more"),
        (("--line", "a=0,0,9,9", "--line", "a=0,0,9,8"), "given twice"),
        (("--margin", "5"), "for --line and --zone"),
        (("--track-score", "0.5"), "for --track, --line and --zone"),
    ],
)
def test_options_that_mean_nothing(ride, words, message):
    with pytest.raises(UsageError, match=message):
        run(*words)


def test_an_outline_for_a_camera_that_is_not_there(ride):
    with pytest.raises(UsageError, match="name the source"):
        run("--line", "front/gate=0,50%,100%,50%", "--out", "out.jsonl")
    with pytest.raises(UsageError, match=r"gate is for a camera 'yard', found none; there are: .*front"):
        run("--source", "front=test://?frames=1", "--line", "yard/gate=0,50%,100%,50%", "--out", "out.jsonl")
    with pytest.raises(UsageError, match="--margin"):
        run("--line", "gate=0,50%,100%,50%", "--margin", "nan", "--out", "out.jsonl")
