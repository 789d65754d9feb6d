"""A diverse choice of many frames: those that differ most from each other, each with the reason why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_retina.calibrate.duplicates import NearDuplicates, thumbnail
from edge_retina.errors import UsageError
from edge_retina.types import F32, U8, Frame

__all__ = ["Picked", "Picker", "Selection", "pick"]

# A frame is black where all but a thousandth of it is darker than this, blown out where all but a twentieth is
# brighter than that; luma, 0..255.
_BLACK, _WHITE = 16, 250
_LAYOUT, _TEXTURE, _LEVELS = 8, 4, 16
# Blocks of a descriptor and what their least spread is: below it a difference is noise and must not be blown up.
_BLOCKS = (
    ("colour", 2 * _LAYOUT**2, 1.0),  # a and b of Lab, 8x8 means
    ("layout", _LAYOUT**2, 1.0),  # L, 8x8 means
    ("brightness", _LEVELS, 0.01),  # luma histogram, cumulated: shifts count by how far they go
    ("texture", _TEXTURE**2, 0.05),  # log of the gradient, 4x4 means
)
# Picked fields of which an extreme is worth a word, and the words for the least and the most.
_EXTREMES = {
    "brightness": ("darkest so far", "brightest so far"),
    "contrast": ("lowest contrast so far", "highest contrast so far"),
    "texture": ("smoothest so far", "densest texture so far"),
    "colour": ("least colourful so far", "most colourful so far"),
}
# How far beyond those chosen before it an extreme must lie, in standard deviations of all candidates.
_NOTABLE = 0.25


@dataclass(frozen=True, slots=True)
class Picked:
    """One chosen frame, described.

    index: position in its source. name, path: of a still image or video file, else "". timestamp_ns: as in Frame.
    reason: why it was chosen, in words. distance: to the nearest frame chosen before it, in the units of pick(), None
    for the first. brightness, contrast: mean and standard deviation of luma, 0..1. texture: mean luma step to the
    next pixel of a 128x128 thumbnail, 0..1. colour: mean distance from grey, Lab a and b, 0..128 and a bit.
    """

    index: int
    name: str
    path: str
    timestamp_ns: int
    brightness: float
    contrast: float
    texture: float
    colour: float
    reason: str = ""
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What pick() found. picked: most different first. seen, near_duplicates, blank: frames looked at, and of these
    left out as nearly the same as an earlier one, and as black or blown out. wanted: how many were asked for.
    """

    picked: tuple[Picked, ...]
    seen: int
    near_duplicates: int
    blank: int
    wanted: int

    @property
    def smallest_distance(self) -> float | None:
        """Smallest distance between any two of the chosen; None for fewer than two."""
        # Each was farthest from those before it, so the last one is the closest call.
        return self.picked[-1].distance if self.picked else None


class Picker:
    """Candidates, gathered frame by frame; memory: 3 KB a candidate, never their pixels."""

    def __init__(self) -> None:
        self.seen = self.near_duplicates = self.blank = 0
        self._known = NearDuplicates()
        self._candidates: list[Picked] = []
        self._descriptors: list[F32] = []

    def __len__(self) -> int:
        return len(self._candidates)

    def add(self, frame: Frame) -> bool:
        """Take a frame as a candidate; False where it is black, blown out or nearly the same as an earlier one."""
        self.seen += 1
        thumb = thumbnail(frame.image)
        luma = np.asarray(cv2.cvtColor(thumb, cv2.COLOR_BGR2GRAY), np.uint8)
        if np.percentile(luma, 99.9) < _BLACK or np.percentile(luma, 5) > _WHITE:
            self.blank += 1
            return False
        if not self._known.add(thumb):
            self.near_duplicates += 1
            return False
        descriptor, facts = _describe(thumb, luma)
        self._descriptors.append(descriptor)
        self._candidates.append(Picked(frame.index, frame.name, frame.path, frame.timestamp_ns, **facts))
        return True

    def choose(self, count: int) -> Selection:
        """The `count` candidates that differ most, all where they are fewer. Raises UsageError for count below 1."""
        if count < 1:
            raise UsageError(f"pick wants to choose 1 frame or more, found {count}")
        picked: tuple[Picked, ...] = ()
        if self._candidates:
            points = _standardised(np.stack(self._descriptors))
            order, nearest, distances = _farthest_first(points, count)
            picked = tuple(self._explained(points, order, nearest, distances))
        return Selection(picked, self.seen, self.near_duplicates, self.blank, count)

    def thin(self, count: int) -> set[int]:
        """Keep the `count` candidates that differ most; returns the index of each frame that is none any more."""
        if len(self) <= count:
            return set()
        order, _, _ = _farthest_first(_standardised(np.stack(self._descriptors)), count)
        before = {candidate.index for candidate in self._candidates}
        self._descriptors = [self._descriptors[i] for i in sorted(order)]
        self._candidates = [self._candidates[i] for i in sorted(order)]
        return before - {candidate.index for candidate in self._candidates}

    def _explained(self, points: F32, order: list[int], nearest: list[int], distances: list[float]) -> Iterable[Picked]:
        values = np.array([[getattr(c, name) for name in _EXTREMES] for c in self._candidates])
        spread = np.maximum(values.std(0), 1e-6)
        yield replace(self._candidates[order[0]], reason="most typical of all")
        for rank, (i, near, distance) in enumerate(zip(order[1:], nearest[1:], distances[1:], strict=True), start=1):
            before = values[order[:rank]]
            beyond = np.stack([before.min(0) - values[i], values[i] - before.max(0)]) / spread
            side, kind = np.unravel_index(int(beyond.argmax()), beyond.shape)
            if beyond[side, kind] > _NOTABLE:
                reason = list(_EXTREMES.values())[kind][side]
            else:
                other = self._candidates[near]
                reason = f"unlike {other.name or f'frame {other.index}'} in {_main_block(points[i] - points[near])}"
            yield replace(self._candidates[i], reason=reason, distance=round(distance, 4))


def pick(
    frames: Iterable[Frame], count: int, *, every: int = 1, on_frame: Callable[[Frame], None] = lambda _: None
) -> Selection:
    """The `count` frames that differ most from each other: farthest-point (greedy k-centre) selection.

    Of near duplicates the first stays; black and blown-out frames go. A frame is described by its 8x8 Lab means, its
    luma histogram and the gradients of a thumbnail; each block has unit spread over all candidates and equal weight,
    and distance is Euclidean, so that two candidates lie 2.8 apart in root mean square. The same frames give the same
    choice. every: look at each K-th frame only. Raises UsageError.
    Source: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance".
    """
    if every < 1 or count < 1:
        raise UsageError(f"pick wants to choose 1 frame or more of each 1st or later, found {count} and {every}")
    picker = Picker()
    for number, frame in enumerate(frames):
        if number % every == 0:
            picker.add(frame)
        on_frame(frame)
    return picker.choose(count)


def _describe(thumb: U8, luma: U8) -> tuple[F32, dict[str, Any]]:
    """Descriptor float32 (224,), and brightness, contrast, texture and colour for Picked."""
    lab = cv2.cvtColor(thumb.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
    light = luma.astype(np.float32)
    step = np.abs(np.diff(light, axis=0, append=light[-1:])) + np.abs(np.diff(light, axis=1, append=light[:, -1:]))
    means = _means(lab, _LAYOUT)
    levels = np.cumsum(np.bincount(luma.reshape(-1) // (256 // _LEVELS), minlength=_LEVELS)) / luma.size
    blocks = (means[..., 1:], means[..., 0], levels, np.log(_means(step, _TEXTURE) + 1))
    facts = {
        "brightness": round(float(light.mean()) / 255, 4),
        "contrast": round(float(light.std()) / 255, 4),
        "texture": round(float(step.mean()) / 2 / 255, 4),
        "colour": round(float(np.hypot(lab[..., 1], lab[..., 2]).mean()), 2),
    }
    return np.concatenate([np.asarray(block, np.float32).reshape(-1) for block in blocks]), facts


def _means(image: npt.NDArray[Any], cells: int) -> F32:
    return np.asarray(cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)


def _block_slices() -> Iterable[tuple[str, slice, float]]:
    ends = np.cumsum([0] + [width for _, width, _ in _BLOCKS]).tolist()
    for (name, _, least), (start, end) in zip(_BLOCKS, pairwise(ends), strict=True):
        yield name, slice(start, end), least


def _standardised(descriptors: F32) -> F32:
    """Each block centred and divided by its spread, one number a block: a cell that hardly varies stays small."""
    points: F32 = descriptors - descriptors.mean(0, dtype=np.float32)
    for _, block, least in _block_slices():
        width = block.stop - block.start
        spread = max(float(np.sqrt((points[:, block] ** 2).mean())), least)
        points[:, block] /= np.float32(spread * width**0.5)
    return points


def _farthest_first(points: F32, count: int) -> tuple[list[int], list[int], list[float]]:
    """Rows of (N, D) in order of choice, the earlier one nearest to each, and the distance to it.

    The first is the row nearest to the mean; of equals the earlier row goes first.
    """
    order = [int(np.linalg.norm(points, axis=1).argmin())]
    near, distances = [order[0]], [0.0]
    nearest = np.full(len(points), order[0])
    distance = np.linalg.norm(points - points[order[0]], axis=1)
    while len(order) < min(count, len(points)):
        distance[order[-1]] = -1.0  # else rows that are equal in all would be chosen twice
        i = int(distance.argmax())
        order.append(i)
        near.append(int(nearest[i]))
        distances.append(float(distance[i]))
        new = np.linalg.norm(points - points[i], axis=1)
        closer = new < distance
        nearest[closer], distance[closer] = i, new[closer]
    return order, near, distances


def _main_block(difference: F32) -> str:
    """Name of the block that makes up most of a difference of two points."""
    return max(_block_slices(), key=lambda item: float((difference[item[1]] ** 2).sum()))[0]
