"""Stable numbers: hand-made objects first, then the shipped video's own truth."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge_retina.errors import MissingPackage, UsageError
from edge_retina.tracking import Tracker
from edge_retina.types import Detections, Frame

PAN = Path(__file__).resolve().parent.parent / "samples" / "digits" / "pan.json"
NAMES = tuple("abc")
FPS = 25


def at(index: int, *, camera: str = "", shape: tuple[int, int] = (100, 200), timed: bool = True) -> Frame:
    return Frame(np.zeros((*shape, 3), np.uint8), index, index * 10**9 // FPS if timed else 0, camera=camera)


def found(*rows: tuple[float, float, float, int], shape: tuple[int, int] = (100, 200)) -> Detections:
    """Squares of side 20: x1, y1, score, label; best first."""
    rows = tuple(sorted(rows, key=lambda row: -row[2]))
    boxes = np.array([(x, y, x + 20, y + 20) for x, y, _, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[2] for row in rows], np.float32)
    return Detections(boxes, scores, np.array([row[3] for row in rows], np.int32), NAMES, shape)


def ids(tracker: Tracker, frame: Frame, *rows: tuple[float, float, float, int], **options) -> list[int]:
    tracked = tracker.update(frame, found(*rows, **options))
    assert tracked.track_ids is not None
    return tracked.track_ids.tolist()


def test_nothing_to_track():
    tracker = Tracker(fps=FPS)
    assert ids(tracker, at(0)) == []
    assert ids(tracker, at(1)) == []
    assert [change.gone for change in tracker.finish()] == [()]
    assert Tracker().finish() == []


def test_an_object_has_a_number_from_its_second_frame_on():
    tracker = Tracker(fps=FPS)
    assert [ids(tracker, at(i), (10 + i, 10, 0.9, 0)) for i in range(5)] == [[-1], [1], [1], [1], [1]]


def test_rows_stay_as_they_are():
    tracker = Tracker(fps=FPS)
    given = found((10, 10, 0.9, 0), (100, 50, 0.8, 2), (150, 10, 0.6, 1))
    tracker.update(at(0), given)
    tracked = tracker.update(at(1), given)
    np.testing.assert_array_equal(tracked.xyxy, given.xyxy)
    np.testing.assert_array_equal(tracked.scores, given.scores)
    assert (tracked.names, tracked.shape) == (given.names, given.shape)
    assert sorted(tracked.track_ids.tolist()) == [1, 2, 3]
    assert {row["id"] for row in tracked.to_json()} == {1, 2, 3}


def test_two_that_pass_each_other_keep_theirs():
    tracker = Tracker(fps=FPS)
    seen = []
    for i in range(20):
        # Side by side, 22 pixels apart: boxes never overlap.
        right, left = (10 + 5 * i, 10, 0.9, 0), (110 - 5 * i, 32, 0.8, 0)
        seen.append(ids(tracker, at(i), right, left))
    assert seen[1:] == [seen[1]] * 19


def test_one_object_under_two_names_is_one_track():
    tracker = Tracker(fps=FPS)
    seen = [ids(tracker, at(i), (10, 10, 0.9, i % 2), (11, 10, 0.8, 1 - i % 2)) for i in range(6)]
    assert seen == [[-1, -1], *[[1, -1]] * 5]
    (change,) = tracker.finish()
    assert [(track.id, track.names) for track in change.gone] == [(1, Counter(b=3, a=2))]
    assert change.gone[0].name == "b"


def test_a_faint_one_continues_a_track_but_begins_none():
    tracker = Tracker(fps=FPS, start_score=0.5)
    assert [ids(tracker, at(i), (10, 10, 0.4, 0)) for i in range(4)] == [[-1]] * 4
    assert [ids(tracker, at(i), (10, 10, 0.9, 0)) for i in range(4, 6)] == [[-1], [1]]
    assert ids(tracker, at(6), (10, 10, 0.2, 0)) == [1]


def test_rows_below_the_least_score_are_not_looked_at():
    tracker = Tracker(fps=FPS, start_score=0.5, least_score=0.3)
    assert [ids(tracker, at(i), (10, 10, 0.9, 0)) for i in range(2)] == [[-1], [1]]
    assert ids(tracker, at(2), (10, 10, 0.29, 0)) == [-1]
    assert ids(tracker, at(3), (10, 10, 0.31, 0)) == [1]


def test_what_a_slow_detector_sees_moves_further():
    """5 frames a second, each 1.2 sides from the one before: no box overlaps the one it is to be matched with."""
    tracker = Tracker(fps=5)
    assert [ids(tracker, at(5 * i), (24 * i, 10, 0.9, 0)) for i in range(6)] == [[-1], *[[1]] * 5]
    # A fast one does not see such a jump: that is another object.
    tracker = Tracker(fps=FPS)
    assert [ids(tracker, at(i), (24 * i, 10, 0.9, 0)) for i in range(6)] == [[-1]] * 6


def test_out_of_sight_for_less_than_the_patience():
    tracker = Tracker(fps=FPS, patience_s=1)
    for i in range(3):
        ids(tracker, at(i), (10, 10, 0.9, 0))
    for i in range(3, 25):
        ids(tracker, at(i))
    assert ids(tracker, at(26), (10, 10, 0.9, 0)) == [1]


def test_out_of_sight_for_longer_is_gone_and_its_number_too():
    tracker = Tracker(fps=FPS, patience_s=1)
    for i in range(3):
        _, change = tracker.follow(at(i), found((10, 10, 0.9, 0)))
        assert [track.id for track in change.new] == ([1] if i == 1 else [])
    # Nothing in between either: the clock counts, not the frames.
    _, change = tracker.follow(at(40), found((10, 10, 0.9, 0)))
    (track,) = change.gone
    assert (track.id, track.frames, track.seconds) == (1, 2, pytest.approx(1 / FPS))
    assert ids(tracker, at(41), (10, 10, 0.9, 0)) == [2]


def test_a_camera_that_was_away_for_a_week():
    tracker = Tracker()
    for i in range(3):
        ids(tracker, at(i), (10, 10, 0.9, 0))
    later = at(7 * 24 * 3600 * FPS)
    assert ids(tracker, later, (10, 10, 0.9, 0)) == [-1]
    assert ids(tracker, at(later.index + 1), (10, 10, 0.9, 0)) == [2]


def test_frames_without_times():
    tracker = Tracker(fps=FPS)
    assert [ids(tracker, at(i, timed=False), (10 + i, 10, 0.9, 0)) for i in range(4)] == [[-1], [1], [1], [1]]
    (change,) = tracker.finish()
    assert change.gone[0].seconds == pytest.approx(2 / FPS)


def test_cameras_have_numbers_of_their_own():
    tracker = Tracker(fps=FPS)
    for i in range(3):
        one = ids(tracker, at(i, camera="one"), (10, 10, 0.9, 0))
        two = ids(tracker, at(i, camera="two"), (100, 50, 0.9, 0))
    assert one == two == [1]
    assert [(c.gone[0].camera, c.gone[0].id) for c in tracker.finish()] == [("one", 1), ("two", 1)]


def test_another_size_of_picture_ends_all_tracks():
    tracker = Tracker(fps=FPS)
    for i in range(3):
        ids(tracker, at(i), (10, 10, 0.9, 0))
    small = (50, 100)
    _, change = tracker.follow(at(3, shape=small), found((10, 10, 0.9, 0), shape=small))
    assert [track.id for track in change.gone] == [1]
    assert ids(tracker, at(4, shape=small), (10, 10, 0.9, 0), shape=small) == [2]


def test_nothing_is_kept_of_tracks_that_are_gone():
    tracker = Tracker(fps=FPS, patience_s=0.1)
    for i in range(0, 3000, 2):  # a new object every tenth frame, a hundred seconds long
        ids(tracker, at(i), (10 + 60 * (i // 20 % 3), 10, 0.9, 0))
    camera = tracker._cameras[""]
    assert len(camera._known) <= 2
    assert camera._last_id > 100


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 0},
        {"fps": float("nan")},
        {"start_score": 1.5},
        {"least_score": -1},
        {"patience_s": -1},
        {"patience_s": 1e9},
        {"same_iou": 0},
    ],
)
def test_numbers_out_of_range(options):
    with pytest.raises(UsageError, match="a tracker wants"):
        Tracker(**options)


def test_without_trackers(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingPackage, match=r"edge-retina\[track\]"):
        Tracker()


def test_the_pan_with_its_true_boxes_shaken_and_missed():
    """A digit keeps its number while it is in view, though boxes tremble, one in ten is missed and names are random."""
    truth = json.loads(PAN.read_text())
    rng = np.random.default_rng(3)
    tracker = Tracker(fps=truth["fps"])
    previous: list[tuple[np.ndarray, int]] = []
    spell, swaps, seen = 0, 0, 0
    number_of: dict[int, int] = {}
    for index, row in enumerate(truth["frames"]):
        boxes = np.array(row["boxes"]).reshape(-1, 4)
        spells = []
        for box in boxes:  # which digit it was in the frame before: the one that moved least
            near = [(np.abs(box - old).max(), number) for old, number in previous]
            least = min(near, default=(np.inf, -1))
            if least[0] > 12:
                spell += 1
                least = (0, spell)
            spells.append(least[1])
        previous = list(zip(boxes, spells, strict=True))
        kept = np.flatnonzero(rng.random(len(boxes)) > 0.1)
        shaken = boxes[kept] + rng.normal(0, 1, (len(kept), 4))
        labels = rng.integers(0, 10, len(kept))
        given = Detections(shaken, np.full(len(kept), 0.9), labels, tuple("0123456789"), (480, 640))
        frame = Frame(np.zeros((1, 1, 3), np.uint8), index, index * 10**9 // truth["fps"])
        tracked = tracker.update(frame, given)
        for at_row, number in zip(kept, tracked.track_ids.tolist(), strict=True):
            if number >= 0:
                seen += 1
                swaps += number_of.setdefault(spells[at_row], number) != number
                number_of[spells[at_row]] = number
    assert seen > 4500
    assert swaps <= 2
