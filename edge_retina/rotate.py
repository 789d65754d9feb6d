"""JSON lines in parts of a bounded size: `out.jsonl?rotate=100MB&keep=10`.

`out.jsonl` is the part being written. Full, it is renamed to `out.000001.jsonl`, then `out.000002.jsonl` and so on: a
part never changes its name again, so that whoever collects parts takes each once. Of full parts the newest `keep` stay.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_retina.drafts import as_output_error
from edge_retina.errors import UsageError
from edge_retina.events import Event
from edge_retina.jsonl import JsonLines, event_line, json_line
from edge_retina.query import read_query
from edge_retina.sink import Sink, protect_source
from edge_retina.types import Detections, Frame

__all__ = ["RotatingLines", "Rotation", "parts_of"]

_KEEP = 10
_LEAST_BYTES = 1000
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a part is full and how many full parts stay. most_bytes: of one part. keep: full parts, 1 or more."""

    most_bytes: int
    keep: int = _KEEP

    @classmethod
    def parse(cls, query: str) -> Rotation:
        """The rotation that `rotate=100MB&keep=10` means. Raises UsageError."""
        options = read_query(query, ("rotate", "keep"), example="out.jsonl?rotate=100MB&keep=10")
        if "rotate" not in options:
            raise UsageError(f"{query!r} says how many parts to keep, but not how large; add rotate=100MB")
        keep = options.get("keep", str(_KEEP))
        if not (keep.isdecimal() and keep.isascii() and 1 <= int(keep) <= 999_999):
            raise UsageError(f"keep wants a count of files from 1 to 999999, found {keep!r}")
        return cls(_bytes(options["rotate"]), int(keep))


def _bytes(text: str) -> int:
    """Bytes that `500k`, `100MB` or `1.5GiB` means. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmg]i?)?b?", text.strip().lower())
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < _LEAST_BYTES:
        raise UsageError(f"rotate wants a size of {_LEAST_BYTES} bytes or more, such as 100MB or 1GiB, found {text!r}")
    return size


def parts_of(path: Path) -> list[Path]:
    """The full parts of `path`, oldest first. Raises OutputError where the folder cannot be read."""
    pattern = re.compile(re.escape(path.stem) + r"\.([0-9]{6,12})" + re.escape(path.suffix))
    with as_output_error(path):
        names = os.listdir(path.parent) if path.parent.is_dir() else []
    found = sorted((int(match[1]), name) for name in names if (match := pattern.fullmatch(name)))
    return [path.parent / name for _, name in found]


class RotatingLines(Sink):
    """JSON lines in parts; a line is never split over two, one longer than a part has a part to itself.

    What an earlier run left under `path` becomes a full part. One process at a time may write there.
    Raises UsageError for a device or a pipe, OutputError where nothing can be written.
    """

    def __init__(self, path: Path, rotation: Rotation) -> None:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is no file and cannot be rotated; leave out ?rotate=")
        self._path, self._rotation = path, rotation
        self._lines: JsonLines | None = None
        self._begin()

    def write(self, frame: Frame, detections: Detections) -> None:
        """Append the frame's line. Raises OutputError."""
        protect_source(frame, self._path)
        self._append(json_line(frame, detections).encode())

    def event(self, event: Event) -> None:
        """Append the event's line. Raises OutputError."""
        self._append(event_line(event).encode())

    def _append(self, line: bytes) -> None:
        lines = self._lines if self._lines is not None else self._begin()
        if lines.length and lines.length + len(line) > self._rotation.most_bytes:
            self.close()
            lines = self._begin()
        if lines.length == 0:
            self._put_away()
        lines.append(line)

    def _begin(self) -> JsonLines:
        # Not in place on Windows: it renames no open file, and there the part is written under its own name.
        if sys.platform == "win32":
            self._put_away()
        self._lines = JsonLines(self._path)
        return self._lines

    def _put_away(self) -> None:
        """Give what stands under the name the next number, and remove the oldest parts beyond those to keep."""
        if not self._path.is_file():
            return
        parts = parts_of(self._path)
        number = 1 + (int(parts[-1].name[len(self._path.stem) + 1 : -len(self._path.suffix)]) if parts else 0)
        target = self._path.with_name(f"{self._path.stem}.{number:06d}{self._path.suffix}")
        with as_output_error(target):
            self._path.rename(target)
            for old in [*parts, target][: -self._rotation.keep]:
                old.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the part being written. Raises OutputError."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def abort(self) -> None:
        """Close the part being written; lines that are written stay."""
        self.close()
