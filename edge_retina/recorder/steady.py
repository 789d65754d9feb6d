"""Video at a constant rate, through OpenCV; on a Jetson through GStreamer and its encoder, where OpenCV has it."""

from __future__ import annotations

import functools
import os
import tempfile
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from edge_retina.capture.gstreamer import has_gstreamer
from edge_retina.types import U8
from edge_retina.video import count_frames, open_video_writer

__all__ = ["SteadyVideo", "jetson_pipeline"]

_PARTS = {".mkv": "matroskamux", ".mp4": "qtmux"}
_BITS_PER_PIXEL = 0.15  # of H.264 at 30 frames per second
_TRIED_FRAMES = 5


class SteadyVideo:
    """A video file of `shape` (H, W), both even.

    keeps_time: an image stays until the next one is due, one that comes before it is due is left out; else every image
    is one frame. Raises OutputError.
    """

    def __init__(self, path: Path, shape: tuple[int, int], fps: float, *, keeps_time: bool) -> None:
        self._fps, self._keeps_time = fps, keeps_time
        self._written = 0
        self._last: U8 | None = None
        hardware = path.suffix.lower() in _PARTS and has_gstreamer() and _jetson_works(shape)
        self.encoder = "nvv4l2h264enc, through GStreamer" if hardware else "OpenCV"
        open_writer = _open_jetson if hardware else open_video_writer
        self._writer: cv2.VideoWriter | None = open_writer(path, shape, fps)

    def write(self, image: U8, at_s: float) -> None:
        """Show an image from `at_s` on."""
        due = round(at_s * self._fps) if self._keeps_time else self._written
        while self._last is not None and self._written < due:
            self._put(self._last)
        self._last = image
        if self._written == due:
            self._put(image)

    def close(self) -> int:
        """Finish; how many frames were written."""
        self.abort()
        return self._written

    def abort(self) -> None:
        """Let go of the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.release()

    def _put(self, image: U8) -> None:
        assert self._writer is not None
        self._writer.write(image)
        self._written += 1


def jetson_pipeline(path: Path, shape: tuple[int, int], fps: float) -> str:
    """What GStreamer does with frames of `shape` (H, W), after NVIDIA's Accelerated GStreamer guide."""
    rate = Fraction(fps).limit_denominator(1001)
    bits = round(shape[0] * shape[1] * _BITS_PER_PIXEL * 30)
    place = os.fspath(path).replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"appsrc ! video/x-raw,format=BGR,framerate={rate.numerator}/{rate.denominator} ! videoconvert ! "
        "video/x-raw,format=BGRx ! nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! "
        f"nvv4l2h264enc bitrate={bits} ! h264parse ! {_PARTS[path.suffix.lower()]} ! "
        f'filesink location="{place}"'
    )


def _open_jetson(path: Path, shape: tuple[int, int], fps: float) -> cv2.VideoWriter:
    return cv2.VideoWriter(jetson_pipeline(path, shape, fps), cv2.CAP_GSTREAMER, 0, fps, (shape[1], shape[0]))


@functools.cache
def _jetson_works(shape: tuple[int, int]) -> bool:
    """True where the encoder is there and gives a video; a Jetson Orin Nano has its name but not the hardware."""
    with tempfile.TemporaryDirectory(prefix="edge-retina-") as folder:
        path = Path(folder) / "tried.mp4"
        writer = _open_jetson(path, shape, 30.0)
        try:
            if not writer.isOpened():
                return False
            for _ in range(_TRIED_FRAMES):
                writer.write(np.zeros((*shape, 3), np.uint8))
        finally:
            writer.release()
        return count_frames(path, _TRIED_FRAMES) == _TRIED_FRAMES
