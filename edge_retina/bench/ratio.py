"""How many times as fast as another, and between which bounds that lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LEAST_ROUNDS", "Ratio", "speed_ratio"]

# Fewer rounds say nothing of how much a ratio moves.
LEAST_ROUNDS = 3
_DRAWS = 2000
_BOUNDS = (2.5, 97.5)


@dataclass(frozen=True)
class Ratio:
    """Above 1: faster than what it is compared with. low, high: 95 % confidence interval, None of too few rounds."""

    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """Such as "1.31 x (1.29 to 1.34)"."""
        return f"{self.value:.2f} x" + ("" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})")


def speed_ratio(first_ms: Sequence[float], other_ms: Sequence[float], *, seed: int = 0) -> Ratio:
    """How many times as fast the other is: the median, over rounds, of first / other, bootstrapped over rounds.

    first_ms, other_ms: each round's milliseconds for a frame, taken in turn, so that what slows the machine for a while
    slows both; as many of one as of the other.
    """
    ratios = np.array(first_ms, np.float64) / np.array(other_ms, np.float64)
    value = float(np.median(ratios))
    if len(ratios) < LEAST_ROUNDS:
        return Ratio(value, None, None)
    draws = np.random.default_rng(seed).integers(0, len(ratios), (_DRAWS, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), _BOUNDS)
    return Ratio(value, float(low), float(high))
