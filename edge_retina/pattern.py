"""The test:// source: bouncing shapes, the same on every machine, for a pipeline without a camera."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from urllib.parse import parse_qsl

import cv2
import numpy as np

from edge_retina.errors import UsageError
from edge_retina.types import U8, Frame

__all__ = ["Pattern"]

_DEFAULTS = {"size": "640x480", "fps": "30", "frames": "300", "seed": "0", "live": "0"}
_EXAMPLE = "test://?" + "&".join(f"{key}={value}" for key, value in _DEFAULTS.items())
_MAX_SIDE = 16384
_SHAPES = 6


@dataclass(frozen=True, slots=True)
class Pattern:
    """Options of a test pattern.

    width, height: pixels. fps: frames per second. frames: how many, 0 for no end.
    seed: other shapes and colours. live: keep real time, as a camera does.
    """

    width: int
    height: int
    fps: float
    frames: int
    seed: int
    live: bool

    @classmethod
    def parse(cls, query: str) -> Pattern:
        """Options from what follows test://, each of which may be left out. Raises UsageError."""
        given = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))
        unknown = sorted(given.keys() - _DEFAULTS.keys())
        if unknown or (query and not query.startswith("?")):
            found = f"unknown options {unknown}" if unknown else f"{query!r} where options start with ?"
            raise UsageError(f"test pattern: {found}; write it as {_EXAMPLE}")
        options = _DEFAULTS | given
        try:
            width, height = (int(side) for side in options["size"].split("x"))
            fps, frames, seed = float(options["fps"]), int(options["frames"]), int(options["seed"])
        except ValueError as exc:
            raise UsageError(
                f"test pattern: {query!r} holds a value that is no number; write it as {_EXAMPLE}"
            ) from exc
        sides_fit = 1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE
        if not (sides_fit and math.isfinite(fps) and fps > 0 and frames >= 0 and options["live"] in ("0", "1")):
            wanted = f"sides 1..{_MAX_SIDE}, fps above 0, frames 0 or more, live 0 or 1"
            raise UsageError(f"test pattern: wanted {wanted}, found {query!r}; write it as {_EXAMPLE}")
        return cls(width, height, fps, frames, seed, options["live"] == "1")

    def play(self, source: str) -> Generator[Frame, None, None]:
        """Frames 0, 1, ... at index / fps; in real time, stamped by the monotonic clock, where live."""
        start_ns = time.monotonic_ns()
        for index in range(self.frames) if self.frames else itertools.count():
            timestamp_ns = round(index * 1_000_000_000 / self.fps)
            if self.live:
                due_ns = start_ns + timestamp_ns
                time.sleep(max(0, due_ns - time.monotonic_ns()) / 1_000_000_000)
                timestamp_ns = time.monotonic_ns()
            yield Frame(self.image(index), index, timestamp_ns, source, live=self.live)

    def image(self, index: int) -> U8:
        """Frame `index`: uint8 (height, width, 3) BGR, discs, boxes and triangles on a grey slope."""
        shade = np.arange(self.height, dtype=np.uint32) * 64 // self.height + 40
        image = np.repeat(shade.astype(np.uint8), self.width * 3).reshape(self.height, self.width, 3)
        # random() is the one method whose sequence Python promises to keep.
        chance = random.Random(self.seed).random
        unit = min(self.height, self.width)
        for number in range(_SHAPES):
            radius = max(1, unit * (8 + int(chance() * 8)) // 100)
            x, y = (_bounce(int(chance() * 2 * side) + index * (1 + int(chance() * 5)), side) for side in self._sides)
            blue, green, red = (255 if channel == number % 3 else int(chance() * 200) for channel in range(3))
            if number % 3 == 0:
                cv2.circle(image, (x, y), radius, (blue, green, red), cv2.FILLED)
            elif number % 3 == 1:
                corners = (x - radius, y - radius), (x + radius, y + radius)
                cv2.rectangle(image, *corners, (blue, green, red), cv2.FILLED)
            else:
                triangle = np.array([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], np.int32)
                cv2.fillPoly(image, [triangle], (blue, green, red))
        return image

    @property
    def _sides(self) -> tuple[int, int]:
        return self.width, self.height


def _bounce(distance: int, side: int) -> int:
    """Where a point is that has run `distance` pixels to and fro between 0 and side - 1."""
    span = max(1, side - 1)
    return min(side - 1, span - abs(distance % (2 * span) - span))
