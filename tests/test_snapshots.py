"""Snapshots: the frame that an event belongs to, a bounded number, names that tell."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina.errors import OutputError, UsageError
from edge_retina.events import Event
from edge_retina.sinks import open_sink
from edge_retina.snapshots import SnapshotOptions, Snapshots
from edge_retina.types import Detections, Frame

THEN = 1_790_000_000 * 10**9  # 2026-09-21 14:13:20 UTC


def frame(index: int, camera: str = "") -> Frame:
    """Grey of 10 times its index."""
    return Frame(np.full((32, 48, 3), 10 * index, np.uint8), index, camera=camera, live=True)


def none() -> Detections:
    return Detections.empty((32, 48))


def zone(index: int | None, camera: str = "", *, ms: int = 0, kind: str = "zone", **data) -> Event:
    where = {} if index is None else {"frame": index}
    return Event(kind, camera, at_ns=ms * 10**6, time_ns=THEN + ms * 10**6, data={**where, **data})


def level(path: Path) -> int:
    """Which frame a picture shows."""
    return round(float(cv2.imread(str(path)).mean()) / 10)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_happens_nothing_is_written(tmp_path):
    with open_sink(f"{tmp_path}/shots/?on=zone") as sink:
        assert isinstance(sink, Snapshots)
        sink.write(frame(0), none())
        sink.event(zone(0, kind="line"))
    assert names(tmp_path / "shots") == []


@pytest.mark.parametrize("told_first", [True, False])
def test_the_frame_that_the_event_belongs_to(tmp_path, told_first):
    with open_sink(f"{tmp_path}/?on=zone") as sink:
        sink.write(frame(3), none())
        event = zone(4, "", zone="yard", state="enter", name="dog", id=7)
        if told_first:
            sink.event(event)
            assert names(tmp_path) == []
        sink.write(frame(4), none())
        if not told_first:
            sink.event(event)
        sink.write(frame(5), none())
    (picture,) = tmp_path.iterdir()
    assert picture.name == "20260921T141320.000Z_zone_yard_enter_dog_7.jpg"
    assert level(picture) == 4


def test_the_next_frame_where_its_own_was_skipped(tmp_path):
    with open_sink(f"{tmp_path}/?on=zone") as sink:
        sink.event(zone(4))
        sink.event(zone(5, ms=1))
        sink.write(frame(3), none())
        sink.write(frame(7), none())
    assert [level(path) for path in sorted(tmp_path.iterdir())] == [7, 7]


def test_an_event_of_no_frame_shows_the_newest_of_its_camera(tmp_path):
    with open_sink(f"{tmp_path}/?on=down,stale") as sink:
        sink.event(zone(None, "front", kind="down"))  # before there is any picture
        sink.write(frame(1, "front"), none())
        sink.write(frame(2, "back"), none())
        sink.event(zone(None, "front", kind="down"))
    (picture,) = tmp_path.iterdir()
    assert "_front_down" in picture.name
    assert level(picture) == 1


def test_detections_are_drawn(tmp_path):
    boxes = Detections(np.float32([[8, 8, 40, 28]]), np.float32([0.9]), np.int32([0]), ("dog",), (32, 48))
    with open_sink(f"{tmp_path}/?on=zone") as sink:
        sink.write(frame(5), boxes)
        sink.event(zone(5))
    (picture,) = tmp_path.iterdir()
    assert cv2.imread(str(picture)).std() > 10


def test_two_in_one_moment_have_two_names(tmp_path):
    with open_sink(f"{tmp_path}/?on=zone") as sink:
        sink.write(frame(5), none())
        for _ in range(3):
            sink.event(zone(5, zone="a b/../c"))
    assert names(tmp_path) == [f"20260921T141320.000Z_zone_a-b-..-c{end}.jpg" for end in ("", "_2", "_3")]


def test_the_newest_stay_and_other_files_too(tmp_path):
    (tmp_path / "notes.jpg").write_text("mine")
    for run in range(2):
        with open_sink(f"{tmp_path}/?on=zone&keep=3") as sink:
            sink.write(frame(1), none())
            for i in range(5):
                sink.event(zone(1, ms=1000 * (5 * run + i)))
        found = names(tmp_path)
        assert found.pop() == "notes.jpg"
        first = 5 * run + 2
        assert [name[13:15] for name in found] == [f"{20 + first + i:02d}" for i in range(3)]


def test_not_more_often_than_asked(tmp_path):
    with open_sink(f"{tmp_path}/?on=zone,line&every=0.5") as sink:
        sink.write(frame(1), none())
        sink.write(frame(1, "back"), none())
        for ms in (0, 100, 499, 500, 999, 1000):
            sink.event(zone(1, ms=ms))
        sink.event(zone(1, ms=10, kind="line"))
        sink.event(zone(1, "back", ms=20))
    assert [name[16:19] for name in names(tmp_path)] == ["000", "010", "020", "500", "000"]


def test_a_camera_that_starts_anew_leaves_no_heap_of_events(tmp_path):
    with open_sink(f"{tmp_path}/?on=zone&keep=500") as sink:
        for i in range(1000):
            sink.event(zone(10**6, ms=i))
        sink.write(frame(1), none())
        assert names(tmp_path) == []
        sink.write(Frame(np.zeros((32, 48, 3), np.uint8), 10**6), none())
        assert len(names(tmp_path)) == 64


def test_closed_twice_and_aborted(tmp_path):
    sink = open_sink(f"{tmp_path}/?on=zone")
    sink.close()
    sink.close()
    sink.abort()


def test_a_disk_that_is_full_leaves_no_half_picture(tmp_path, monkeypatch):
    sink = open_sink(f"{tmp_path}/?on=zone")
    sink.write(frame(1), none())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space"):
            sink.event(zone(1))
    assert names(tmp_path) == []
    sink.event(zone(1, ms=1))
    assert len(names(tmp_path)) == 1


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        open_sink(f"{tmp_path}/file/?on=zone")


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("on=zone", SnapshotOptions(frozenset({"zone"}))),
        ("on=zone,line&keep=5", SnapshotOptions(frozenset({"zone", "line"}), 5)),
        ("every=2&on=down", SnapshotOptions(frozenset({"down"}), 1000, 2.0)),
    ],
)
def test_what_options_mean(query, options):
    assert SnapshotOptions.parse(query) == options


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("keep=5", "on= wants events"),
        ("on=", "found on="),
        ("on=zone,person", "found 'person'"),
        ("on=zone&keep=0", "from 1 to"),
        ("on=zone&keep=-1", "from 1 to"),
        ("on=zone&every=often", "found 'often'"),
        ("on=zone&size=5", "found size=;"),
    ],
)
def test_options_that_mean_nothing(query, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        open_sink(f"{tmp_path}/shots/?{query}")
    assert names(tmp_path) == []


def test_remembering_frames_costs_nothing(tmp_path):
    with open_sink(f"{tmp_path}/?on=zone") as sink:
        big = Frame(np.zeros((2160, 3840, 3), np.uint8))
        begin = time.perf_counter()
        for _ in itertools.repeat(None, 1000):
            sink.write(big, Detections.empty((2160, 3840)))
        assert time.perf_counter() - begin < 0.5
