"""Frames in: one URI names a camera, a video, images or a test pattern; what comes out is Frames.

    0   1   /dev/video0   v4l2:///dev/video0     a camera, live
    rtsp://...   http://...   https://...        a network stream through FFmpeg, live
    ride.mp4   file:///data/ride.mp4             a video, every frame of it
    dog.jpg   photos/   photos/*.png             one image, a folder (not its subfolders), a pattern; sorted
    test://?size=640x480&fps=30&frames=300&seed=0&live=0    moving shapes; frames=0 never ends, live=1 keeps time
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

import cv2
import numpy as np
import numpy.typing as npt

from edge_retina.errors import InputError, UsageError
from edge_retina.types import U8, Frame

__all__ = ["SourceInfo", "is_live", "open_source", "probe", "quiet_opencv", "read_image", "redact", "to_bgr8"]

Frames = Generator[Frame, None, None]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")

# Not IMREAD_UNCHANGED: that one flag switches the EXIF rotation off.
_IMREAD = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
# 65535 / 255 = 257; odd, so rounding to nearest knows no ties.
_TO_8_BIT: U8 = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
# OpenCV's read() fails at each damaged packet and goes on behind it when called again. At the end of a
# file it fails for ever, so that many failures in a row are the end.
MAX_FAILED_READS = 64
NETWORK_TIMEOUT_MS = 10_000
_NETWORK = ("http", "https", "rtsp", "rtsps")
_AV_LOG_QUIET = "-8"  # libavutil/log.h

# The module moved between OpenCV 4 and 5.
_cv_log = getattr(cv2.utils, "logging", cv2)
_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_undo = contextlib.ExitStack()


def open_source(uri: str | int | os.PathLike[str], *, max_frames: int | None = None) -> Frames:
    """Frames of whatever `uri` names, as a generator that owns the camera or file and gives it back when it ends.

    uri: see the module's table; a path object always is a file. max_frames: stop after that many, None for all.
    Yields Frame: uint8 (H, W, 3) BGR. Files lose no frame. A live source never ends by itself.
    Raises UsageError at once for a URI nobody understands, InputError for what cannot be read, is empty or stops."""
    if max_frames is not None and max_frames < 0:
        raise UsageError(f"max_frames must be 0 or more, found {max_frames}")
    scheme, location = _parse(uri)
    frames = _SOURCES[scheme](location, redact(uri))
    return frames if max_frames is None else _first(frames, max_frames)


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source without reading its frames.

    live: True for a camera or network stream. fps: frames per second, 0.0 where unknown.
    shape: (H, W) in pixels, None where unknown. frames: how many, as the container says; None where unknown or endless."""

    live: bool
    fps: float = 0.0
    shape: tuple[int, int] | None = None
    frames: int | None = None


def probe(uri: str | int | os.PathLike[str]) -> SourceInfo:
    """The facts of a source; opens video files only, never a camera or the network. Raises like open_source."""
    scheme, location = _parse(uri)
    if scheme == "test":
        pattern = _Pattern.parse(location)
        return SourceInfo(pattern.live, pattern.fps, (pattern.height, pattern.width), pattern.frames or None)
    if scheme != "file":
        return SourceInfo(live=True)
    kind, paths = _resolve(location)
    if kind == "images":
        return SourceInfo(live=False, frames=len(paths))
    video = _open_video(location)
    try:
        fps, height, width, frames = (
            video.get(key)
            for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_COUNT)
        )
    finally:
        video.release()
    shape = (int(height), int(width)) if height >= 1 and width >= 1 else None
    return SourceInfo(False, fps if fps > 0 else 0.0, shape, int(frames) if frames >= 1 else None)


def is_live(uri: str | int | os.PathLike[str]) -> bool:
    """True where frames come in real time and late ones may be skipped; touches no file. Raises UsageError."""
    scheme, location = _parse(uri)
    return _Pattern.parse(location).live if scheme == "test" else scheme != "file"


def redact(uri: str | int | os.PathLike[str]) -> str:
    """`uri` as text fit for logs: passwords, and query values that look like secrets, become ***."""
    text = os.fspath(uri) if isinstance(uri, os.PathLike) else str(uri)
    # Up to the last @: camera passwords hold unescaped @ and / more often than paths hold @.
    text = re.sub(r"(?<=://)([^:@/?#]*):.*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|pwd|token|secret|key|auth)[^=&]*=)[^&#]*", r"\1***", text)


def to_bgr8(image: npt.NDArray[np.generic]) -> U8:
    """The image as every part of edge-retina takes it; the same array where it already is that.

    image: (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, H and W >= 1; uint8, uint16 (65535 becomes 255) or bool.
    Returns uint8 (H, W, 3), BGR, C-contiguous; alpha is dropped. Raises InputError otherwise."""
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
    if not data:
        raise InputError(f"{os.fspath(path)}: wanted an image, found an empty file; remove it or copy it again")
    try:
        with quiet_opencv():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), _IMREAD)
    except cv2.error as exc:
        raise InputError(f"{os.fspath(path)}: OpenCV cannot decode it: {exc}") from exc
    if image is None:
        raise InputError(
            f"{os.fspath(path)}: wanted an image, found {len(data)} bytes that do not decode as one; "
            "it is damaged or of another type: remove it, or export it again as PNG or JPEG"
        )
    try:
        return to_bgr8(image)
    except InputError as exc:
        raise InputError(f"{os.fspath(path)}: {exc}") from exc


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


def _parse(uri: str | int | os.PathLike[str]) -> tuple[str, str]:
    if isinstance(uri, os.PathLike):
        path = os.fspath(uri)
        return ("v4l2" if path.startswith("/dev/video") else "file"), path
    text = str(uri)
    if re.fullmatch("[0-9]+", text) or text.startswith("/dev/video"):
        return "v4l2", text
    scheme, separator, location = text.partition("://")
    if not separator and text and not isinstance(uri, int):
        return "file", text
    scheme = scheme.lower()
    if not separator or scheme not in _SOURCES:
        raise UsageError(
            f"no source understands {redact(uri)!r}; use a file, a folder, a pattern such as 'photos/*.jpg', "
            f"a camera number or one of {', '.join(f'{name}://' for name in sorted(_SOURCES))}"
        )
    if scheme == "file":
        return scheme, unquote(location).removeprefix("localhost/" if location.startswith("localhost/") else "")
    return scheme, text if scheme in _NETWORK else location


def _first(frames: Frames, count: int) -> Frames:
    with contextlib.closing(frames):
        # range first: zip then does not fetch one frame too many.
        for _, frame in zip(range(count), frames, strict=False):
            yield frame


def _resolve(location: str) -> tuple[str, list[str]]:
    """("video", [path]) or ("images", sorted paths) for a file, folder or pattern. Raises InputError."""
    suffix = os.path.splitext(location)[1].lower()
    if os.path.isdir(location):
        try:
            names = sorted(os.listdir(location))
        except OSError as exc:
            raise InputError(f"cannot list {location}: {exc.strerror}; check its permissions") from exc
        found = [os.path.join(location, name) for name in names if not name.startswith(".")]
    elif os.path.exists(location):
        if suffix in VIDEO_SUFFIXES:
            return "video", [location]
        with quiet_opencv():
            if suffix in IMAGE_SUFFIXES or cv2.haveImageReader(location):
                return "images", [location]
        raise InputError(
            f"{location}: wanted an image {IMAGE_SUFFIXES} or a video {VIDEO_SUFFIXES}, found {suffix or 'no suffix'}"
        )
    elif any(character in location for character in "*?["):
        found = sorted(glob.glob(location, recursive=True))
    else:
        raise InputError(f"no such file or folder: {location} (looked from {os.getcwd()}); check the path")
    paths = [path for path in found if path.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(path)]
    if not paths:
        raise InputError(f"{location}: wanted images {IMAGE_SUFFIXES}, found {len(found)} other entries; check the path")
    return "images", paths


def _file(location: str, label: str) -> Frames:
    kind, paths = _resolve(location)
    return _video(location, label) if kind == "video" else _images(paths, label)


def _images(paths: Sequence[str], label: str) -> Frames:
    for index, path in enumerate(paths):
        yield Frame(read_image(path), index, 0, label, os.path.basename(path))


def _open_capture(location: str | int, backend: int, failure: str, options: Sequence[int] = ()) -> cv2.VideoCapture:
    with quiet_opencv(ffmpeg=True):
        capture = cv2.VideoCapture(location, backend, list(options))
    if not capture.isOpened():
        capture.release()
        raise InputError(failure)
    return capture


def _open_video(path: str) -> cv2.VideoCapture:
    # Named, so that OpenCV does not go on to guess with other backends; a build without FFmpeg has to guess.
    backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends() else cv2.CAP_ANY
    failure = f"{path}: OpenCV cannot open this video ({os.path.getsize(path)} bytes): damaged, cut short or an unknown codec"
    # An absolute path, or FFmpeg takes what stands before a colon in it for a protocol.
    return _open_capture(os.path.abspath(path), backend, f"{failure}; try: ffmpeg -i INPUT -c:v mpeg4 copy.mp4")


def _video(path: str, label: str) -> Frames:
    video = _open_video(path)
    try:
        fps = video.get(cv2.CAP_PROP_FPS)
        index = failures = timestamp_ns = 0
        while failures < MAX_FAILED_READS:
            ok, image = video.read()
            if not ok:
                failures += 1
                continue
            failures = 0
            position_ms = video.get(cv2.CAP_PROP_POS_MSEC)
            if not position_ms > 0:  # 0, NaN or negative: the container does not know
                position_ms = index * 1000 / fps if fps > 0 else 0.0
            timestamp_ns = max(timestamp_ns, round(position_ms * 1_000_000))
            yield Frame(to_bgr8(image), index, timestamp_ns, label)
            index += 1
        if index == 0:
            raise InputError(f"{path}: wanted a video, found no frame that decodes; copy or encode it again")
    finally:
        video.release()


def _camera(location: str, label: str) -> Frames:
    if sys.platform != "linux":
        failure = f"no camera {location}; check that it is plugged in and that this program may use it"
        return _live(int(location) if location.isdecimal() else location, cv2.CAP_ANY, label, failure)
    device = f"/dev/video{location}" if location.isdecimal() else location
    if not os.path.exists(device):
        found = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
        raise InputError(f"no camera at {device}; cameras found: {found}; plug it in, or in a container pass --device {device}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise InputError(f"no permission for {device}; run: sudo usermod -aG video $USER, and log in again")
    failure = f"{device} gives no video: another program holds it, or it is not a capture device; run: v4l2-ctl --list-devices"
    return _live(device, cv2.CAP_V4L2, label, failure)


def _network(url: str, label: str) -> Frames:
    options = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS)
    failure = f"no video from {label} within {NETWORK_TIMEOUT_MS // 1000} s; check address, password and network"
    return _live(url, cv2.CAP_FFMPEG, label, failure, options)


def _live(location: str | int, backend: int, label: str, failure: str, options: Sequence[int] = ()) -> Frames:
    capture = _open_capture(location, backend, failure, options)
    try:
        index = 0
        while capture.grab():
            timestamp_ns = time.monotonic_ns()  # before decoding, which takes its time
            ok, image = capture.retrieve()
            if ok:
                yield Frame(to_bgr8(image), index, timestamp_ns, label, live=True)
                index += 1
        # A file behind http:// has an end; of a stream it is a fault.
        if index == 0 or not 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) <= index:
            raise InputError(f"{label} stopped after {index} frames; check the cable, the network or the server")
    finally:
        capture.release()


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Options of test://: size in pixels, frames 0 for endless."""

    width: int = 640
    height: int = 480
    fps: float = 30.0
    frames: int = 300
    seed: int = 0
    live: bool = False

    @classmethod
    def parse(cls, location: str) -> _Pattern:
        defaults = {"size": "640x480", "fps": "30", "frames": "300", "seed": "0", "live": "0"}
        given = dict(parse_qsl(location.removeprefix("?"), keep_blank_values=True))
        example = "test://?" + "&".join(f"{key}={value}" for key, value in defaults.items())
        if (location and not location.startswith("?")) or given.keys() - defaults.keys():
            raise UsageError(f"no test pattern test://{location}; write it as {example}, each option may be left out")
        options = defaults | given
        try:
            width, height = (int(side) for side in options["size"].split("x"))
            pattern = cls(
                width, height, float(options["fps"]), int(options["frames"]), int(options["seed"]), options["live"] == "1"
            )
        except ValueError as exc:
            raise UsageError(f"test://{location} has an option that is no number; write it as {example}") from exc
        # 0 < fps < inf also turns NaN away.
        if not (1 <= width <= 16384 and 1 <= height <= 16384 and 0 < pattern.fps < float("inf") and pattern.frames >= 0):
            raise UsageError(f"test://{location}: size is 1..16384, fps above 0, frames 0 or more; write it as {example}")
        return pattern


def _test(location: str, label: str) -> Frames:
    return _pattern_frames(_Pattern.parse(location), label)


def _pattern_frames(pattern: _Pattern, label: str) -> Frames:
    start_ns = time.monotonic_ns()
    for index in range(pattern.frames) if pattern.frames else itertools.count():
        timestamp_ns = round(index * 1_000_000_000 / pattern.fps)
        if pattern.live:
            due_ns = start_ns + timestamp_ns
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1_000_000_000)
            timestamp_ns = time.monotonic_ns()
        yield Frame(_pattern_image(pattern, index), index, timestamp_ns, label, live=pattern.live)


def _pattern_image(pattern: _Pattern, index: int) -> U8:
    """Bouncing discs, boxes and triangles; whole-number arithmetic, so that every machine draws the same pixels."""
    height, width = pattern.height, pattern.width
    shade = np.arange(height, dtype=np.uint32) * 64 // height + 40
    image = np.repeat(shade.astype(np.uint8), width * 3).reshape(height, width, 3)
    choose = random.Random(pattern.seed)
    for number in range(6):
        radius = max(1, min(height, width) * (8 + int(choose.random() * 8)) // 100)
        x, y = (_bounce(int(choose.random() * 2 * side) + index * (1 + int(choose.random() * 5)), side) for side in (width, height))
        colour = tuple(int(64 + choose.random() * 191) if channel != number % 3 else 255 for channel in range(3))
        if number % 3 == 0:
            cv2.circle(image, (x, y), radius, colour, cv2.FILLED)
        elif number % 3 == 1:
            cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, cv2.FILLED)
        else:
            corners = np.array([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], np.int32)
            cv2.fillPoly(image, [corners], colour)
    return image


def _bounce(distance: int, side: int) -> int:
    """Where a point is that has run `distance` pixels to and fro between 0 and side - 1."""
    span = max(1, side - 1)
    return min(side - 1, span - abs(distance % (2 * span) - span))


_SOURCES: dict[str, Callable[[str, str], Frames]] = {
    "file": _file,
    "test": _test,
    "v4l2": _camera,
    **dict.fromkeys(_NETWORK, _network),
}
