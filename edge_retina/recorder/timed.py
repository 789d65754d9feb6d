"""Video whose frames have a time each, through PyAV: H.264 where it can, and by hardware where that works."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from edge_retina.errors import OutputError
from edge_retina.types import U8

__all__ = ["TimedVideo", "open_timed", "works"]

_logger = logging.getLogger("edge_retina.recorder")
# NVIDIA's desktop GPUs; the encoders of a Raspberry Pi and other boards, by the kernel's interface.
HARDWARE = ("h264_nvenc", "h264_v4l2m2m")
# The fastest of x264's settings whose pictures still look well; the detector needs the cores.
SOFTWARE = {"libx264": {"preset": "superfast", "crf": "23"}, "libopenh264": {}, "mpeg4": {"q:v": "4"}}
_THREADS = 2
_BITS_PER_PIXEL = 0.15  # of H.264 at 30 frames per second
# MPEG-4 counts time in 16 bits, so not the usual 90000. Divides into frames of 24, 25, 29.97 and 30 a second.
_TICKS = 60_000
_PIXELS = "yuv420p"
_BT601, _LIMITED = 6, 1  # SMPTE170M and MPEG of FFmpeg's AVColorSpace and AVColorRange: what swscale makes of BGR


class TimedVideo:
    """A video file of `shape` (H, W), both even. target: its name to be.

    Raises OutputError where this encoder does not take it.
    """

    def __init__(self, path: Path, target: Path, shape: tuple[int, int], fps: float, encoder: str) -> None:
        self.encoder, self._target = encoder, target
        self._written, self._last_tick = 0, -1
        self._frame_ticks = max(1, round(_TICKS / fps))
        with _as_output_error(target):
            self._container: Any = av.open(str(path), "w")
        try:
            with _as_output_error(target):
                self._stream: Any = self._container.add_stream(
                    encoder, rate=_rate(fps), options=dict(SOFTWARE.get(encoder, {}))
                )
                _set_up(self._stream.codec_context, shape, encoder)
                self._stream.codec_context.open()
        except OutputError:
            self.abort()
            raise

    def write(self, image: U8, at_s: float) -> None:
        """Show an image from `at_s` on. Raises OutputError."""
        with _as_output_error(self._target):
            picture = _picture(image)
            picture.pts = self._last_tick = max(round(at_s * _TICKS), self._last_tick + 1)
            picture.time_base = Fraction(1, _TICKS)
            picture.duration = self._frame_ticks
            self._container.mux(self._stream.encode(picture))
        self._written += 1

    def close(self) -> int:
        """Finish; how many frames were written. Raises OutputError."""
        container, self._container = self._container, None
        if container is not None:
            try:
                with _as_output_error(self._target):
                    container.mux(self._stream.encode())
                    container.close()
            finally:
                _let_go(container)
        return self._written

    def abort(self) -> None:
        """Let go of the file."""
        container, self._container = self._container, None
        if container is not None:
            _let_go(container)


def open_timed(path: Path, target: Path, shape: tuple[int, int], fps: float) -> TimedVideo | None:
    """A video by the first encoder that takes frames of `shape` (H, W); None where none does."""
    for encoder in (*HARDWARE, *SOFTWARE):
        if encoder in HARDWARE and not works(encoder, shape):
            continue
        try:
            return TimedVideo(path, target, shape, fps, encoder)
        except OutputError as exc:
            _logger.debug("%s: %s", encoder, exc)
    return None


@functools.cache
def works(encoder: str, shape: tuple[int, int]) -> bool:
    """True where this encoder makes something of a picture of `shape` (H, W): it may be there by name only."""
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.time_base, context.framerate = Fraction(1, _TICKS), Fraction(30)
        _set_up(context, shape, encoder)
        picture = _picture(np.zeros((*shape, 3), np.uint8))
        picture.pts = 0
        return bool(context.encode(picture) + context.encode(None))
    except (av.error.FFmpegError, ValueError, OSError) as exc:
        _logger.debug("%s does not work: %s", encoder, exc)
        return False


def _set_up(context: Any, shape: tuple[int, int], encoder: str) -> None:
    context.height, context.width = shape
    context.pix_fmt, context.time_base = _PIXELS, Fraction(1, _TICKS)
    context.colorspace, context.color_range = _BT601, _LIMITED
    context.thread_count = _THREADS
    if encoder in HARDWARE:
        context.bit_rate = round(shape[0] * shape[1] * _BITS_PER_PIXEL * 30)


def _picture(image: U8) -> Any:
    return av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=_PIXELS)


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def _let_go(container: Any) -> None:
    with contextlib.suppress(av.error.FFmpegError, OSError):
        container.close()


@contextlib.contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    """What FFmpeg has against it, as an OutputError."""
    try:
        yield
    except (av.error.FFmpegError, ValueError, OSError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise OutputError(f"cannot write {target}: {why}; check disk space, or write a folder of images") from exc
