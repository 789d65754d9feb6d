"""How long a frame takes, where that time goes, and how far the numbers can be trusted."""

from __future__ import annotations

from edge_retina.bench.timing import NOISY, Subject, Timing, measure, percentiles

__all__ = ["NOISY", "Subject", "Timing", "measure", "percentiles"]
