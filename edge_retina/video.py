"""Writing video through OpenCV, which never says that it failed."""

from __future__ import annotations

import os

import cv2
import numpy as np

from edge_retina.errors import OutputError
from edge_retina.images import quiet_opencv
from edge_retina.types import U8

__all__ = ["VIDEO_FOURCC", "count_frames", "open_video_writer", "pad_to_even"]

# Codecs that every opencv-python wheel can write; H.264 is in none.
VIDEO_FOURCC = {".avi": "MJPG", ".mkv": "mp4v", ".mp4": "mp4v"}


def open_video_writer(path: str | os.PathLike[str], shape: tuple[int, int], fps: float) -> cv2.VideoWriter:
    """A writer for BGR frames of `shape` (H, W), both even; the caller releases it. Raises OutputError."""
    path = os.fspath(path)
    height, width = shape
    codec = VIDEO_FOURCC[os.path.splitext(path)[1].lower()]
    # Named, so that OpenCV does not fall back on numbered images; a build without FFmpeg has to guess.
    backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getWriterBackends() else cv2.CAP_ANY
    with quiet_opencv(ffmpeg=True):
        writer = cv2.VideoWriter(path, backend, cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    if not writer.isOpened():
        writer.release()
        raise OutputError(
            f"OpenCV cannot encode {width} x {height} at {fps:g} frames per second as {codec}; "
            f"use another of {sorted(VIDEO_FOURCC)}, or a folder of images"
        )
    return writer


def count_frames(path: str | os.PathLike[str], wanted: int) -> int:
    """How many frames of a video can be read, counting no further than `wanted`; 0 where it does not open."""
    with quiet_opencv(ffmpeg=True):
        video = cv2.VideoCapture(os.fspath(path))
        try:
            if not video.isOpened():
                return 0
            # Not CAP_PROP_FRAME_COUNT: an AVI that a full disk cut short still claims all of them.
            if video.set(cv2.CAP_PROP_POS_FRAMES, wanted - 1) and video.grab():
                return wanted
        finally:
            video.release()
        # Seeking is not exact in every container, so count before a recording is called lost.
        video = cv2.VideoCapture(os.fspath(path))
        try:
            count = 0
            while count < wanted and video.grab():
                count += 1
            return count
        finally:
            video.release()


def pad_to_even(image: U8) -> U8:
    """The image with its last row and column doubled where odd, for codecs that take even sizes only.

    image: uint8 (H, W, 3). Returns uint8 (H + H % 2, W + W % 2, 3); the same array where both are even.
    """
    rows, columns = image.shape[0] % 2, image.shape[1] % 2
    return np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge") if rows or columns else image
