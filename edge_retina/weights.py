"""Weights in INT8: scales per output channel, codes, and what rounding them does to the mean of the output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_retina.types import F32

__all__ = ["LEVELS", "QuantizedWeight", "bias_shift", "half_scale", "quantize_weight"]

I8 = npt.NDArray[np.int8]
F64 = npt.NDArray[np.float64]

# int8, symmetric. -128 is never used: it has no positive counterpart.
LEVELS = 127
# The smallest normal float16; a smaller scale would lose precision as FP16.
LEAST_SCALE = 2.0**-14
# Where the search looks for a channel's scale, as a fraction of the one that clips nothing.
_FRACTIONS = np.linspace(0.6, 1.0, 41)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """codes: int8, the shape of the weight. scales: float32 (O,), per output channel, exact in float16."""

    codes: I8
    scales: F32

    def dequantized(self) -> F32:
        """The weight that the codes stand for."""
        return self.codes.astype(np.float32) * _columns(self.scales, self.codes.ndim)


def half_scale(scale: npt.ArrayLike) -> F32:
    """The nearest float16 to each scale, as float32, at least the smallest normal one.

    Every scale is rounded so before anything is quantized with it: an FP16 graph then holds the same numbers.
    """
    clamped = np.clip(np.asarray(scale, np.float32), LEAST_SCALE, np.finfo(np.float16).max)
    return clamped.astype(np.float16).astype(np.float32)


def quantize_weight(
    weight: F32, *, search: bool = True, energy: F64 | None = None, levels: int = LEVELS
) -> QuantizedWeight:
    """Round a weight (O, I, ...) to the nearest codes, with a scale per output channel.

    search: of 41 scales from 0.6 to 1.0 of the one that clips nothing, take each channel's with the least squared
    error, weighted by `energy`, the mean square of each input channel (I,), where it is known. levels: largest code.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    top = np.abs(flat).max(1, initial=0.0) / levels
    scales = half_scale(top)
    if search and flat.size:
        cost = _cost(weight, energy)
        least, room = np.full(len(flat), np.inf), np.empty_like(flat)
        for fraction in _FRACTIONS[::-1]:
            candidate = half_scale(top * fraction)
            lost = np.multiply(_round(flat, candidate, levels, room), candidate[:, None], out=room)
            error = np.square(np.subtract(flat, lost, out=room), out=room) @ cost
            better = error < least
            scales, least = np.where(better, candidate, scales), np.where(better, error, least)
    codes = _round(flat, scales, levels).astype(np.int8).reshape(weight.shape)
    return QuantizedWeight(codes, scales.astype(np.float32))


def bias_shift(weight: F32, quantized: QuantizedWeight, mean: F64) -> F32:
    """By how much quantized weights lower the mean of each output channel: float32 (O,), to be added to the bias.

    mean: of each input channel (I,), as the group's convolution sees it. Source: Nagel 2019, section 4.2, with the
    means measured instead of derived.
    """
    lost = weight.astype(np.float64) - quantized.dequantized()
    return np.asarray(lost.reshape(*lost.shape[:2], -1).sum(2) @ mean, np.float32)


def _cost(weight: F32, energy: F64 | None) -> F64:
    """Weight of each position's squared error."""
    inputs, positions = weight.shape[1], int(np.prod(weight.shape[2:]))
    return np.ones(inputs * positions) if energy is None else np.repeat(energy + 1e-12, positions)


def _round(flat: F64, scales: F32, levels: int, room: F64 | None = None) -> F64:
    """The codes as float64, in `room` where it is given."""
    codes = np.divide(flat, scales[:, None].astype(np.float64), out=room)
    return np.clip(np.rint(codes, out=codes), -levels, levels, out=codes)


def _columns(scales: F32, ndim: int) -> F32:
    return scales.reshape(-1, *[1] * (ndim - 1))
