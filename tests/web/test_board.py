from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
from web.made import NAMES, dog, frame, none

from edge_retina.events import Event
from edge_retina.types import Detections, Frame
from edge_retina.web.board import Board, Note, Shown
from edge_retina.web.metrics import Metrics

S = 1_000_000_000
CANARY = "s3cret-canary"


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board(Metrics(), clock)


def data(item: Shown | Note) -> dict[str, object]:
    kind, row = item.message.decode().removesuffix("\n\n").split("\n")
    assert kind.startswith("event: ")
    return dict(json.loads(row.removeprefix("data: ")))


def test_empty(board: Board) -> None:
    assert (board.cameras(), board.newest("door"), board.since(0), board.ages_and_states()) == ([], None, [], {})
    assert board.summary()["cameras"] == []
    assert board.history() == {"step_s": 5, "classes": [], "latency": [], "events": []}


def test_results_and_events_in_order(board: Board) -> None:
    woken = []
    board.on_change = lambda: woken.append(board.sequence)
    board.write(frame(0), none())
    board.event(Event("down", "door", reason="why"))
    board.write(frame(1), dog())
    assert woken == [1, 2, 3]
    assert [item.sequence for item in board.since(0)] == [1, 2, 3]
    assert [item.sequence for item in board.since(2)] == [3]
    assert data(board.since(1)[0])["reason"] == "why"
    row = data(board.since(2)[0])
    assert (row["camera"], row["frame"], row["width"], row["height"]) == ("door", 1, 64, 48)
    assert row["detections"] == [{"box": [1.0, 2.0, 30.0, 40.0], "score": 0.5, "label": 1, "name": "dog"}]


def test_who_falls_behind_gets_the_newest(board: Board) -> None:
    for index in range(300):
        board.write(frame(index, "ab"[index % 2]), none())
    board.event(Event("down", "a"))
    assert len(board.since(200)) == 101
    items = board.since(10)
    assert [(item.sequence, item.camera) for item in items] == [(299, "a"), (300, "b"), (301, "a")]


def test_age_and_stale(board: Board, clock: Clock) -> None:
    clock.now = 5 * S
    board.write(dataclasses.replace(frame(), timestamp_ns=4 * S, stale=True), none())
    row = data(board.since(0)[0])
    assert (row["age_ms"], row["stale"], row["timestamp_ns"]) == (1000.0, True, 4 * S)
    board.write(frame(live=False), none())
    assert not {"age_ms", "stale"} & set(data(board.since(1)[0]))


def test_camera_without_a_name(board: Board) -> None:
    board.write(Frame(np.zeros((2, 2, 3), np.uint8), source="ride.mp4"), none((2, 2)))
    board.write(Frame(np.zeros((2, 2, 3), np.uint8)), none((2, 2)))
    assert board.cameras() == ["ride.mp4", "camera"]


def test_an_event_of_no_camera_makes_none(board: Board) -> None:
    board.event(Event("sink", reason="out.mp4: disk full"))
    assert board.cameras() == []
    assert board.history()["events"][0]["reason"] == "out.mp4: disk full"


def test_not_a_number_ends_no_stream(board: Board) -> None:
    board.event(
        Event("zone", "door", data={"value": float("nan"), "array": np.float32(2), "deep": [{"x": float("inf")}]})
    )
    row = data(board.since(0)[0])
    assert (row["value"], row["deep"]) == (None, [{"x": None}])
    detections = Detections(
        np.full((1, 4), np.nan, np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), NAMES, (48, 64)
    )
    board.write(frame(), detections)
    assert data(board.since(1)[0])["detections"][0]["box"] == [None] * 4  # type: ignore[index]


def test_no_password_leaves(board: Board) -> None:
    uri = f"rtsp://admin:{CANARY}@10.0.0.7/cam?token={CANARY}"
    deep = {"list": [uri, (uri,)], "dict": {uri: {"uri": uri}}, "object": ValueError(uri), "set": {uri}}
    board.write(Frame(np.zeros((48, 64, 3), np.uint8), source=uri, live=True), none())
    board.write(dataclasses.replace(frame(), camera=uri, source=uri), dog())
    for kind in ("connecting", "live", "stale", "down", "sink", uri):
        board.event(Event(kind, uri, reason=f"cannot open {uri}: refused", data=deep))
    seen = [item.message.decode() for item in board.since(0)]
    seen += [
        json.dumps(board.summary()),
        json.dumps(board.history()),
        str(board.cameras()),
        str(board.ages_and_states()),
    ]
    seen += [repr(item) for item in board.since(0)]
    assert len(board.cameras()) == 1
    assert not [text for text in seen if CANARY in text]
    assert "rtsp://admin:***@10.0.0.7" in seen[0]


def test_in_view(board: Board, clock: Clock) -> None:
    both = Detections(
        np.zeros((3, 4), np.float32), np.ones(3, np.float32), np.array([0, 1, 1], np.int32), NAMES, (48, 64)
    )
    for second, camera, detections in (
        (0, "a", both),
        (1, "a", none()),
        (1, "b", dog()),
        (7, "a", dog()),
        (16, "a", none()),
    ):
        clock.now = second * S
        board.write(dataclasses.replace(frame(camera=camera), timestamp_ns=clock.now - 20_000_000), detections)
    clock.now = 20 * S
    history = board.history()
    assert [(row["name"], row["values"][-4:]) for row in history["classes"]] == [
        ("cat", [0.5, 0.0, None, 0.0]),
        ("dog", [2.0, 1.0, None, 0.0]),  # one of camera a on average, one of camera b
    ]
    assert {len(row["values"]) for row in history["classes"]} == {120}
    assert [(row["camera"], row["p50"][-4:]) for row in history["latency"]] == [
        ("a", [20.0, 20.0, None, 20.0]),
        ("b", [20.0, None, None, None]),
    ]


def test_many_classes(board: Board, clock: Clock) -> None:
    names = tuple(f"class {number}" for number in range(9))
    labels = np.repeat(np.arange(9), np.arange(9, 0, -1)).astype(np.int32)
    many = Detections(np.zeros((45, 4), np.float32), np.ones(45, np.float32), labels, names, (48, 64))
    board.write(frame(), many)
    clock.now = 5 * S
    last = {row["name"]: row["values"][-1] for row in board.history()["classes"]}
    assert last == {**{f"class {number}": 9 - number for number in range(6)}, "other": 3 + 2 + 1}


def test_version_changes_with_time_and_events(board: Board, clock: Clock) -> None:
    first = board.version()
    board.write(frame(), none())
    assert board.version() == first
    board.event(Event("down", "door"))
    second = board.version()
    clock.now = 5 * S
    assert len({first, second, board.version()}) == 3


def test_written_and_read_at_once() -> None:
    board = Board(Metrics())
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while board.sequence < 200:
                board.summary()
                board.history()
                board.since(0)
        except BaseException as exc:
            failures.append(exc)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for index in range(200):
        board.write(frame(index, str(index % 7)), dog())
    for reader in readers:
        reader.join(30)
    assert failures == []
