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
I64 = npt.NDArray[np.int64]

# Values of one tensor in one frame that enter its histogram and means; the maximum is always exact.
SAMPLE = 1 << 16
# The real root of x^3 = x + 1.
_PLASTIC = 1.3247179572447460


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

    Of a large tensor some positions enter histogram and means, others with each frame, spread evenly over the picture;
    what is gathered does not depend on anything but the frames and their order.
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
        some = rows if rows.size <= SAMPLE else rows[:, self._positions(rows.shape, *values.shape[2:3])]
        self._histogram.add(some, max(self._histogram.maximum, float(peak.max())))
        mean = some.mean(1, dtype=np.float64)
        energy = np.einsum("cn,cn->c", some, some, dtype=np.float64) / some.shape[1]
        if not self._sums:
            self._sums = [np.zeros_like(peak) for _ in range(3)]
        self._sums[0] += mean
        self._sums[1] += energy
        np.maximum(self._sums[2], peak, out=self._sums[2])
        self._frames += 1

    def _positions(self, rows: tuple[int, ...], height: int = 1) -> I64:
        """Which columns of (C, H * W) to look at, by Roberts' R2 sequence: even in both directions, whatever the width.

        Every k-th position would do for no k: next to a multiple of the width it walks along a diagonal.
        """
        count, width = max(SAMPLE // rows[0], 1), rows[1] // height
        index = np.arange(self._frames * count, (self._frames + 1) * count)
        y, x = (np.floor(index / _PLASTIC**power % 1 * size) for power, size in ((1, height), (2, width)))
        return (y * width + x).astype(np.int64)

    def result(self) -> TensorStatistics:
        """What was gathered; at least one frame must have come."""
        mean, energy, peak = self._sums
        return TensorStatistics(self._histogram, mean / self._frames, energy / self._frames, peak)
