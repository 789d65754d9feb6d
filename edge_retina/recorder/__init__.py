"""Annotated video, true to the clock: of a camera a frame is shown when it was captured, whatever its rate.

With PyAV (extra `streams`) .mp4 and .mkv are H.264 and each frame has its own time, see timed.py; without it, and in
.avi, frames come at a constant rate and are repeated or left out to keep time, see steady.py. A hardware encoder is
taken where one works: it is tried on a picture of the size wanted first, for being there says little.

The rate of a camera is measured on its first frames, which wait for that. A pause of more than a minute lasts a minute.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Protocol

from edge_retina.drafts import Draft
from edge_retina.draw import draw, letterbox
from edge_retina.errors import OutputError
from edge_retina.recorder.steady import SteadyVideo
from edge_retina.sink import Sink, protect_source
from edge_retina.types import U8, Detections, Frame
from edge_retina.video import count_frames, pad_to_even

__all__ = ["Recorder"]

_logger = logging.getLogger("edge_retina.recorder")
_LONGEST_PAUSE_S = 60.0
# The rate of a camera is measured on so many frames, or on what came in that time.
_MEASURED_FRAMES, _MEASURED_S = 12, 2.0
_SLOWEST, _FASTEST = 0.1, 240.0
_LEAST_S = 0.001  # between two frames; Matroska's tick
_TIMED = (".mkv", ".mp4")


class Video(Protocol):
    """A video file being written. encoder: what compresses it, in words."""

    encoder: str

    def write(self, image: U8, at_s: float) -> None:
        """Show an image from `at_s` on, seconds, later than the one before. Raises OutputError."""

    def close(self) -> int:
        """Finish; how many frames were written. Raises OutputError."""

    def abort(self) -> None:
        """Let go of the file. Never raises."""


class Recorder(Sink):
    """Frames with their boxes as one video. fps: of files; of a camera what is assumed where it gives one frame only.

    The first frame decides the size, into which others are fitted, and whether time is kept: where it is of a file,
    every frame lasts 1/fps. Raises OutputError.
    """

    def __init__(self, path: Path, fps: float = 30.0) -> None:
        self._draft, self._fps = Draft(path), fps
        self._video: Video | None = None
        self._waiting: list[tuple[U8, float]] = []
        self._shape = (0, 0)
        self._live: bool | None = None
        self._from_s = self._at_s = 0.0

    @property
    def encoder(self) -> str:
        """What compresses the video, in words; "" before that is known."""
        return "" if self._video is None else self._video.encoder

    def write(self, frame: Frame, detections: Detections) -> None:
        """Add a frame. Raises OutputError."""
        image = pad_to_even(draw(frame.image, detections))
        if self._live is None:
            protect_source(frame, self._draft.target)
            self._live, self._shape = frame.live, (image.shape[0], image.shape[1])
            self._from_s, self._at_s = frame.timestamp_ns / 1e9, 0.0
        elif self._live:
            self._at_s = self._next_s(frame.timestamp_ns / 1e9 if frame.live else time.monotonic())
        else:
            self._at_s += 1 / self._fps
        self._waiting.append((letterbox(image, self._shape), self._at_s))
        if self._video is not None or not self._live:
            self._put_waiting(self._fps)
        elif len(self._waiting) == _MEASURED_FRAMES or self._at_s >= _MEASURED_S:
            self._put_waiting(self._measured())

    def close(self) -> None:
        """Finish the video and give it its name; without a frame there is none. Raises OutputError."""
        try:
            if self._waiting:
                self._put_waiting(self._measured())
            if self._video is None:
                return
            written = self._video.close()
            # OpenCV says nothing of a full disk; only the file itself tells.
            found = count_frames(self._draft.path, written)
            if found < written:
                raise OutputError(
                    f"{self._draft.target}: wrote {written} frames, but {found} can be read back; "
                    f"is the disk full? run: df -h {self._draft.target.parent}"
                )
            self._draft.publish()
        finally:
            self.abort()

    def abort(self) -> None:
        """Throw the video away, unless it has its name."""
        if self._video is not None:
            self._video.abort()
            self._video = None
        self._waiting.clear()
        self._draft.discard()

    def _next_s(self, now_s: float) -> float:
        """When to show a frame of the clock's time now_s: then, but after the one before and not much later."""
        pause_s = now_s - self._from_s - self._at_s
        if pause_s > _LONGEST_PAUSE_S:
            self._from_s += pause_s - _LONGEST_PAUSE_S
            pause_s = _LONGEST_PAUSE_S
        # Frames of several cameras come out of order.
        return self._at_s + max(pause_s, _LEAST_S)

    def _measured(self) -> float:
        """Frames per second of those that wait."""
        span_s = self._waiting[-1][1] - self._waiting[0][1]
        return min(_FASTEST, max(_SLOWEST, (len(self._waiting) - 1) / span_s)) if span_s > 0 else self._fps

    def _put_waiting(self, fps: float) -> None:
        if self._video is None:
            self._video = _open(self._draft, self._shape, fps, keeps_time=bool(self._live))
            _logger.info("%s: %s, %.2f frames per second", self._draft.target, self._video.encoder, fps)
        waiting, self._waiting = self._waiting, []
        for image, at_s in waiting:
            self._video.write(image, at_s)


def _open(draft: Draft, shape: tuple[int, int], fps: float, *, keeps_time: bool) -> Video:
    """The best video that can be written here. Raises OutputError."""
    if draft.path.suffix.lower() in _TIMED:
        try:
            from edge_retina.recorder.timed import open_timed
        except ImportError:
            _logger.debug("no PyAV")
        else:
            if (video := open_timed(draft.path, draft.target, shape, fps)) is not None:
                return video
    return SteadyVideo(draft.path, shape, fps, keeps_time=keeps_time)
