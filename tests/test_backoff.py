"""Waits between attempts."""

from __future__ import annotations

import random

from edge_retina.backoff import Backoff


class _Most(random.Random):
    def uniform(self, _low: float, high: float) -> float:
        return high


def test_doubles_up_to_a_cap_and_begins_anew_after_a_stream_that_lasted() -> None:
    backoff = Backoff(1.0, 8.0, _Most())
    assert [backoff.next_s() for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    assert backoff.next_s(lasted_s=7.9) == 8  # a server that takes and drops connections is not knocked at faster
    assert backoff.next_s(lasted_s=8.1) == 1
    backoff.attempts = 100_000
    assert backoff.next_s() == 8


def test_chance_shortens_by_half_at_most() -> None:
    waits = [Backoff(1.0, 8.0, random.Random(seed)).next_s() for seed in range(50)]
    assert all(0.5 <= wait <= 1.0 for wait in waits)
    assert len(set(waits)) == 50
