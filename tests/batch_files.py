"""Pictures and videos of noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def picture(path: Path, seed: int = 0) -> Path:
    """A PNG of noise, 64x48."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))
    return path


def video(path: Path, frames: int, seed: int = 0) -> Path:
    """A video of noise, 64x48, 25 frames a second."""
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    assert writer.isOpened()
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return path
