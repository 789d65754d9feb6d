"""Sinks in threads: slow ones, broken ones, ones that do not let go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from edge_retina import sinkhost
from edge_retina.errors import OutputError
from edge_retina.events import Event
from edge_retina.sink import Sink, StopStream
from edge_retina.sinkhost import SinkHost
from edge_retina.types import Detections, Frame

NONE = Detections.empty((2, 2))


def frame(index: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), index, live=True)


class Notes(Sink):
    """Notes what it gets. slow_s: for each frame. fails_at: index of the frame at which it does."""

    def __init__(self, slow_s: float = 0.0, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.slow_s, self.fails_at, self.error = slow_s, fails_at, error or OutputError("the disk is full")
        self.seen: list[int | str] = []
        self.closed = 0
        self.threads: set[int] = set()

    def write(self, frame: Frame, detections: Detections) -> None:
        time.sleep(self.slow_s)
        self.threads.add(threading.get_ident())
        if frame.index == self.fails_at:
            raise self.error
        self.seen.append(frame.index)

    def event(self, event: Event) -> None:
        self.seen.append(event.kind)

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None: ...


class InMain(Notes):
    main_thread = True


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    time.sleep(0.01)
    assert not [t for t in threading.enumerate() if t.name.startswith("edge-retina-sink")]


def test_no_sinks(events: list[Event]) -> None:
    host = SinkHost([], live=True, on_event=events.append)
    host.write(frame(0), NONE)
    host.event(Event("live"))
    host.close()
    assert (host.lost, host.failures, events) == ({}, [], [])


def test_files_wait_for_a_slow_sink_and_lose_nothing(events: list[Event]) -> None:
    slow = Notes(0.005)
    host = SinkHost([("slow", slow)], live=False, on_event=events.append)
    for i in range(20):
        host.write(frame(i), NONE)
    host.close()
    assert slow.seen == list(range(20))
    assert (slow.closed, host.lost, events) == (1, {}, [])
    assert threading.get_ident() not in slow.threads


def test_a_live_run_never_waits_and_counts_what_is_lost(events: list[Event]) -> None:
    slow, fast = Notes(0.2), Notes()
    host = SinkHost([("post+http://a:pw@h/x", slow), ("fast", fast)], live=True, on_event=events.append)
    start = time.monotonic()
    for i in range(40):
        host.write(frame(i), NONE)
        time.sleep(0.002)
    assert time.monotonic() - start < 0.5
    host.close()
    assert [i for i in fast.seen if i != "sink"] == list(range(40))
    frames = [i for i in slow.seen if i != "sink"]
    assert list(host.lost) == ["post+http://a:***@h/x"]
    assert len(frames) + host.lost["post+http://a:***@h/x"] == 40
    assert [(e.kind, e.reason, e.data["sink"]) for e in events] == [("sink", "too slow", "post+http://a:***@h/x")]


def test_a_crashed_sink_does_not_stop_a_live_run(events: list[Event]) -> None:
    broken, good = Notes(fails_at=1, error=RuntimeError("rtsp://u:canary@h is gone")), Notes()
    host = SinkHost([("broken", broken), ("good", good)], live=True, on_event=events.append)
    for i in range(5):
        host.write(frame(i), NONE)
        time.sleep(0.01)
    host.close()
    assert (broken.seen, broken.closed, good.closed) == ([0], 1, 1)
    assert [i for i in good.seen if i != "sink"] == [0, 1, 2, 3, 4]
    assert "sink" in good.seen
    (event,) = events
    assert (event.kind, event.data["sink"]) == ("sink", "broken")
    assert "canary" not in event.reason
    assert "RuntimeError" in event.reason
    assert len(host.failures) == 1


def test_a_failed_sink_is_closed_though_nobody_can_be_told() -> None:
    def gone(_: Event) -> None:
        raise BrokenPipeError

    broken, good = Notes(fails_at=0), Notes()
    host = SinkHost([("broken", broken), ("good", good)], live=True, on_event=gone)
    host.write(frame(0), NONE)
    host.close()
    assert (broken.closed, good.closed) == (1, 1)


def test_events_for_a_sink_that_hangs_are_bounded(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhost, "_EVENTS_WAITING", 5)
    slow, window = Notes(slow_s=0.2), InMain()
    host = SinkHost([("slow", slow), ("window", window)], live=True, on_event=events.append)
    host.write(frame(0), NONE)
    time.sleep(0.05)
    for _ in range(50):
        host.event(Event("track"))
    host.write(frame(1), NONE)
    host.close()
    assert slow.seen.count("track") == window.seen.count("track") == 5
    assert slow.seen[-1] == window.seen[-1] == 1


@pytest.mark.parametrize("live", [True, False])
def test_when_the_last_sink_has_failed_the_run_ends(events: list[Event], live: bool) -> None:
    host = SinkHost([("broken", Notes(fails_at=0))], live=live, on_event=events.append)

    def run() -> None:
        for i in range(100):
            host.write(frame(i), NONE)
            time.sleep(0.002)

    with pytest.raises(OutputError, match="the disk is full"):
        run()
    with pytest.raises(OutputError, match="the disk is full"):
        host.close()


def test_one_that_has_seen_enough_ends_the_run(events: list[Event]) -> None:
    host = SinkHost([("-", Notes(fails_at=2, error=StopStream()))], live=True, on_event=events.append)

    def run() -> None:
        for i in range(100):
            host.write(frame(i), NONE)
            time.sleep(0.002)

    with pytest.raises(StopStream):
        run()
    host.close()
    assert events == []


def test_a_window_works_in_the_thread_of_the_run(events: list[Event]) -> None:
    window = InMain()
    host = SinkHost([("display://", window)], live=True, on_event=events.append)
    host.event(Event("live"))
    host.write(frame(0), NONE)
    host.close()
    assert window.seen == ["live", 0]
    assert (window.threads, window.closed) == ({threading.get_ident()}, 1)


def test_a_sink_that_hangs_is_left_behind(events: list[Event]) -> None:
    class Hangs(Notes):
        def write(self, frame: Frame, detections: Detections) -> None:
            free.wait(10)

    free = threading.Event()
    good = Notes()
    host = SinkHost([("hangs", Hangs()), ("good", good)], live=True, on_event=events.append)
    host.write(frame(0), NONE)
    start = time.monotonic()
    host.close(hurry=True)
    assert time.monotonic() - start < 1.5
    assert good.closed == 1
    assert "does not end" in str(host.failures[0])
    free.set()
    time.sleep(0.05)


def test_one_that_is_finishing_its_file_may_take_longer_than_one_that_hangs(events: list[Event]) -> None:
    class Finishes(Notes):
        def close(self) -> None:
            time.sleep(1.5)
            self.closed += 1

    sink = Finishes()
    host = SinkHost([("v.mp4", sink)], live=True, on_event=events.append)
    host.write(frame(0), NONE)
    host.close(hurry=True)
    assert (sink.closed, host.failures, events) == (1, [], [])
