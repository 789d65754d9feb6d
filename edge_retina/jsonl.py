"""JSON lines: one object per frame, and one per event, in a file or on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from edge_retina.drafts import Draft, as_output_error
from edge_retina.errors import OutputError
from edge_retina.events import Event
from edge_retina.sink import Sink, StopStream, protect_source
from edge_retina.types import Detections, Frame

__all__ = ["JsonLines", "Stdout", "event_line", "json_line"]


def json_line(frame: Frame, detections: Detections) -> str:
    """A frame and its detections as one line of JSON, newline included.

    Of a live frame also its age now, and the wall clock at its capture: a monotonic clock says nothing a month later.
    """
    row: dict[str, object] = {"source": frame.source, "frame": frame.index, "timestamp_ns": frame.timestamp_ns}
    if frame.camera:
        row["camera"] = frame.camera
    if frame.name:
        row["name"] = frame.name
    if frame.live:
        age_ns = time.monotonic_ns() - frame.timestamp_ns
        row |= {"time_ns": time.time_ns() - age_ns, "age_ms": round(age_ns / 1_000_000, 2)}
    if frame.stale:
        row["stale"] = True
    height, width = frame.image.shape[:2]
    row |= {"width": width, "height": height, "detections": detections.to_json()}
    return json.dumps(row, allow_nan=False) + "\n"


def event_line(event: Event) -> str:
    """An event as one line of JSON, newline included; its key "event" tells it from a frame's."""
    return json.dumps(event.to_json(), allow_nan=False) + "\n"


class Stdout(Sink):
    """Lines on stdout, each flushed. Raises OutputError where it is closed, StopStream when the reader has gone."""

    def __init__(self) -> None:
        if sys.stdout is None:
            raise OutputError("stdout is closed; leave out >&- or write to a file: --out out.jsonl")

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the frame's line. Raises OutputError, StopStream."""
        self._put(json_line(frame, detections))

    def event(self, event: Event) -> None:
        """Write the event's line. Raises OutputError, StopStream."""
        self._put(event_line(event))

    def _put(self, line: str) -> None:
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError as exc:
            # What is left in the buffer would raise once more when Python exits.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(exc, BrokenPipeError):
                raise StopStream("the reader of stdout has gone") from exc
            raise OutputError(f"cannot write to stdout: {exc.strerror}; check disk space") from exc

    def close(self) -> None:
        """Nothing is held."""

    def abort(self) -> None:
        """Nothing is held."""


class JsonLines(Sink):
    """Lines in a file, which has its name from the first complete line on; whole lines, whatever happens."""

    def __init__(self, path: Path, _fps: float = 30.0) -> None:
        # A device or a pipe cannot be replaced, and holds nothing worth keeping; Windows renames no open file.
        in_place = sys.platform == "win32" or (path.exists() and not path.is_file())
        self._draft = Draft(path, in_place=in_place)
        self.length = 0
        with as_output_error(path):
            # Unbuffered: a line is in the file when write() returns.
            self._file = open(self._draft.path, "wb", buffering=0)  # noqa: SIM115 - close() closes it

    def write(self, frame: Frame, detections: Detections) -> None:
        """Append the frame's line. Raises OutputError."""
        if self.length == 0:
            protect_source(frame, self._draft.target)
        self.append(json_line(frame, detections).encode())

    def event(self, event: Event) -> None:
        """Append the event's line. Raises OutputError."""
        self.append(event_line(event).encode())

    def append(self, line: bytes) -> None:
        """Append one whole line, or nothing of it. Raises OutputError."""
        try:
            with as_output_error(self._draft.target):
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._draft.publish()
        except BaseException:
            with contextlib.suppress(OSError):  # of a half-written line nothing stays
                self._file.truncate(self.length)
                self._file.seek(self.length)
            raise
        self.length += len(line)

    def close(self) -> None:
        """Close the file; without a line there is none. Raises OutputError."""
        self._file.close()
        self._draft.discard()

    def abort(self) -> None:
        """Close the file; lines that are written stay."""
        self.close()
