"""How many times as fast, and between which bounds."""

from __future__ import annotations

import numpy as np
import pytest

from edge_retina.bench.ratio import LEAST_ROUNDS, speed_ratio


def test_too_few_rounds_have_no_bounds() -> None:
    ratio = speed_ratio([4.0] * (LEAST_ROUNDS - 1), [2.0] * (LEAST_ROUNDS - 1))
    assert (ratio.value, ratio.low, ratio.high) == (2.0, None, None)
    assert ratio.text == "2.00 x"


def test_what_slows_both_alike_does_not_widen_the_bounds() -> None:
    slowed = np.array([1.0, 1.5, 1.0, 3.0, 1.2])
    ratio = speed_ratio(4 * slowed, 2 * slowed)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert ratio.text == "2.00 x (2.00 to 2.00)"


def test_bounds_hold_the_true_ratio_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        first, other = 3 * rng.lognormal(0, 0.05, 10), 2 * rng.lognormal(0, 0.05, 10)
        ratio = speed_ratio(first, other, seed=seed)
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= 1.5 <= ratio.high
    assert 180 <= held <= 200  # 95 % of 200, and what a bootstrap of ten rounds leaves
