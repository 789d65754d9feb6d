"""What calibration knows of a tensor, gathered frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_retina.calibrate.histogram import Histogram
from edge_retina.errors import ModelError
from edge_retina.types import F32

__all__ = ["Accumulator", "TensorStatistics"]

F64 = npt.NDArray[np.float64]

# Values of one tensor in one frame that enter its histogram and means; the maximum is always exact.
SAMPLE = 1 << 16


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Of one tensor (B, C, H, W) over all frames.

    histogram: of magnitudes. mean, energy, peak: float64 (C,), per channel the mean, mean square, largest magnitude.
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
    """Gathers TensorStatistics; memory does not depend on how many frames there are.

    Of a large tensor every k-th position enters histogram and means, another k-th of it with each frame, so that what
    is gathered does not depend on anything but the frames and their order.
    """

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._frames = 0
        self._sums: list[F64] = []

    def add(self, name: str, values: F32) -> None:
        """Take in (1, C, H, W). Raises ModelError for NaN and infinity, naming the tensor."""
        rows = values.reshape(values.shape[1], -1)
        peak = np.maximum(rows.max(1), -rows.min(1)).astype(np.float64)
        if not np.isfinite(peak).all():
            raise ModelError(f"{name!r} is NaN or infinite on calibration frame {self._frames}: no INT8 code for it")
        # Odd, or where the rows of a picture are a multiple of it a frame would show a few of its columns only.
        step = -(-rows.size // SAMPLE) | 1
        some = rows[:, self._frames % min(step, rows.shape[1]) :: step]
        self._histogram.add(some, max(self._histogram.maximum, float(peak.max())))
        mean = some.mean(1, dtype=np.float64)
        energy = np.einsum("cn,cn->c", some, some, dtype=np.float64) / some.shape[1]
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
