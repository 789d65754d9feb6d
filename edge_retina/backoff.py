"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Backoff"]


@dataclass
class Backoff:
    """Waits that double from first_s to most_s, each shortened by chance to as little as half of it.

    By chance, so that all cameras of a switch that comes back do not knock at once.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    chance: random.Random = field(default_factory=random.Random, repr=False)
    attempts: int = 0

    def next_s(self, *, lasted_s: float = 0.0) -> float:
        """Seconds to wait before the next attempt. lasted_s: how long the last one worked; longer than its wait, and
        the waits begin anew.
        """
        if lasted_s > self._longest_s:
            self.attempts = 0
        longest_s = self._longest_s
        self.attempts += 1
        return longest_s * self.chance.uniform(0.5, 1.0)

    @property
    def _longest_s(self) -> float:
        return min(self.most_s, self.first_s * 2.0 ** min(self.attempts, 60))
