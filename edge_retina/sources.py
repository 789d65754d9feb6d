"""Frames in: one URI names a camera, a video, images or a test pattern, and Frames come out.

USB camera, live: `0`, `/dev/video0`, `v4l2:///dev/video0?size=1280x720&fps=30&format=mjpg`.
CSI camera of a Jetson, live: `csi://0?size=1280x720&fps=30&flip=0&mode=2`.
Network stream, live: `rtsp://...`, `rtmp://...`, `http://...`, `https://...` (MJPEG, HLS).
Frames on standard input, live: `stdin://?size=640x480&format=bgr24`.
Video, every frame of it: `ride.mp4`, `file:///data/ride.mp4`.
Images, sorted by name: `dog.jpg`, `photos/` (not its subfolders), `photos/*.png`.
Moving shapes: `test://?size=640x480&fps=30&frames=300&seed=0&live=0`; frames=0 never ends, live=1 keeps real time.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import cv2

from edge_retina.capture import Patience, Request
from edge_retina.capture.gstreamer import open_csi
from edge_retina.capture.network import open_network
from edge_retina.capture.opencv import open_capture
from edge_retina.capture.raw import open_raw, parse_raw
from edge_retina.capture.v4l2 import open_usb
from edge_retina.errors import InputError, UsageError
from edge_retina.images import IMAGE_SUFFIXES, quiet_opencv, read_image, to_bgr8
from edge_retina.pattern import Pattern
from edge_retina.redaction import redact
from edge_retina.types import Frame

__all__ = ["SourceInfo", "is_live", "open_source", "probe", "read_image", "redact", "to_bgr8"]

Uri = str | int | os.PathLike[str]
Frames = Generator[Frame, None, None]

# fmt: off
VIDEO_SUFFIXES = (
    ".avi", ".gif", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv",
)
# fmt: on

# OpenCV's read() fails at each damaged packet and goes on behind it when called again. At the end of a
# file it fails for ever, so that many failures in a row are the end.
MAX_FAILED_READS = 64
_NETWORK = ("http", "https", "rtmp", "rtmps", "rtsp", "rtsps")


def open_source(
    uri: Uri, *, max_frames: int | None = None, stop: threading.Event | None = None, patience: Patience | None = None
) -> Frames:
    """Frames of whatever `uri` names, as a generator that owns the camera or file and gives it back when it ends.

    uri: see the module's list; a path object never is parsed as a URI. max_frames: stop after that many, None for all.
    stop: set by another thread, has a live source end, at the latest when its wait for a frame is over (patience).
    Yields Frame: uint8 (H, W, 3) BGR. Files lose no frame. A camera or stream that stops raises: live.Camera goes on.
    Raises UsageError at once for a URI nobody understands, InputError for what cannot be read, is empty or stops.
    """
    if max_frames is not None and max_frames < 0:
        raise UsageError(f"max_frames must be 0 or more, found {max_frames}")
    scheme, location = _parse(uri)
    request = Request(location, redact(uri), patience or Patience(), stop or threading.Event())
    frames = _SOURCES[scheme](request)
    return frames if max_frames is None else _first(frames, max_frames)


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source without reading its frames.

    live: True for a camera or network stream. fps: frames per second, 0.0 where unknown.
    shape: (H, W) in pixels, None where unknown.
    frames: how many by the container's own account, None where unknown or endless.
    paths: the video file or still images that will be read.
    """

    live: bool
    fps: float = 0.0
    shape: tuple[int, int] | None = None
    frames: int | None = None
    paths: tuple[str, ...] = ()


def probe(uri: Uri) -> SourceInfo:
    """The facts of a source; opens video files only, never a camera or the network. Raises like open_source."""
    scheme, location = _parse(uri)
    if scheme == "test":
        pattern = Pattern.parse(location)
        return SourceInfo(pattern.live, pattern.fps, (pattern.height, pattern.width), pattern.frames or None)
    if scheme == "stdin":
        raw = parse_raw(location)
        return SourceInfo(raw.live, shape=raw.size[::-1])
    if scheme != "file":
        return SourceInfo(live=True)
    kind, paths = _resolve(location)
    if kind == "images":
        return SourceInfo(live=False, frames=len(paths), paths=tuple(paths))
    video = _open_video(location)
    try:
        fps, height, width, frames = (
            video.get(key)
            for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_COUNT)
        )
    finally:
        video.release()
    shape = (int(height), int(width)) if height >= 1 and width >= 1 else None
    return SourceInfo(False, fps if fps > 0 else 0.0, shape, int(frames) if frames >= 1 else None, (location,))


def is_live(uri: Uri) -> bool:
    """True where frames come in real time and late ones may be skipped; touches no file. Raises UsageError."""
    scheme, location = _parse(uri)
    if scheme == "test":
        return Pattern.parse(location).live
    return parse_raw(location).live if scheme == "stdin" else scheme != "file"


def _parse(uri: Uri) -> tuple[str, str]:
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
        return scheme, unquote(re.sub("^localhost(?=/)", "", location))
    return scheme, text if scheme in _NETWORK else location


def _first(frames: Frames, count: int) -> Frames:
    with contextlib.closing(frames):
        # range first: zip then does not fetch one frame too many.
        for _, frame in zip(range(count), frames, strict=False):
            yield frame


def _resolve(location: str) -> tuple[str, list[str]]:
    """("video", [path]) or ("images", sorted paths) for a file, folder or pattern. Raises InputError."""
    suffix = os.path.splitext(location)[1].lower()
    shown = re.sub(":.*@", ":***@", location)  # a URI in which a slash was forgotten
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
            f"{location}: wanted an image ({' '.join(IMAGE_SUFFIXES)}) or a video ({' '.join(VIDEO_SUFFIXES)}), "
            f"found {suffix or 'no suffix'}; rename it, or convert it with ffmpeg"
        )
    elif any(character in location for character in "*?["):
        found = sorted(glob.glob(location, recursive=True))
    else:
        raise InputError(f"no such file or folder: {shown} (looked from {os.getcwd()}); check the path")
    paths = [path for path in found if path.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(path)]
    if not paths:
        wanted = " ".join(IMAGE_SUFFIXES)
        raise InputError(f"{shown}: wanted images ({wanted}), found {len(found)} other entries; check the path")
    return "images", paths


def _file(request: Request) -> Frames:
    kind, paths = _resolve(request.location)
    return _video(request.location, request.label) if kind == "video" else _images(paths, request.label)


def _images(paths: Sequence[str], label: str) -> Frames:
    for index, path in enumerate(paths):
        yield Frame(read_image(path), index, 0, label, os.path.basename(path), path=path)


def _open_video(path: str) -> cv2.VideoCapture:
    # Named, so that OpenCV does not go on to guess with other backends; a build without FFmpeg has to guess.
    backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends() else cv2.CAP_ANY
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}; check the path and its permissions") from exc
    failure = (
        f"{path}: wanted a video, found {size} bytes that OpenCV cannot open: damaged, cut short or an unknown codec; "
        "try: ffmpeg -i INPUT -c:v mpeg4 copy.mp4"
    )
    # An absolute path, or FFmpeg takes what stands before a colon in it for a protocol.
    return open_capture(os.path.abspath(path), backend, failure)


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
            yield Frame(to_bgr8(image), index, timestamp_ns, label, path=path)
            index += 1
        if index == 0:
            raise InputError(f"{path}: wanted a video, found no frame that decodes; copy or encode it again")
    finally:
        video.release()


def _test(request: Request) -> Frames:
    return Pattern.parse(request.location).play(request.label)


_SOURCES: dict[str, Callable[[Request], Frames]] = {
    "csi": open_csi,
    "file": _file,
    "stdin": open_raw,
    "test": _test,
    "v4l2": open_usb,
    **dict.fromkeys(_NETWORK, open_network),
}
