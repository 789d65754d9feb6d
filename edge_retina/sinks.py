"""Detections out: one URI names where they go.

JSON lines: `out.jsonl`, or `-` for stdout; in parts of a bounded size: `out.jsonl?rotate=100MB&keep=10`.
Annotated video: `out.mp4`, `out.avi`, `out.mkv`. Annotated images: `out/`, one per frame; `out.jpg` or `out.png`, for
exactly one frame. Window: `display://`. Pictures of what happens: `snapshots/?on=zone,line`.
A page to look at in a browser: `http://127.0.0.1:8080`, see edge_retina/web. POST to a server:
`post+http://server/path`, see edge_retina/posting.py.

A file appears under its name only once it is valid, until then what stood there stays; no frame, no file. Videos and
single images are written beside it and renamed on close; JSON lines when the first line is complete, from where on
whole lines are appended (follow them with tail -F). An interrupted run keeps the frames it has written.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import cv2

from edge_retina.drafts import Draft
from edge_retina.draw import draw
from edge_retina.errors import OutputError, UsageError
from edge_retina.events import Event
from edge_retina.jsonl import JsonLines, Stdout
from edge_retina.recorder import Recorder
from edge_retina.redaction import redact
from edge_retina.rotate import RotatingLines, Rotation
from edge_retina.sink import Sink, StopStream, protect_source
from edge_retina.snapshots import SnapshotOptions, Snapshots
from edge_retina.types import U8, Detections, Frame
from edge_retina.video import VIDEO_FOURCC
from edge_retina.window import close_window, open_window, require_display, show

__all__ = ["Sink", "StopStream", "open_sink"]

_ENCODABLE = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def open_sink(
    uri: str | os.PathLike[str], *, fps: float = 30.0, on_event: Callable[[Event], None] = lambda _: None
) -> Sink:
    """The sink that `uri` names, see the module's list; missing folders are made.

    fps: frames per second of a video made from a file, not rounded; from a camera each frame has its own time. A path
    without a suffix is a folder of images. on_event: told, from any thread, when a server stops or begins to take
    results.
    Raises UsageError for a URI nobody understands, OutputError where nothing can be written or shown.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"wanted fps above 0, found {fps}; give the frame rate of the source, such as 30")
    text = os.fspath(uri)
    scheme, separator, location = text.partition("://")
    if text == "-":
        return Stdout()
    if separator and scheme == "display":
        return _Window(f"edge-retina {location}".strip())
    if not isinstance(uri, os.PathLike) and (sink := _with_options(text)) is not None:
        return sink
    if separator and scheme.startswith("post+"):
        from edge_retina.posting import PostLines

        return PostLines(text, redact(text), on_event=on_event)
    if separator and scheme == "http":
        from edge_retina.web import open_web

        return open_web(text)
    if not isinstance(uri, os.PathLike) and re.match(r"(https?|post\+\w+):/", text) and not separator:
        raise UsageError(f"{redact(text)}: two slashes are wanted after the colon, as in http://127.0.0.1:8080")
    path = unquote(location) if separator and scheme == "file" else text
    suffix = os.path.splitext(path)[1].lower()
    is_folder = path.endswith(("/", os.sep)) or os.path.isdir(path) or (path != "" and not suffix)
    if (separator and scheme != "file") or not (is_folder or suffix in _FILE_SINKS):
        found = f"{scheme}://" if separator else repr(text)
        raise UsageError(
            f"no sink understands {found}; use -, a folder/, display://, http://127.0.0.1:8080 "
            f"or a file {sorted(_FILE_SINKS)}"
        )
    # Through links, so that a rename replaces the file and not the link to it.
    target = Path(os.path.realpath(path))
    return _Folder(target, fps) if is_folder else _FILE_SINKS[suffix](target, fps)


def _with_options(text: str) -> Sink | None:
    """The sink of a path with options behind a ?; None where there are none. Raises UsageError, OutputError."""
    place, _, query = text.partition("?")
    if place.startswith("file://"):
        place = unquote(place.removeprefix("file://"))
    if not query or "://" in place:
        return None
    if place.lower().endswith(".jsonl"):
        return RotatingLines(Path(os.path.realpath(place)), Rotation.parse(query))
    if place.endswith(("/", os.sep)) and "=" in query:
        return Snapshots(Path(os.path.realpath(place)), SnapshotOptions.parse(query))
    return None


class _Still(Sink):
    def __init__(self, path: Path, _fps: float) -> None:
        self._draft = Draft(path)
        self._written = 0

    def write(self, frame: Frame, detections: Detections) -> None:
        self._written += 1
        if self._written > 1:
            raise OutputError(
                f"{self._draft.target} holds one image, found a second frame; "
                f"use a folder instead: {self._draft.target.with_suffix('')}/"
            )
        protect_source(frame, self._draft.target)
        self._draft.fill(_encode(self._draft.target, draw(frame.image, detections)))

    def close(self) -> None:
        try:
            if self._written == 1 and self._draft.filled:
                self._draft.publish()
        finally:
            self._draft.discard()

    def abort(self) -> None:
        self._draft.discard()


class _Folder(Sink):
    def __init__(self, path: Path, _fps: float) -> None:
        self._path = path
        self._names: set[str] = set()
        Draft(path / "frame.jpg").discard()  # to hear at once that nothing can be written here

    def write(self, frame: Frame, detections: Detections) -> None:
        target = self._path / self._name_of(frame)
        protect_source(frame, target)
        data = _encode(target, draw(frame.image, detections))
        draft = Draft(target)
        try:
            draft.fill(data)
            draft.publish()
        finally:
            draft.discard()

    def _name_of(self, frame: Frame) -> str:
        if not frame.name:
            return f"frame_{frame.index:06d}.jpg"
        stem, suffix = os.path.splitext(os.path.basename(frame.name))
        suffix = suffix if suffix.lower() in _ENCODABLE else ".jpg"
        # photos/*/1.jpg: equal names from different folders.
        name = stem + suffix if stem + suffix not in self._names else f"{stem}_{frame.index:06d}{suffix}"
        self._names.add(name)
        return name

    def close(self) -> None: ...

    def abort(self) -> None: ...


class _Window(Sink):
    main_thread = True  # as OpenCV's windows want it

    def __init__(self, title: str) -> None:
        require_display()
        self._title = title
        self._is_open = False

    def write(self, frame: Frame, detections: Detections) -> None:
        image = draw(frame.image, detections)
        if not self._is_open:
            open_window(self._title, (image.shape[0], image.shape[1]))
            self._is_open = True
        if not show(self._title, image):
            raise StopStream("window closed")

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            close_window(self._title)

    def abort(self) -> None:
        self.close()


_FILE_SINKS: dict[str, Callable[[Path, float], Sink]] = {
    ".jsonl": JsonLines,
    **dict.fromkeys(VIDEO_FOURCC, Recorder),
    **dict.fromkeys(_ENCODABLE, _Still),
}


def _encode(path: Path, image: U8) -> bytes:
    try:
        ok, data = cv2.imencode(path.suffix, image)
    except cv2.error as exc:
        raise OutputError(f"cannot encode {path}: {exc}") from exc
    if not ok:
        raise OutputError(f"cannot encode a {image.shape[1]} x {image.shape[0]} image as {path.suffix}; use .png")
    return bytes(data)
