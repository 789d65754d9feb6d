"""Streaming histograms of magnitudes, and the ranges that INT8 makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from edge_retina.errors import UsageError
from edge_retina.types import F32
from edge_retina.weights import LEVELS

__all__ = ["BINS", "METHODS", "Histogram", "best_range"]

BINS = 4096
_FRACTIONS = np.linspace(0.02, 1.0, 197)
_PERCENTILE = 99.99
_LARGE = 2.0**100

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


class Histogram:
    """Counts of |x| in BINS equal bins over [0, 2^exponent), which doubles when a larger value comes.

    The bins' edges depend on the largest value only, so the counts do not depend on the order of the values, and at
    least half of the bins lie below the maximum.
    """

    def __init__(self, counts: I64 | None = None, maximum: float = 0.0) -> None:
        self.counts = np.zeros(BINS, np.int64) if counts is None else counts
        self.maximum = maximum

    @property
    def width(self) -> float:
        """Of one bin."""
        return math.ldexp(1.0, _exponent(self.maximum)) / BINS

    def add(self, values: F32, maximum: float | None = None) -> None:
        """Count values, any shape, finite. maximum: of all magnitudes where `values` is a sample of them."""
        sizes = np.abs(values).ravel()
        self._grow(float(sizes.max(initial=0.0)) if maximum is None else maximum)
        # A power of two, so float32 is exact; float64 holds that of the smallest float32 as well.
        scale = 1 / self.width
        scaled = sizes * (np.float32(scale) if scale < _LARGE else np.float64(scale))
        self.counts += np.bincount(scaled.astype(np.int64), minlength=BINS)

    def merge(self, other: Histogram) -> Histogram:
        """A histogram of both."""
        both, more = Histogram(self.counts.copy(), self.maximum), Histogram(other.counts.copy(), other.maximum)
        both._grow(other.maximum)
        more._grow(self.maximum)
        both.counts += more.counts
        return both

    def centres(self) -> F64:
        """Of the bins; 0 for the first, where a ReLU puts half of its values."""
        centres: F64 = (np.arange(BINS, dtype=np.float64) + 0.5) * self.width
        centres[0] = 0.0
        return centres

    def _grow(self, maximum: float) -> None:
        if maximum <= self.maximum:
            return
        doublings = _exponent(maximum) - _exponent(self.maximum) if self.maximum > 0 else 0
        for _ in range(min(doublings, BINS.bit_length())):
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([pairs, np.zeros(BINS // 2, np.int64)])
        self.maximum = maximum


def _exponent(maximum: float) -> int:
    """The least e with maximum < 2^e."""
    return math.frexp(maximum)[1] if maximum > 0 else 0


def _max(histogram: Histogram) -> float:
    return histogram.maximum


def _percentile(histogram: Histogram) -> float:
    """The magnitude that 99.99 % of the values do not exceed."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    last = int(np.searchsorted(share, _PERCENTILE / 100))
    return min((last + 1) * histogram.width, histogram.maximum)


def _mse(histogram: Histogram) -> float:
    """The range with the least mean squared error of rounding and clipping together."""
    # The largest first: of equals, as where none but zeros were counted, it is the one that clips least.
    candidates = histogram.maximum * _FRACTIONS[::-1]
    return float(candidates[int(np.argmin(squared_errors(histogram, candidates)))])


def squared_errors(histogram: Histogram, limits: Iterable[float]) -> list[float]:
    """Sum of squared errors of the counted values in INT8 with each range [-limit, limit]."""
    used = histogram.counts > 0
    centres, counts = histogram.centres()[used], histogram.counts[used].astype(np.float64)
    errors = []
    for limit in limits:
        step = limit / LEVELS
        values = np.rint(centres / step)
        np.minimum(values, LEVELS, out=values)
        values *= step
        # Inside a bin the values spread; it only matters where a bin is as wide as a step.
        values -= centres
        errors.append(float(counts @ np.square(values, out=values)))
    return errors


def _entropy(histogram: Histogram) -> float:
    """The range with the least Kullback-Leibler divergence between values and codes (Migacz, GTC 2017)."""
    # As there: 2,048 bins, and the bin of exact zeros says nothing about the range.
    counts = histogram.counts.reshape(-1, 2).sum(1).astype(np.float64)
    counts[0] = counts[1]
    if not counts.any():
        return histogram.maximum
    top = int(np.flatnonzero(counts)[-1]) + 1
    best, found = math.inf, top
    for stop in range(top, LEVELS, -4):
        divergence = _divergence(counts[:stop], float(counts[stop:].sum()))
        if divergence < best:
            best, found = divergence, stop
    return min(found * 2 * histogram.width, histogram.maximum)


def _divergence(kept: F64, outside: float) -> float:
    wanted = kept.copy()
    wanted[-1] += outside
    level = np.arange(len(kept)) * (LEVELS + 1) // len(kept)
    filled = kept > 0
    total = np.bincount(level, kept, LEVELS + 1)
    held = np.bincount(level, filled, LEVELS + 1)
    coded = np.where(filled, (total / np.maximum(held, 1))[level], 0.0)
    p, q = wanted / wanted.sum(), coded / max(coded.sum(), 1e-300)
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))))


METHODS: dict[str, Callable[[Histogram], float]] = {
    "mse": _mse,
    "max": _max,
    "percentile": _percentile,
    "entropy": _entropy,
}


def best_range(histogram: Histogram, method: str = "mse") -> float:
    """The magnitude that gets code 127, by one of METHODS; 0.0 for a tensor that is zero throughout.

    Raises UsageError for another method.
    """
    if method not in METHODS:
        raise UsageError(f"unknown calibration method {method!r}; use one of {', '.join(METHODS)}")
    return METHODS[method](histogram) if histogram.maximum > 0 else 0.0
