"""Histograms of magnitudes, and the INT8 ranges made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_retina.calibrate.histogram import BINS, METHODS, Histogram, best_range, squared_errors
from edge_retina.errors import UsageError

RNG = np.random.default_rng(0)


def histogram(*parts: Any) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(np.asarray(part, np.float32))
    return made


def counts(made: Histogram) -> dict[int, int]:
    return {int(i): int(made.counts[i]) for i in np.flatnonzero(made.counts)}


@pytest.mark.parametrize("parts", [(), ([],), ([0.0, -0.0, 0.0],)])
def test_nothing_but_zeros(parts):
    made = histogram(*parts)
    assert made.maximum == 0.0
    assert made.counts.sum() == sum(len(part) for part in parts)
    assert {method: best_range(made, method) for method in METHODS} == dict.fromkeys(METHODS, 0.0)


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        # Bins over [0, 1): 0.75 is 0.75 * 4096 = 3072.
        ([0.75, -0.75, 0.0], 1 / 4096, {0: 1, 3072: 2}),
        # 1 does not lie in [0, 1), so [0, 2): 0.5 * 4096; and the value just below it one bin lower.
        ([1.0], 2 / 4096, {2048: 1}),
        ([1.0, np.nextafter(np.float32(1), np.float32(0))], 2 / 4096, {2047: 1, 2048: 1}),
        # [0, 4) by the 3; bins of 1/1024.
        ([3.0, 1.0, 1 / 1024, 0.9 / 1024], 1 / 1024, {0: 1, 1: 1, 1024: 1, 3072: 1}),
    ],
)
def test_bins_by_hand(values, width, expected):
    made = histogram(values)
    assert made.width == width
    assert counts(made) == expected
    assert made.maximum == max(abs(v) for v in values)


def test_a_larger_value_doubles_the_range_as_often_as_it_takes():
    made = histogram([0.75, 0.001])  # bins 3072, 4 of [0, 1)
    made.add(np.float32([6.0]))  # [0, 8): three doublings, 3072 / 8 and 4 / 8; 6 is 6 / 8 of 4096
    assert counts(made) == {0: 1, 384: 1, 3072: 1}
    made.add(np.float32([6e9]))  # thirty more: all below it is in bin 0
    assert counts(made)[0] == 3
    assert made.maximum == np.float32(6e9)


@pytest.mark.parametrize("value", [1e-45, 1e-42, 1.1754944e-38, 1e-30, 1e-3, 1.0, 1e6, 1e30, 3.4028235e38])
def test_every_magnitude_of_float32(value):
    made = histogram([value, -value, 0.0])
    top = int(np.flatnonzero(made.counts)[-1])
    assert made.counts.tolist()[0] == 1
    assert made.counts[top] == 2
    assert BINS // 2 <= top < BINS
    assert top * made.width <= float(np.float32(value)) < (top + 1) * made.width
    for method in METHODS:
        assert best_range(made, method) == pytest.approx(float(np.float32(value)), rel=1 / 64)


def test_from_the_smallest_to_the_largest():
    made = histogram([1e-45], [3e38], [1e-45])
    assert counts(made) == {0: 2, int(3e38 / 2**128 * BINS): 1}


def test_a_maximum_that_was_not_sampled_decides_the_bins():
    made = Histogram()
    made.add(np.float32([0.25]), maximum=3.5)
    assert made.maximum == 3.5
    assert counts(made) == {256: 1}  # of [0, 4)


@pytest.mark.parametrize("method", METHODS)
def test_samples_without_the_maximum_still_give_a_range(method):
    """A tensor of zeros whose one large value no sample caught: nothing says that it may be clipped."""
    made = Histogram()
    made.add(np.zeros(1000, np.float32), maximum=5.0)
    if method == "percentile":
        assert best_range(made, method) == made.width
    else:
        assert best_range(made, method) == 5.0


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Ties of the exponent, exact powers of two and values far apart.
spread = st.one_of(floats, st.integers(-149, 127).map(lambda e: math.ldexp(1.0, e)), st.just(0.0))


@given(st.lists(spread, max_size=30), st.randoms(use_true_random=False), st.integers(1, 5))
def test_neither_order_nor_division_matters(values, random, pieces):
    whole = histogram(values)
    shuffled = list(values)
    random.shuffle(shuffled)
    parts = [shuffled[i::pieces] for i in range(pieces)]
    added = histogram(*parts)
    merged = Histogram()
    for part in parts:
        merged = merged.merge(histogram(part))
    for other in (added, merged):
        assert other.maximum == whole.maximum
        assert counts(other) == counts(whole)


def test_merging_leaves_both_as_they_were():
    small, large = histogram([0.75, 0.25]), histogram([6.0])
    for both in (small.merge(large), large.merge(small)):
        assert counts(both) == {128: 1, 384: 1, 3072: 1}
        assert both.maximum == 6.0
    assert counts(small) == {1024: 1, 3072: 1}
    assert (small.maximum, large.maximum) == (0.75, 6.0)
    alone = small.merge(Histogram())
    alone.add(np.float32([0.0]))
    assert (alone.counts.sum(), small.counts.sum()) == (3, 2)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("max", 3.0),
        # 9,999 of 10,000 lie at or below 1.5: the upper edge of its bin, [0, 4) in 4,096.
        ("percentile", 1.5 + 4 / BINS),
    ],
)
def test_ranges_by_hand(method, expected):
    made = histogram(np.full(9_999, 1.5), [-3.0])
    assert best_range(made, method) == pytest.approx(expected)


def test_percentile_is_never_above_the_maximum():
    assert best_range(histogram([1.0] * 100), "percentile") == 1.0


def test_squared_error_by_hand():
    """Range 127, steps of 1, bins of 256 / 4096 = 1/16, whose centres are their lower edges and 1/32."""
    made = histogram([10.25, 10.25, 200.0])
    rounding, clipping = 0.25 + 1 / 32, 200 + 1 / 32 - 127
    assert squared_errors(made, [127.0]) == [pytest.approx(2 * rounding**2 + clipping**2)]


def test_mse_keeps_a_uniform_tensor_and_clips_a_heavy_tail():
    uniform = histogram(RNG.uniform(-1, 1, 100_000))
    assert best_range(uniform) == pytest.approx(uniform.maximum, rel=0.02)
    tail = histogram(RNG.standard_t(3, 100_000))
    assert best_range(tail) < 0.7 * tail.maximum
    # A Gaussian clipped at 8 bits: about four standard deviations (Banner 2019, table 1: 3.92 with 256 codes).
    gauss = histogram(RNG.standard_normal(1_000_000))
    assert 3.6 < best_range(gauss) < 4.4


@pytest.mark.parametrize("shape", ["laplace", "standard_normal", "standard_cauchy", "exponential", "uniform"])
def test_mse_is_the_least_error_of_the_tensor_itself(shape):
    """Against rounding the values, not their histogram: no fraction of the maximum does 1 % better."""
    values = getattr(RNG, shape)(size=20_000).astype(np.float32)
    made = histogram(values)

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.square(values - np.clip(np.rint(values / step), -127, 127) * step).sum(dtype=np.float64))

    chosen = error(best_range(made))
    assert chosen <= 1.01 * min(error(made.maximum * f) for f in np.linspace(0.02, 1, 99))
    assert chosen <= error(best_range(made, "max")) * 1.001


def test_error_grows_with_the_range_where_nothing_is_clipped():
    made = histogram(RNG.uniform(-1, 1, 50_000))
    errors = squared_errors(made, (1.0, 2.0, 4.0, 8.0))
    assert errors == sorted(errors)
    # Rounding noise is step squared / 12.
    assert errors[0] == pytest.approx(50_000 * (1 / 127) ** 2 / 12, rel=0.05)


def divergence_of(made: Histogram, size: int) -> float:
    """Migacz's slides, bin by bin: the first `size` of 2,048 bins against the 128 levels that stand for them."""
    bins = made.counts[0::2] + made.counts[1::2]
    bins[0] = bins[1]
    starts = [-(-level * size // 128) for level in range(128)]
    levels = np.split(bins[:size].astype(float), starts[1:])
    q = np.concatenate([np.where(level > 0, level.sum() / max((level > 0).sum(), 1), 0) for level in levels])
    p = bins[:size].astype(float)
    p[-1] += bins[size:].sum()
    p, q = p / p.sum(), q / q.sum()
    return float(sum(a * math.log(a / max(b, 1e-12)) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a))


@pytest.mark.parametrize("shape", ["laplace", "standard_normal", "standard_t"])
def test_entropy_against_a_plain_implementation(shape):
    """Every fourth size is tried, so what is found is hardly above the least of all."""
    rng = np.random.default_rng(5)
    made = histogram(rng.standard_t(5, 20_000) if shape == "standard_t" else getattr(rng, shape)(size=20_000))
    top = int(np.flatnonzero(made.counts)[-1]) // 2 + 1
    size = best_range(made, "entropy") / (2 * made.width)
    assert size == round(size)
    assert 128 <= size < top
    assert divergence_of(made, round(size)) <= 1.05 * min(divergence_of(made, n) for n in range(128, top, 7))


def test_entropy_clips_an_outlier():
    made = histogram(RNG.uniform(-1, 1, 100_000), [30.0])
    assert best_range(made, "entropy") < 4.0


def test_an_unknown_method():
    with pytest.raises(UsageError, match=r"'median'; use one of mse, max, percentile, entropy"):
        best_range(histogram([1.0]), "median")


@settings(deadline=None, max_examples=50)
@given(arrays(np.float32, st.integers(1, 50), elements=floats), st.sampled_from(sorted(METHODS)))
def test_a_range_is_positive_and_not_beyond_the_maximum(values, method):
    made = histogram(values)
    found = best_range(made, method)
    assert 0.0 <= found <= made.maximum
    assert (found > 0) == bool(values.any())
