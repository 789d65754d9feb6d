"""Pictures that are nearly the same as an earlier one, told by a small thumbnail."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_retina.types import F32, U8

__all__ = ["NearDuplicates", "thumbnail"]

_THUMB = 128
_CELLS = 16  # a side of a signature; each cell the mean of 8 x 8 thumbnail pixels, which leaves no noise
_COARSE = 4
# Difference of two pictures relative to their contrast. Measured on the digits scenes: noise of sigma 8, JPEG quality
# 50 and half the resolution stay below 0.05; no two different pictures come below 0.65.
_NEARLY_SAME = 0.12
# Contrast below which a difference is taken for sensor noise, 0..255. Relative to contrast, so that dark pictures
# differ too; not below that, or two black frames would differ.
_LEAST_CONTRAST = 2.0


def thumbnail(image: U8) -> U8:
    """A uint8 (H, W, 3) image averaged down to uint8 (128, 128, 3), its aspect lost."""
    return np.asarray(cv2.resize(image, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA), np.uint8)


class NearDuplicates:
    """Remembers pictures by 16x16 colour means, 2 KB each, and tells which new one is nearly the same as one of them.

    Nearly the same: the root mean square difference of the means is at most 0.12 of their contrast.
    """

    def __init__(self) -> None:
        self._count = 0
        self._fine: npt.NDArray[np.float16] = np.empty((64, _CELLS * _CELLS * 3), np.float16)
        self._coarse: F32 = np.empty((64, _COARSE * _COARSE * 3), np.float32)
        self._contrast: F32 = np.empty(64, np.float32)  # squared

    def __len__(self) -> int:
        return self._count

    def add(self, thumb: U8) -> bool:
        """Remember a thumbnail, unless it is nearly the same as one remembered; True where it is new."""
        cells = _means(thumb.astype(np.float32), _CELLS)
        coarse = _means(cells, _COARSE).reshape(-1)
        contrast = np.float32(((cells - cells.mean((0, 1))) ** 2).mean())
        fine = cells.reshape(-1)
        known = slice(self._count)
        pair = np.maximum((self._contrast[known] + contrast) / 2, _LEAST_CONTRAST**2)
        limit = pair * np.float32(_NEARLY_SAME**2)
        # Means of means never differ more than the means: few pass this, and of those the rest is looked at.
        maybe = np.flatnonzero(_mean_square(self._coarse[known] - coarse) <= limit)
        if np.any(_mean_square(self._fine[maybe].astype(np.float32) - fine) <= limit[maybe]):
            return False
        if self._count == len(self._contrast):
            self._fine, self._coarse, self._contrast = (
                np.concatenate([a, np.empty_like(a)]) for a in (self._fine, self._coarse, self._contrast)
            )
        self._fine[self._count], self._coarse[self._count], self._contrast[self._count] = fine, coarse, contrast
        self._count += 1
        return True


def _means(image: F32, cells: int) -> F32:
    return np.asarray(cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)


def _mean_square(difference: F32) -> F32:
    return np.asarray(np.einsum("nd,nd->n", difference, difference) / difference.shape[1], np.float32)
