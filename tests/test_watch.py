"""The step of a stream that tracks: what it tells, worked out by hand for one object on its way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edge_retina.errors import UsageError
from edge_retina.events import Event
from edge_retina.tracking import Tracker
from edge_retina.types import Detections, Frame
from edge_retina.watch import Outline, Watch

SHAPE = (100, 200)
FPS = 10


def play(watch: Watch, boxes, *, camera: str = "", shape: tuple[int, int] = SHAPE, first: int = 0) -> list[dict]:
    """One object, 20 x 20, its upper left corner at each of `boxes` in turn, None for out of sight; the events."""
    events: list[Event] = []
    image = np.zeros((*shape, 3), np.uint8)
    for index, corner in enumerate(boxes, first):
        rows = [] if corner is None else [(*corner, corner[0] + 20, corner[1] + 20)]
        xyxy = np.array(rows, np.float32).reshape(-1, 4)
        found = Detections(xyxy, np.full(len(rows), 0.9), np.zeros(len(rows)), ("ball",), shape)
        watch(Frame(image, index, index * 10**9 // FPS, camera=camera), found, events.append)
    return rows_of(events)


def rows_of(events: list[Event]) -> list[dict]:
    rows = [event.to_json() for event in events]
    for row in rows:
        del row["at_ns"], row["time_ns"]
    return rows


def finish(watch: Watch) -> list[dict]:
    events: list[Event] = []
    watch.finish(events.append)
    return rows_of(events)


def test_nothing_to_see_nothing_to_tell():
    watch = Watch(Tracker(fps=FPS))
    assert finish(watch) == []
    assert play(watch, [None, None]) == []
    assert finish(watch) == []


def test_a_track_from_its_first_to_its_last_frame():
    watch = Watch(Tracker(fps=FPS, patience_s=0.5))
    rows = play(watch, [(10, 10)] * 11 + [None] * 10)
    who = {"camera": "", "id": 1, "name": "ball"}
    assert rows == [
        {"event": "track", **who, "frame": 1, "state": "new", "now": 1},
        # Seen in frames 1 to 10, with its number; given up after half a second.
        {"event": "track", **who, "frame": 16, "state": "gone", "now": 0, "frames": 10, "seconds": 0.9},
    ]
    assert watch.seen == Counter(ball=1)


def test_the_end_of_a_run_ends_tracks():
    watch = Watch(Tracker(fps=FPS), zones=[Outline.parse("all=0,0,100%,0,100%,100%,0,100%")])
    rows = play(watch, [(10, 10)] * 6)
    assert [row["state"] for row in rows] == ["new", "enter"]
    assert [(row["event"], row["state"], row["seconds"]) for row in finish(watch)] == [
        ("zone", "leave", 0.4),
        ("track", "gone", 0.4),
    ]
    assert finish(watch) == []


def test_over_a_line_and_back():
    # The lower edge's middle, corner + (10, 20), goes from y = 30 to 70 and back; the line is at 50.
    watch = Watch(Tracker(fps=FPS), [Outline.parse("gate=0,50%,100%,50%")])
    way = [(50, y) for y in range(10, 51, 4)]
    rows = [row for row in play(watch, way + way[::-1]) if row["event"] == "line"]
    assert [(row["line"], row["direction"], row["in"], row["out"]) for row in rows] == [
        ("gate", "in", 1, 0),
        ("gate", "out", 1, 1),
    ]
    # y = 10 + 4 * 6 = 34, foot at 54; 2.24 pixels are 1 % of the diagonal, so 54 is beyond.
    assert rows[0]["frame"] == 6
    assert watch.crossings == {("", "gate"): Counter({"in": 1, "out": 1})}


def test_the_middle_of_the_box_in_place_of_its_foot():
    for foot, wanted in ((True, 6), (False, 8)):
        # Frame 8: y = 10 + 4 * 8 = 42, middle at 52, not yet beyond a margin of 1.9? It is: 52 > 51.9.
        watch = Watch(Tracker(fps=FPS), [Outline.parse("gate=0,50,200,50")], foot=foot, margin=1.9)
        rows = [row for row in play(watch, [(50, y) for y in range(10, 51, 4)]) if row["event"] == "line"]
        assert [row["frame"] for row in rows] == [wanted]


def test_a_trembling_object_crosses_once():
    rng = np.random.default_rng(0)
    watch = Watch(Tracker(fps=FPS), [Outline.parse("gate=0,50,200,50")])
    tremble = [(50 + rng.normal(0, 0.3), 30 + rng.uniform(-2, 2)) for _ in range(200)]
    rows = play(watch, [(50, 10), (50, 14), (50, 18), (50, 22), *tremble, (50, 36), (50, 40)])
    assert [row["direction"] for row in rows if row["event"] == "line"] == ["in"]


def test_hidden_while_it_crosses():
    watch = Watch(Tracker(fps=FPS, patience_s=1), [Outline.parse("gate=0,50,200,50")])
    rows = play(watch, [(50, 10), (50, 14), (50, 18), (50, 22), None, None, (50, 34), (50, 38)])
    assert [(row["event"], row["id"]) for row in rows] == [("track", 1), ("line", 1)]


def test_a_zone_and_how_long():
    watch = Watch(Tracker(fps=FPS), zones=[Outline.parse("yard=80,0,120,0,120,100,80,100")])
    rows = [row for row in play(watch, [(x, 40) for x in range(40, 161, 6)]) if row["event"] == "zone"]
    # The foot's x is corner + 10: 50, 56 ... 86 (frame 6, more than 2.24 inside) ... 128 - 2 = 126 (more than outside).
    assert [(row["zone"], row["state"], row["frame"], row["inside"]) for row in rows] == [
        ("yard", "enter", 6, 1),
        ("yard", "leave", 13, 0),
    ]
    assert rows[1]["seconds"] == pytest.approx(0.7)


def test_lines_for_one_camera_and_for_all():
    watch = Watch(
        Tracker(fps=FPS), [Outline.parse("rtsp://host/a/gate=0,50,200,50"), Outline.parse("door=0,50,200,50")]
    )
    way = [(50, y) for y in range(10, 51, 4)]
    for camera, wanted in (("rtsp://host/a", ["gate", "door"]), ("back", ["door"])):
        rows = play(watch, way, camera=camera)
        assert [row["line"] for row in rows if row["event"] == "line"] == wanted
        assert {row["camera"] for row in rows} == {camera}
    assert set(watch.crossings) == {("rtsp://host/a", "gate"), ("rtsp://host/a", "door"), ("back", "door")}


def test_another_size_of_picture_in_mid_stream():
    """Percent follow the new size, counts go on, and who was inside has left."""
    watch = Watch(
        Tracker(fps=FPS),
        [Outline.parse("gate=0,50%,100%,50%")],
        [Outline.parse("all=0,0,100%,0,100%,100%,0,100%")],
    )
    way = [(50, y) for y in range(10, 51, 4)]
    before = play(watch, way)
    double = [(100, 20 + 4 * i) for i in range(30)]
    after = play(watch, double, shape=(200, 400), first=len(way))
    assert [row["in"] for row in [*before, *after] if row["event"] == "line"] == [1, 2]
    assert [row["state"] for row in after if row["event"] in ("track", "zone")] == ["leave", "gone", "new", "enter"]
    assert [row["inside"] for row in after if row["event"] == "zone"] == [0, 1]


def test_a_zone_that_encloses_nothing_in_frames_of_another_size_is_told_and_left_out():
    watch = Watch(Tracker(fps=FPS), [], [Outline.parse("z=100,0,100%,0,100%,100%")])
    assert [row["event"] for row in play(watch, [(170, 10)] * 3)] == ["track", "zone"]
    rows = play(watch, [(10, 10)] * 3, shape=(100, 100), first=3)
    assert [row["event"] for row in rows if row["event"] not in ("track", "zone")] == ["size"]
    assert "zone z" in next(row["reason"] for row in rows if row["event"] == "size")
    with pytest.raises(UsageError, match="zone z"):
        play(Watch(Tracker(fps=FPS), [], [Outline.parse("z=100,0,100%,0,100%,100%")]), [(0, 0)], shape=(100, 100))


def test_two_of_one_name():
    gates = [Outline.parse("gate=0,50,200,50"), Outline.parse("gate=0,60,200,60")]
    with pytest.raises(UsageError, match="gate is given twice"):
        Watch(Tracker(), gates)
    Watch(Tracker(), [Outline.parse("a/gate=0,50,200,50"), Outline.parse("b/gate=0,60,200,60")])


@pytest.mark.parametrize("text", ["gate=5,5,5,5", "gate=50%,10,50%,10"])
def test_a_line_without_length_is_told_at_once(text):
    with pytest.raises(UsageError, match="two different points"):
        Watch(Tracker(), [Outline.parse(text)])


def test_a_zone_without_area_is_told_at_once():
    with pytest.raises(UsageError, match="without an area"):
        Watch(Tracker(), zones=[Outline.parse("yard=0,0,50%,50%,100%,100%")])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gate=0,50%,100%,50%", ((0, 50), (200, 50))),
        (" gate = 1.5 , 2 , -3 , 4 ", ((1.5, 2), (-3, 4))),
        ("front/gate=0,0,1,1", ((0, 0), (1, 1))),
        ("a=b=0,0,1,1", ((0, 0), (1, 1))),
        ("yard=0,0,10,0,10,10", ((0, 0), (10, 0), (10, 10))),
    ],
)
def test_what_an_outline_means(text, wanted):
    outline = Outline.parse(text)
    assert outline.points(SHAPE) == wanted
    assert outline.camera == ("front" if "/" in text else None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gate",
        "=0,0,1,1",
        "front/=0,0,1,1",
        "gate=0,0",
        "gate=0,0,1",
        "gate=0,0,1,x",
        "gate=0,0,1,nan",
        "gate=0,0,1,1e3",
        "yard=0,0,1,1,2,2,3",
    ],
)
def test_an_outline_that_means_nothing(text):
    with pytest.raises(UsageError, match="wanted NAME=x,y,x,y"):
        Outline.parse(text)


def test_points_of_the_wrong_number():
    with pytest.raises(UsageError, match="line gate: wanted 2 points, found 3"):
        Watch(Tracker(), [Outline.parse("gate=0,0,1,1,2,2")])
    with pytest.raises(UsageError, match="zone yard: wanted 3 points or more, found 2"):
        Watch(Tracker(), zones=[Outline.parse("yard=0,0,1,1")])


def test_no_password_in_messages():
    with pytest.raises(UsageError) as wrong:
        Outline.parse("rtsp://me:hunter2@host/gate=0,0,1")
    assert "hunter2" not in str(wrong.value)
