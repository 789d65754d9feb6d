"""torch's bilinear resize in NumPy, with torch's rounding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def resize(image: F32, height: int, width: int) -> F32:
    """interpolate(mode="bilinear") of a picture (H, W, C): half-pixel centres, no antialiasing, float32 coordinates.

    torch takes scale * (i + 1/2) - 1/2 in one fused step, rounded once. Here that is done in float64, which holds the
    product of two float32 exactly.
    """
    for axis, size in enumerate((height, width)):
        scale = np.float64(np.float32(image.shape[axis]) / np.float32(size))
        at = np.maximum(np.float32(scale * (np.arange(size) + 0.5) - 0.5), np.float32(0))
        low = at.astype(np.int64)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        share = (at - low.astype(np.float32)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image
