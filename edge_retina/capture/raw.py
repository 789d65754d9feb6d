"""Frames without a container on standard input: `ffmpeg ... -f rawvideo - | edge-retina run --source stdin://...`.

`stdin://?size=640x480&format=bgr24&live=1`. format, by FFmpeg's names: bgr24, rgb24, gray, yuyv422, nv12, yuv420p.
live=1: the newest frame counts, as of a camera; live=0: every frame, whoever writes waits.
"""

from __future__ import annotations

import os
import select
import sys
import time
from dataclasses import dataclass

import cv2
import numpy as np

from edge_retina.capture import Request, options
from edge_retina.capture.opencv import Frames
from edge_retina.errors import InputError, UsageError
from edge_retina.types import U8, Frame

__all__ = ["Raw", "open_raw", "parse_raw"]

_EXAMPLE = "stdin://?size=640x480&format=bgr24&live=1"
_LOOK_S = 0.1
# To the rows of bytes per row of pixels as a ratio, the channels of a pixel, and OpenCV's conversion to BGR.
_FORMATS: dict[str, tuple[int, int, int, int | None]] = {
    "bgr24": (1, 1, 3, None),
    "rgb24": (1, 1, 3, cv2.COLOR_RGB2BGR),
    "gray": (1, 1, 1, cv2.COLOR_GRAY2BGR),
    "yuyv422": (1, 1, 2, cv2.COLOR_YUV2BGR_YUYV),
    "nv12": (3, 2, 1, cv2.COLOR_YUV2BGR_NV12),
    "yuv420p": (3, 2, 1, cv2.COLOR_YUV2BGR_I420),
}


@dataclass(frozen=True, slots=True)
class Raw:
    """What the bytes mean. size: (W, H)."""

    size: tuple[int, int]
    format: str = "bgr24"
    live: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """The array that one frame's bytes fill."""
        up, down, channels, _ = _FORMATS[self.format]
        return self.size[1] * up // down, self.size[0], channels


def parse_raw(location: str) -> Raw:
    """What follows stdin://. Raises UsageError."""
    place, given = options.query(location, _EXAMPLE, ("size", "format", "live"))
    if place.strip("/-") or (size := options.size(given)) is None:
        raise UsageError(f"stdin:// wants the size of its frames, such as {_EXAMPLE}")
    kind = options.choice(given, "format", tuple(_FORMATS)) or "bgr24"
    odd = size[0] % 2 or (size[1] % 2 and kind != "yuyv422")
    if odd and kind in ("yuyv422", "nv12", "yuv420p"):
        raise UsageError(f"stdin://: frames of {kind} have even sides, found {size[0]}x{size[1]}")
    return Raw(size, kind, options.choice(given, "live", ("0", "1")) != "0")


def open_raw(request: Request) -> Frames:
    """Frames until standard input ends. Raises UsageError, InputError where it ends within a frame."""
    raw = parse_raw(request.location)
    return _frames(request, raw)


def _frames(request: Request, raw: Raw) -> Frames:
    try:
        source = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        raise InputError("stdin:// wants frames on standard input, which this program does not have") from None
    if os.isatty(source):
        raise InputError(f"stdin:// wants frames on standard input, found a terminal; pipe into it, as {_EXAMPLE}")
    index, start_ns = 0, time.monotonic_ns()
    while (image := _read(source, raw, request)) is not None:
        now_ns = time.monotonic_ns()
        stamp_ns = now_ns if raw.live else now_ns - start_ns
        conversion = _FORMATS[raw.format][3]
        bgr = image if conversion is None else np.asarray(cv2.cvtColor(image, conversion), np.uint8)
        yield Frame(np.ascontiguousarray(bgr), index, stamp_ns, request.label, live=raw.live)
        index += 1


def _read(source: int, raw: Raw, request: Request) -> U8 | None:
    """One frame; None at the end of input, or when told to stop."""
    image = np.empty(raw.shape, np.uint8)
    rest = memoryview(image.data).cast("B")
    while rest:
        if sys.platform != "win32":
            while not select.select([source], [], [], _LOOK_S)[0]:
                if request.stop.is_set():
                    return None
        if request.stop.is_set():
            return None
        count = os.readv(source, [rest]) if hasattr(os, "readv") else _copy(os.read(source, len(rest)), rest)
        if count == 0:
            if len(rest) == image.nbytes:
                return None
            raise InputError(
                f"{request.label}: wanted frames of {image.nbytes} bytes, found {image.nbytes - len(rest)} at the end; "
                "check size and format"
            )
        rest = rest[count:]
    return image


def _copy(data: bytes, target: memoryview) -> int:
    target[: len(data)] = data
    return len(data)
