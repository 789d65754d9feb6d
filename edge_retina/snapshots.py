"""Pictures of what happened: `snapshots/?on=zone,line&keep=1000&every=0.5`.

One annotated JPEG per event of the kinds asked for, of the frame that the event belongs to, else of the newest of its
camera. A name begins with the time in UTC, so that names sort by time. The newest `keep` stay, those of earlier runs
included; of one camera and kind there is at most one every so many seconds.
"""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2

from edge_retina.drafts import Draft, as_output_error
from edge_retina.draw import draw
from edge_retina.errors import OutputError, UsageError
from edge_retina.events import Event
from edge_retina.query import read_query
from edge_retina.sink import Sink, protect_source
from edge_retina.types import Detections, Frame

__all__ = ["EVENTS", "SnapshotOptions", "Snapshots"]

EVENTS = ("track", "line", "zone", "connecting", "live", "stale", "down", "size", "sink")
_KEEP = 1000
# Events whose frame is still to come; a camera that starts anew may never give it.
_MOST_PENDING = 64
_OWN = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z_[\w.-]+\.jpg", re.ASCII)
_NAMED_BY = ("line", "zone", "direction", "state", "name", "id")


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """kinds: of EVENTS. keep: pictures that stay. every_s: least seconds between two of one camera and kind."""

    kinds: frozenset[str]
    keep: int = _KEEP
    every_s: float = 0.0

    @classmethod
    def parse(cls, query: str) -> SnapshotOptions:
        """The options that `on=zone,line&keep=1000&every=0.5` means. Raises UsageError."""
        example = "snapshots/?on=zone,line&keep=1000&every=0.5"
        options = read_query(query, ("on", "keep", "every"), example=example)
        kinds = {kind.strip() for kind in options.get("on", "").split(",")}
        if unknown := sorted(kinds - set(EVENTS)):
            raise UsageError(f"on= wants events of {', '.join(EVENTS)}, found {unknown[0]!r}; write it as {example}")
        keep, every = options.get("keep", str(_KEEP)), options.get("every", "0")
        if not (re.fullmatch("[0-9]{1,7}", keep) and int(keep) >= 1):
            raise UsageError(f"keep wants a count of pictures from 1 to 9999999, found {keep!r}")
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", every):
            raise UsageError(f"every wants seconds, such as 0.5, found {every!r}")
        return cls(frozenset(kinds), int(keep), float(every))


class Snapshots(Sink):
    """Keeps the newest frame of each camera, by reference, and writes it when something happens.

    Raises OutputError where nothing can be written.
    """

    def __init__(self, folder: Path, options: SnapshotOptions) -> None:
        self._folder, self._options = folder, options
        Draft(folder / "frame.jpg").discard()  # to hear at once that nothing can be written here
        with as_output_error(folder):
            self._kept = deque(sorted(path.name for path in folder.iterdir() if _OWN.fullmatch(path.name)))
        self._newest: dict[str, tuple[Frame, Detections]] = {}
        self._pending: dict[str, deque[Event]] = {}
        self._taken_ns: dict[tuple[str, str], int] = {}

    def write(self, frame: Frame, detections: Detections) -> None:
        """Remember the frame; take the pictures that waited for it. Raises OutputError."""
        self._newest[frame.camera] = frame, detections
        pending = self._pending.get(frame.camera)
        while pending and pending[0].data["frame"] <= frame.index:  # later, where its own did not get here
            self._take(pending.popleft(), frame, detections)

    def event(self, event: Event) -> None:
        """Take a picture, or wait for its frame. Raises OutputError."""
        if event.kind not in self._options.kinds:
            return
        newest = self._newest.get(event.camera)
        index = event.data.get("frame")
        if index is not None and (newest is None or newest[0].index < index):
            self._pending.setdefault(event.camera, deque(maxlen=_MOST_PENDING)).append(event)
        elif newest is not None:
            self._take(event, *newest)

    def _take(self, event: Event, frame: Frame, detections: Detections) -> None:
        key, every_ns = (event.camera, event.kind), int(self._options.every_s * 1e9)
        if key in self._taken_ns and event.at_ns - self._taken_ns[key] < every_ns:
            return
        self._taken_ns[key] = event.at_ns
        target = self._folder / _name(event, {*self._kept})
        protect_source(frame, target)
        ok, data = cv2.imencode(".jpg", draw(frame.image, detections))
        if not ok:
            raise OutputError(f"cannot encode a {frame.image.shape[1]} x {frame.image.shape[0]} image as JPEG")
        draft = Draft(target)
        try:
            draft.fill(bytes(data))
            draft.publish()
        finally:
            draft.discard()
        self._kept.append(target.name)
        while len(self._kept) > self._options.keep:
            with as_output_error(self._folder):
                (self._folder / self._kept.popleft()).unlink(missing_ok=True)

    def close(self) -> None:
        """Forget the frames; the pictures are whole."""
        self._newest.clear()
        self._pending.clear()

    def abort(self) -> None:
        """Forget the frames; the pictures are whole."""
        self.close()


def _name(event: Event, taken: set[str]) -> str:
    """A file name from when, which camera and what; numbered where there is one already."""
    seconds, rest = divmod(event.time_ns, 10**9)
    moment = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest // 10**6:03d}Z"
    words = [event.camera, event.kind, *(str(event.data[key]) for key in _NAMED_BY if key in event.data)]
    what = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-.")[:40] for word in words if word)
    name, number = f"{moment}_{what}.jpg", 1
    while name in taken:
        number += 1
        name = f"{moment}_{what}_{number}.jpg"
    return name
