"""The frame that waits, and the account of the others."""

from __future__ import annotations

import numpy as np
import pytest

from edge_retina.errors import UsageError
from edge_retina.newest import Bell, Limits, Newest
from edge_retina.types import Frame

S = 1_000_000_000


def frame(stamp_ns: int = 0, shape: tuple[int, int] = (2, 2)) -> Frame:
    return Frame(np.zeros((*shape, 3), np.uint8), 9, stamp_ns, "cam", live=True)


def newest(**limits: object) -> Newest:
    return Newest("front", Bell(), Limits(**limits))  # type: ignore[arg-type]


def test_nothing_waits() -> None:
    empty = newest()
    assert empty.take() is None
    assert empty.due_s(0) is None
    empty.drop()
    assert (empty.captured, empty.processed, empty.dropped, empty.waits) == (0, 0, 0, False)


def test_the_newest_is_taken_once() -> None:
    slot = newest()
    assert [slot.put(frame(ns)) for ns in (10, 20, 30)] == [None] * 3
    taken = slot.take(40)
    assert taken is not None
    assert (taken.index, taken.timestamp_ns, taken.camera, taken.stale) == (2, 30, "front", False)
    assert slot.take(50) is None
    assert (slot.captured, slot.processed, slot.dropped, slot.waits) == (3, 1, 2, False)


def test_stamps_never_go_back() -> None:
    slot = newest()
    slot.put(frame(30))
    slot.put(frame(10))
    assert (taken := slot.take(40)) is not None
    assert taken.timestamp_ns == 31


def test_old_frames_are_marked_or_left_out() -> None:
    slot = newest(stale_s=2.0)
    slot.put(frame(S))
    assert (taken := slot.take(3 * S + 1)) is not None
    assert taken.stale
    slot = newest(max_age_ms=100)
    slot.put(frame(S))
    assert slot.take(S + 100_000_001) is None
    slot.put(frame(2 * S))
    assert slot.take(2 * S + 100_000_000) is not None
    assert (slot.captured, slot.processed, slot.dropped) == (2, 1, 1)


def test_a_cap_on_frames_a_second_is_met_on_average() -> None:
    slot = newest(fps=10)
    taken = 0
    for ms in range(10_000, 20_000, 33):  # 30 frames a second for 10 s, from 10 s on
        slot.put(frame(ms * 1_000_000))
        taken += slot.take(ms * 1_000_000) is not None
    assert 95 <= taken <= 101
    slot.put(frame(20 * S))
    assert 0 <= slot.due_s(20 * S) <= 0.1  # type: ignore[operator]


def test_another_size_is_told_and_one_that_does_not_fit_is_left_out() -> None:
    slot = newest(frame_size=(2, 2))
    slot.put(frame())
    event = slot.put(frame(shape=(4, 6)))
    assert event is not None
    assert (event.kind, dict(event.data)) == ("size", {"width": 6, "height": 4})
    assert "takes frames of 2x2 only, found 6x4" in event.reason
    assert slot.take() is None
    assert (event := slot.put(frame())) is not None
    assert event.reason == ""
    assert slot.take() is not None
    assert (slot.captured, slot.processed, slot.dropped) == (3, 1, 2)
    with pytest.raises(UsageError, match="takes frames of 2x2 only"):
        newest(frame_size=(2, 2)).put(frame(shape=(4, 6)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_limits_that_mean_nothing(value: float) -> None:
    with pytest.raises(UsageError, match="--fps"):
        Limits(fps=value)
    with pytest.raises(UsageError, match="--max-age"):
        Limits(max_age_ms=value)
    with pytest.raises(UsageError, match="--fps"):
        Limits(fps=1e-310)
