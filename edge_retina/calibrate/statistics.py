"""What calibration knows of a tensor, gathered frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_retina.calibrate.histogram import Histogram
from edge_retina.calibrate.probes import Reading
from edge_retina.errors import ModelError

__all__ = ["Accumulator", "TensorStatistics"]

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Of one tensor (B, C, H, W) over all frames.

    histogram: of magnitudes, of a sample. mean, energy, peak: float64 (C,), per channel the mean, the mean square of
    the sample, the largest magnitude.
    """

    histogram: Histogram
    mean: F64
    energy: F64
    peak: F64

    @property
    def maximum(self) -> float:
        """Largest magnitude."""
        return self.histogram.maximum


class Accumulator:
    """Gathers TensorStatistics; memory does not depend on how many frames there are."""

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._frames = 0
        self._sums: list[F64] = []

    def add(self, name: str, reading: Reading) -> None:
        """Take in what a probe read in one frame. Raises ModelError for NaN and infinity, naming the tensor."""
        peak = reading.peak.astype(np.float64)
        # A maximum may pass over NaN, a mean does not; of finite values a float32 mean may still be infinite.
        if not np.isfinite(peak).all() or np.isnan(reading.mean).any():
            raise ModelError(f"{name!r} is NaN or infinite on calibration frame {self._frames}: no INT8 code for it")
        some = reading.sample
        self._histogram.add(some, max(self._histogram.maximum, float(peak.max())))
        mean = reading.mean.astype(np.float64)
        if not np.isfinite(mean).all():
            mean = some.mean(1, dtype=np.float64)
        energy = np.square(some, dtype=np.float64).mean(1)
        if not self._sums:
            self._sums = [np.zeros_like(peak) for _ in range(3)]
        self._sums[0] += mean
        self._sums[1] += energy
        np.maximum(self._sums[2], peak, out=self._sums[2])
        self._frames += 1

    def result(self) -> TensorStatistics:
        """What was gathered; at least one frame must have come."""
        mean, energy, peak = self._sums
        return TensorStatistics(self._histogram, mean / self._frames, energy / self._frames, peak)
