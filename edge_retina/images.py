"""One image: from a file, or of whatever array a caller has, to the uint8 BGR that every Frame holds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from edge_retina.errors import InputError
from edge_retina.types import U8

__all__ = ["IMAGE_SUFFIXES", "decode_image", "quiet_opencv", "read_image", "to_bgr8"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# Not IMREAD_UNCHANGED: that one flag switches the EXIF rotation off.
_IMREAD = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
# 65535 / 255 = 257; odd, so rounding to nearest knows no ties.
_TO_8_BIT: U8 = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
_AV_LOG_QUIET = "-8"  # libavutil/log.h

_cv_log = getattr(cv2.utils, "logging", cv2)  # the functions moved between OpenCV 4 and 5
_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_undo = contextlib.ExitStack()


def to_bgr8(image: npt.NDArray[np.generic]) -> U8:
    """The image as every part of edge-retina takes it; not copied where it already is that.

    image: (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, H and W >= 1; uint8, uint16 (65535 becomes 255) or bool.
    Returns uint8 (H, W, 3), BGR, C-contiguous; alpha is dropped. Raises InputError otherwise.
    """
    wanted = "wanted a uint8, uint16 or bool image of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if not isinstance(image, np.ndarray):
        raise InputError(f"{wanted}, found {type(image).__name__}")
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
        raise InputError(f"{wanted}, found shape {image.shape}; one image at a time, channels last")
    pixels: npt.NDArray[np.generic] = image
    if image.dtype == np.bool_:
        pixels = image.astype(np.uint8) * np.uint8(255)
    elif image.dtype.kind == "u" and image.dtype.itemsize == 2:
        pixels = _TO_8_BIT[image]
    elif image.dtype != np.uint8:
        raise InputError(f"{wanted}, found {image.dtype}, whose range is not known; scale it to 0..255 and use uint8")
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3], dtype=np.uint8)


def read_image(path: str | os.PathLike[str]) -> U8:
    """One image file as uint8 (H, W, 3) BGR, turned as its EXIF orientation says. Raises InputError."""
    try:
        # Not imread: it has no reason to give for a failure, and no non-ASCII paths on Windows.
        with open(path, "rb") as file:
            data = file.read()
    except OSError as exc:
        raise InputError(f"cannot read {os.fspath(path)}: {exc.strerror}; check the path and its permissions") from exc
    return decode_image(data, os.fspath(path))


def decode_image(data: bytes, name: str) -> U8:
    """As read_image, for the bytes of a file called `name`. Raises InputError."""
    if not data:
        raise InputError(f"{name}: wanted an image, found an empty file; remove it or copy it again")
    try:
        with quiet_opencv():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), _IMREAD)
    except cv2.error as exc:
        raise InputError(f"{name}: OpenCV cannot decode it: {exc}") from exc
    if image is None:
        raise InputError(
            f"{name}: wanted an image, found {len(data)} bytes that do not decode as one; "
            "it is damaged or of another type: remove it, or export it again as PNG or JPEG"
        )
    try:
        return to_bgr8(image)
    except InputError as exc:
        raise InputError(f"{name}: {exc}") from exc


@contextlib.contextmanager
def quiet_opencv(*, ffmpeg: bool = False) -> Iterator[None]:
    """OpenCV (and FFmpeg, where a video is opened inside) print nothing, unless the user's environment set a level."""
    global _quiet_depth
    with _quiet_lock:  # counted: of two threads the last one out restores what the first one in found
        if _quiet_depth == 0 and "OPENCV_LOG_LEVEL" not in os.environ:
            _quiet_undo.callback(_cv_log.setLogLevel, _cv_log.getLogLevel())
            _cv_log.setLogLevel(0)
        if ffmpeg and not os.environ.keys() & {"OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG"}:
            os.environ["OPENCV_FFMPEG_LOGLEVEL"] = _AV_LOG_QUIET
            _quiet_undo.callback(os.environ.pop, "OPENCV_FFMPEG_LOGLEVEL", None)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_undo.close()
