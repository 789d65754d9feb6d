"""Stable numbers for objects: ByteTrack of Roboflow's `trackers`, one per camera, and what is known of each track.

Why trackers, extra `track`: Apache-2.0, released monthly, takes capture times (so that a camera that drops frames or
comes back does not confuse it) and needs no torch; it brings supervision, whose own ByteTrack it replaces. Norfair and
motpy are no longer maintained, boxmot is AGPL-3.0 and needs torch.

A slow detector sees an object far from where it was. So boxes are widened before they are compared (BIoU; Yang et al.
2023), the more the longer ago the last frame was. By how much, and from which score on rows help, is measured by
benchmarks/tracking.py: docs/streams.md.

A detector may give one object twice under two names, and ByteTrack would then swap their numbers for ever: of rows that
overlap by more than `same_iou` only the best is tracked, whatever its name. A track's name is what it was called most.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.boxes import nms
from edge_retina.errors import MissingPackage, UsageError
from edge_retina.types import Detections, Frame

__all__ = ["Track", "TrackChange", "Tracker"]

# ByteTrack counts its patience in frames of this rate.
_BUFFER_FPS = 30
# Boxes are widened by this share of their sides per second beyond 1/25 since the last frame, on each side.
_WIDENED_PER_S, _NEAR_S, _WIDEST = 8.0, 0.04, 0.8


@dataclass(slots=True)
class Track:
    """One object that was followed. id: from 1, of its camera, never given again. frames: it was seen in.

    first_s, last_s: seconds by the clock of its frames. box: x1 y1 x2 y2, pixels, when last seen.
    """

    id: int
    camera: str
    first_s: float
    last_s: float
    frames: int = 0
    names: Counter[str] = field(default_factory=Counter)
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @property
    def name(self) -> str:
        """The name it had most often."""
        return self.names.most_common(1)[0][0]

    @property
    def seconds(self) -> float:
        """From the first to the last time it was seen."""
        return self.last_s - self.first_s


@dataclass(frozen=True, slots=True)
class TrackChange:
    """Tracks of one camera after a frame: here now, of these the new ones, and those given up."""

    here: tuple[Track, ...] = ()
    new: tuple[Track, ...] = ()
    gone: tuple[Track, ...] = ()


class Tracker:
    """Follows the objects of each camera.

    fps: frames per second where frames say no time. start_score: a detection from which a track may begin, those below
    only continue one; least_score: those below it are not looked at. patience_s: how long an unseen object keeps its
    number. same_iou: see the module.
    Raises MissingPackage without trackers, UsageError for numbers out of range. Not thread-safe.
    """

    def __init__(
        self,
        *,
        fps: float = 30.0,
        start_score: float = 0.5,
        least_score: float = 0.2,
        patience_s: float = 1.0,
        same_iou: float = 0.5,
    ) -> None:
        scores_fit = 0 <= start_score <= 1 and 0 <= least_score <= 1
        if not (0 < fps <= 1000 and scores_fit and 0 <= patience_s <= 600 and 0 < same_iou <= 1):
            raise UsageError(
                f"a tracker wants fps in 0..1000, start_score and least_score in 0..1, patience_s in 0..600 and "
                f"same_iou in 0..1, found {fps}, {start_score}, {least_score}, {patience_s} and {same_iou}"
            )
        self._fps, self._patience_s, self._same_iou = fps, patience_s, same_iou
        # As scores are: 0.9 is a little more than the 0.9 of 32 bits.
        self._start_score = float(np.float32(start_score))
        self._least_score = np.float32(min(least_score, start_score))
        self._cameras: dict[str, _Camera] = {}
        self._bytetrack()  # to hear at once that it is not installed

    def update(self, frame: Frame, detections: Detections) -> Detections:
        """The same rows, with track_ids: -1 for those that are too new, too faint or another's double."""
        return self.follow(frame, detections)[0]

    def follow(self, frame: Frame, detections: Detections) -> tuple[Detections, TrackChange]:
        """As update, and what that changed."""
        camera = self._cameras.setdefault(frame.camera, _Camera(frame.camera))
        gone = []
        if camera.shape != detections.shape:  # boxes of another picture size cannot be compared
            gone += camera.end()
            camera.shape, camera.tracks = detections.shape, self._bytetrack()
        now_s = frame.timestamp_ns / 1e9
        if now_s <= camera.now_s:  # still images, or a container that does not know
            now_s = camera.now_s + 1 / self._fps
        since_s = now_s - camera.now_s
        camera.now_s = now_s
        camera.tracks.iou.buffer_ratio = min(_WIDEST, _WIDENED_PER_S * max(0.0, since_s - _NEAR_S))
        ids = np.full(len(detections), -1, np.int32)
        rows = nms(detections.xyxy, detections.labels, self._same_iou, class_aware=False, limit=len(detections))
        rows = rows[detections.scores[rows] >= self._least_score]
        found, alive = _assign(camera.tracks, detections, rows, now_s)
        ids[rows] = np.where(found >= 0, found + camera.first_id, -1)
        tracked = dataclasses.replace(detections, track_ids=ids)
        here, new = camera.note(tracked, now_s)
        gone += camera.forget({int(i) + camera.first_id for i in alive})
        return tracked, TrackChange(tuple(here), tuple(new), tuple(gone))

    def finish(self) -> list[TrackChange]:
        """All that are still followed are gone; one change per camera."""
        return [TrackChange(gone=tuple(camera.end())) for camera in self._cameras.values()]

    def _bytetrack(self) -> Any:
        try:
            from trackers import BIoU, ByteTrackTracker
        except ImportError as exc:
            raise MissingPackage("tracking needs trackers; run: pip install 'edge-retina[track]'") from exc
        return ByteTrackTracker(
            lost_track_buffer=round(self._patience_s * _BUFFER_FPS),
            frame_rate=self._fps,
            track_activation_threshold=self._start_score,
            high_conf_det_threshold=self._start_score,
            iou=BIoU(0.0),
        )


class _Camera:
    """The tracks of one camera; ByteTrack's own numbers begin at 0 with each of its lives."""

    def __init__(self, name: str) -> None:
        self.name, self.now_s, self.first_id = name, float("-inf"), 1
        self.shape: tuple[int, int] | None = None
        self.tracks: Any = None
        self._known: dict[int, Track] = {}
        self._last_id = 0

    def note(self, tracked: Detections, now_s: float) -> tuple[list[Track], list[Track]]:
        """Tracks seen in this frame, and of these the new ones."""
        here, new = [], []
        for row in tracked:
            if row.track_id is None or row.track_id < 0:
                continue
            track = self._known.get(row.track_id)
            if track is None:
                track = self._known[row.track_id] = Track(row.track_id, self.name, now_s, now_s)
                self._last_id = max(self._last_id, row.track_id)
                new.append(track)
            track.last_s, track.box = now_s, row.xyxy
            track.frames += 1
            track.names[row.name] += 1
            here.append(track)
        return here, new

    def forget(self, alive: set[int]) -> list[Track]:
        """Tracks that are not alive any more."""
        return [self._known.pop(number) for number in sorted(self._known.keys() - alive)]

    def end(self) -> list[Track]:
        """All tracks; the next number is one that no track had."""
        self.first_id = self._last_id + 1
        return self.forget(set())


def _assign(tracks: Any, detections: Detections, rows: npt.NDArray[np.int64], now_s: float) -> tuple[Any, Any]:
    """ByteTrack's number for each of `rows`, -1 without, and the numbers that it still follows."""
    import supervision

    given = supervision.Detections(
        xyxy=detections.xyxy[rows].copy(),
        confidence=detections.scores[rows].copy(),
        class_id=detections.labels[rows].astype(int),
        data={"row": np.arange(len(rows))},
    )
    result = tracks.update(given, timestamp=now_s)
    found = np.full(len(rows), -1, np.int64)
    if len(result):  # in an order of its own
        found[result.data["row"]] = result.tracker_id
    return found, tracks.tracked_objects.tracker_id
