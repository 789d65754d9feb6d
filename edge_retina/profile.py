"""The optimisation profile of a plan: which batches and frame sizes it takes, and which it is tuned for."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from itertools import pairwise

from edge_retina.errors import UsageError

__all__ = ["MAX_BATCH", "MAX_SIDE", "Profile"]

MAX_BATCH, MAX_SIDE = 64, 16384
# The smallest frame that a plan for any frame size takes: below it the coarsest level of the pyramid is one cell.
_LEAST_SIDE = 64
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Profile:
    """The range of the `frames` input of one plan, and the shape whose kernels are timed.

    least, usual, most: (batch, height, width), pixels; no number of `least` above that of `usual`, none of `usual`
    above that of `most`. Raises UsageError for anything else, batches outside 1..64 and sides outside 1..16384.
    Source: TensorRT's IOptimizationProfile, MIN, OPT and MAX.
    """

    least: tuple[int, int, int]
    usual: tuple[int, int, int]
    most: tuple[int, int, int]

    def __post_init__(self) -> None:
        for field in fields(self):
            if not _is_shape(shape := getattr(self, field.name)):
                wanted = f"(batch 1..{MAX_BATCH}, height and width 1..{MAX_SIDE})"
                raise UsageError(f"profile: {field.name} wants {wanted}, found {repr(shape)[:80]}")
        for lower, higher in pairwise(field.name for field in fields(self)):
            if any(a > b for a, b in zip(getattr(self, lower), getattr(self, higher), strict=True)):
                found = f"{_text(getattr(self, lower))} and {_text(getattr(self, higher))}"
                raise UsageError(f"profile: {lower} wants no number above that of {higher}, found {found}")

    @classmethod
    def for_frames(
        cls,
        frame_size: tuple[int, int] | None,
        batch_max: int = 1,
        usual: tuple[int, int] = (720, 1280),
        most: tuple[int, int] = (2160, 3840),
    ) -> Profile:
        """What a bundle's frames call for: batches of 1 to batch_max, tuned for single frames.

        frame_size: (height, width) where only one is taken; usual and most are then not looked at. None: from 64x64,
        or `usual` where that is smaller, up to `most`; a `usual` beyond `most` is cut to it. Raises UsageError.
        """
        if frame_size is not None:
            return cls((1, *frame_size), (1, *frame_size), (batch_max, *frame_size))
        if not _is_shape((batch_max, *most)) or not _is_shape((1, *usual)):
            return cls((1, 1, 1), (1, *usual), (batch_max, *most))  # says what is wrong
        height, width = min(usual[0], most[0]), min(usual[1], most[1])
        least = min(_LEAST_SIDE, height), min(_LEAST_SIDE, width)
        return cls((1, *least), (1, height, width), (batch_max, *most))

    @classmethod
    def from_text(cls, text: str) -> Profile:
        """The profile whose `text` this is. Raises UsageError."""
        if re.fullmatch(r"\d{1,5}x\d{1,5}x\d{1,5}(\.\.\d{1,5}x\d{1,5}x\d{1,5}){2}", text, re.ASCII) is None:
            raise UsageError(f"profile: wants LEAST..USUAL..MOST, each BATCHxHEIGHTxWIDTH, found {text[:80]!r}")
        shapes = (tuple(map(int, part.split("x"))) for part in text.split(".."))
        return cls(*((batch, height, width) for batch, height, width in shapes))

    @property
    def text(self) -> str:
        """One line that tells profiles apart: "1x64x64..1x720x1280..4x2160x3840"."""
        return "..".join(_text(shape) for shape in (self.least, self.usual, self.most))

    def shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Shapes (batch, height, width, 3) of `frames`: least, usual and most, as set_shape takes them."""
        return tuple((*shape, _CHANNELS) for shape in (self.least, self.usual, self.most))

    def holds(self, batch: int, height: int, width: int) -> bool:
        """Whether a plan of this profile takes such frames."""
        numbers = zip(self.least, (batch, height, width), self.most, strict=True)
        return all(low <= number <= high for low, number, high in numbers)

    def covers(self, other: Profile) -> bool:
        """Whether a plan of this profile takes everything that one of the other takes."""
        return self.holds(*other.least) and self.holds(*other.most)


def _is_shape(shape: object) -> bool:
    limits = (MAX_BATCH, MAX_SIDE, MAX_SIDE)
    if not isinstance(shape, tuple) or len(shape) != len(limits):
        return False
    return all(type(number) is int and 1 <= number <= limit for number, limit in zip(shape, limits, strict=True))


def _text(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
