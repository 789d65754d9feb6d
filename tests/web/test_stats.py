from __future__ import annotations

import dataclasses

import pytest
from web.made import dog, frame, none

from edge_retina.events import Event
from edge_retina.types import Frame
from edge_retina.web.stats import BUCKETS, CameraStats, percentile

S = 1_000_000_000


def at(seconds: float, index: int = 0, *, late_ms: float = 0, live: bool = True) -> Frame:
    captured_ns = round(seconds * S - late_ms * 1e6)
    return dataclasses.replace(frame(index, live=live), timestamp_ns=captured_ns)


def test_nothing_yet() -> None:
    stats = CameraStats(0)
    row = stats.to_json(2 * S)
    assert (row["state"], row["state_s"], row["fps"], row["frames"], row["age_ms"]) == ("connecting", 2.0, 0.0, 0, None)
    assert row["latency_ms"] == {"p50": None, "p90": None, "p99": None}
    assert stats.history(range(3)) == [None, None, None]


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [([], 50, None), ([7], 99, 7), ([1, 2, 3, 4], 50, 2), (list(range(1, 101)), 99, 99), ([1, 2], 100, 2), ([5], 0, 5)],
)
def test_percentile(values: list[float], share: float, wanted: float | None) -> None:
    assert percentile(values, share) == wanted


def test_rate_latency_and_age() -> None:
    stats = CameraStats(0)
    for index in range(21):  # 10 a second
        stats.add(at(1 + index / 10, index, late_ms=10 + index), dog(), round((1 + index / 10) * S))
    row = stats.to_json(round(3.05 * S))
    assert (row["fps"], row["frames"], row["age_ms"], row["counts"]) == (10.0, 21, 80, {"dog": 1})
    assert row["latency_ms"] == {"p50": 20.0, "p90": 28.0, "p99": 30.0}
    assert (row["width"], row["height"], row["live"]) == (64, 48, True)
    assert stats.fps(20 * S) == 0.0
    assert stats.to_json(90 * S)["latency_ms"]["p50"] is None  # of the last minute


def test_a_file_has_no_latency() -> None:
    stats = CameraStats(0)
    stats.add(at(0, live=False), none(), S)
    row = stats.to_json(S)
    assert (row["live"], row["age_ms"], row["latency_ms"]["p50"], row["state"]) == (False, None, None, "live")


def test_gaps_are_drops() -> None:
    stats = CameraStats(0)
    assert [stats.add(at(index, index), none(), index * S) for index in (3, 4, 7, 8, 2, 3)] == [0, 0, 2, 0, 0, 0]
    assert stats.drops == 2


def test_states_by_frames_alone() -> None:
    stats = CameraStats(0)
    stats.add(at(1), none(), S)
    assert stats.state(2 * S) == ("live", 1.0)
    assert stats.state(5 * S) == ("stale", 4.0)
    stats.add(at(6, 1), none(), 6 * S)
    assert stats.state(6 * S) == ("live", 5.0)


def test_states_by_events() -> None:
    stats = CameraStats(0)
    heard = []
    for second, kind in enumerate(("connecting", "live", "stale", "down", "connecting", "live"), 1):
        heard.append(stats.hear(Event(kind, "a", second * S, reason=f"because {kind}"), second * S))
        assert stats.state(second * S) == (kind, 1.0 if second == 1 else 0.0)  # connecting from the start
    assert heard == [False, False, False, False, False, True]
    assert stats.reconnects == 1
    assert stats.hear(Event("size", "a", 7 * S), 7 * S) is False
    assert stats.state(7 * S) == ("live", 1.0)
    assert stats.to_json(7 * S)["reason"] == ""  # nothing to explain
    stats.hear(Event("down", "a", 8 * S, reason="unplugged"), 8 * S)
    assert stats.to_json(8 * S)["reason"] == "unplugged"


def test_a_frame_from_before_the_outage_does_not_end_it() -> None:
    stats = CameraStats(0)
    stats.add(at(1), none(), S)
    stats.hear(Event("down", "a", 2 * S), 2 * S)
    stats.add(at(1.9, 1), none(), 2 * S)
    assert stats.state(2 * S)[0] == "down"
    stats.add(at(2.1, 2), none(), 3 * S)
    assert stats.state(3 * S)[0] == "live"


def test_history() -> None:
    stats = CameraStats(0)
    for second in (0, 1, 10):
        stats.add(at(second, second, late_ms=second + 1), dog() if second else none(), second * S)
    first, second, third = stats.history(range(3))
    assert first is not None
    assert (first.frames, dict(first.counts), first.ages) == (2, {"dog": 1}, [1.0, 2.0])
    assert second is None
    assert third is not None
    for minute in range(60):
        stats.add(at(60 * minute, 20 + minute), none(), 60 * minute * S)
    assert len(stats.buckets) <= BUCKETS + 1
