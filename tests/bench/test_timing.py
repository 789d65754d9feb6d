"""What is measured of a frame's time, on subjects whose times are known."""

from __future__ import annotations

import numpy as np
import pytest

from edge_retina.bench import NOISY, Subject, Timing, measure, percentiles
from edge_retina.errors import InputError

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Clock:
    """Subjects that take what they are told, by a clock that only they move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, object]] = []
        monkeypatch.setattr("edge_retina.bench.timing.time.perf_counter", lambda: self.now)

    def subject(self, name: str, *seconds: float, batch: int = 1) -> Subject:
        times = iter(seconds)

        def call(given: object) -> None:
            self.calls.append((name, given))
            self.now += next(times)

        return Subject(name, "told", call, batch)


def test_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="found none; give --source"):
        measure([Clock(monkeypatch).subject("a")], [])


def test_percentiles_by_hand() -> None:
    assert percentiles(range(1, 1002)) == {"p50_ms": 501, "p90_ms": 901, "p99_ms": 991, "p99_9_ms": 1000}


def test_warm_up_does_not_count_and_subjects_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    a = clock.subject("a", 9, 8, 0.001, 0.002, 0.003)
    b = clock.subject("b", 9, 8, 0.004, 0.004, 0.004)
    steps: list[tuple[int, int]] = []
    first, second = measure([a, b], [IMAGE], frames=3, rounds=2, warm_up=2, on_step=lambda *s: steps.append(s))
    assert [name for name, _ in clock.calls] == [*"aabb", *"aabb", *"ab"]
    assert first.latency_ms == pytest.approx((1, 2, 3))
    assert first.rounds_ms == pytest.approx((1.5, 3))
    assert first.warm_up_ms == pytest.approx((9000, 8000))
    assert second.latency_ms == pytest.approx((4, 4, 4))
    assert second.variation == pytest.approx(0)
    assert steps[-1] == (10, 10)
    assert second.to_json()["fps"] == 250
    assert second.counts == {}


def test_one_round_says_nothing_of_how_much_rounds_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    (only,) = measure([clock.subject("a", 0.001, 0.5)], [IMAGE], frames=2, rounds=1, warm_up=0)
    assert only.variation is None
    facts = only.to_json()
    assert (facts["variation"], facts["noisy"]) == (None, None)


def test_a_batch_is_a_list_and_counts_as_so_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    images = [np.full((1, 1, 3), value, np.uint8) for value in range(3)]
    (timing,) = measure([clock.subject("a", 0.004, 0.004, batch=2)], images, frames=2, rounds=1, warm_up=0)
    assert [[int(image[0, 0, 0]) for image in given] for _, given in clock.calls] == [[0, 1], [1, 2]]
    assert timing.fps == pytest.approx(500)
    assert (timing.to_json()["frames"], timing.to_json()["batch"]) == (4, 2)


def test_rounds_that_differ_are_called_noisy() -> None:
    assert Timing("m", "ort", (1.0, 2.0), (1.0, 2.0)).to_json()["noisy"]
    assert not Timing("m", "ort", (1.0, 1.0), (1.0, 1.0 + NOISY)).to_json()["noisy"]
