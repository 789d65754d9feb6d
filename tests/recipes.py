"""Random head tensors made from a seed, so that a golden file need hold only what torchvision made of them.

NumPy alone: fixtures/make_torchvision.py makes the same tensors where torchvision is installed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
ANCHORS = 9


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image's heads and the settings of its post-processing; `content` is (H, W) of the frame on the input."""

    seed: int
    classes: int
    input_size: tuple[int, int]
    content: tuple[int, int]
    level_shapes: tuple[tuple[int, int], ...]
    logit: tuple[float, float] = (-4.0, 1.5)  # mean, standard deviation
    shift: float = 0.5  # standard deviation of dx, dy
    scale: float = 0.3  # of dw, dh
    ties: bool = False
    score_threshold: float = 0.05
    top_k: int = 1000
    nms_iou: float = 0.5
    max_detections: int = 300

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """Per level (y, x), torchvision's rule: input size // grid size."""
        return tuple((self.input_size[0] // h, self.input_size[1] // w) for h, w in self.level_shapes)

    def heads(self) -> tuple[list[F32], list[F32]]:
        """Per level logits (A * K, H, W) and deltas (A * 4, H, W)."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        logits, deltas = [], []
        for h, w in self.level_shapes:
            noise = rng.standard_normal((ANCHORS * self.classes, h, w), dtype=np.float32)
            offsets = rng.standard_normal((ANCHORS, 4, h, w), dtype=np.float32)
            offsets *= np.float32([self.shift, self.shift, self.scale, self.scale])[None, :, None, None]
            logits.append(_tied(noise) if self.ties else noise * np.float32(self.logit[1]) + np.float32(self.logit[0]))
            deltas.append(offsets.reshape(ANCHORS * 4, h, w))
        return logits, deltas


def _tied(noise: F32) -> F32:
    """Only 0, 0.5 or 1, on anchors too far apart to suppress each other, so that no answer depends on tie order."""
    out = np.full_like(noise, -10)
    # With K = 5, channels 15..19 are the five classes of anchor 3: square, one anchor side from its neighbours here.
    out[15:20, ::4, ::4] = np.round(np.abs(noise[15:20, ::4, ::4])).clip(0, 2) / 2
    return out


def digest(case: Case) -> str:
    """Tells a changed random generator from a changed decoder."""
    data = b"".join(array.tobytes() for arrays in case.heads() for array in arrays)
    return hashlib.sha256(data).hexdigest()[:16]


_FIVE = ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))
_TWO = ((16, 20), (8, 10))

CASES: dict[str, Case] = {
    "none": Case(seed=1, classes=5, input_size=(128, 160), content=(128, 160), level_shapes=_TWO, logit=(-20.0, 0.5)),
    "two_levels": Case(seed=2, classes=5, input_size=(128, 160), content=(120, 160), level_shapes=_TWO),
    "five_levels": Case(
        seed=3, classes=5, input_size=(128, 160), content=(128, 143), level_shapes=_FIVE, logit=(-2.0, 1.0)
    ),
    "five_levels_91": Case(
        seed=4, classes=91, input_size=(128, 160), content=(101, 160), level_shapes=_FIVE, logit=(-6.0, 1.6)
    ),
    "all_above": Case(
        seed=5, classes=5, input_size=(128, 160), content=(128, 160), level_shapes=_TWO, logit=(1.0, 0.8)
    ),
    "few_kept": Case(
        seed=6,
        classes=5,
        input_size=(128, 160),
        content=(128, 160),
        level_shapes=_FIVE,
        logit=(-1.0, 2.0),
        score_threshold=0.3,
        top_k=100,
        nms_iou=0.3,
        max_detections=40,
    ),
    "zero_area": Case(
        seed=7, classes=5, input_size=(128, 160), content=(96, 160), level_shapes=_FIVE, logit=(-3.0, 1.0), shift=4.0
    ),
    "clamped": Case(
        seed=8, classes=5, input_size=(128, 160), content=(128, 160), level_shapes=_FIVE, logit=(-3.5, 1.0), scale=4.0
    ),
    "ties": Case(seed=9, classes=5, input_size=(128, 160), content=(128, 160), level_shapes=_TWO, ties=True, shift=0.1),
}
