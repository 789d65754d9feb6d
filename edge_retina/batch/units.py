"""A unit: what one worker does in one go, and what is not done again once it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edge_retina.batch.listing import SourceFile

__all__ = ["Unit", "make_units", "sources_digest"]

# Pictures of one unit: few enough that little is lost with a worker, and enough that handing them out costs nothing.
_FEWEST, _MOST = 8, 64
# Units that a batch of pictures is cut into while they stay within those limits.
_UNITS = 256


@dataclass(frozen=True, slots=True)
class Unit:
    """A video, or some pictures. key: 16 hex digits over the batch's digest and what the files were when listed."""

    key: str
    files: tuple[SourceFile, ...]

    def to_json(self) -> str:
        """As text, for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Unit:
        """What `to_json` wrote."""
        data = json.loads(text)
        return cls(data["key"], tuple(SourceFile(**file) for file in data["files"]))


def make_units(files: Sequence[SourceFile], digest: str) -> list[Unit]:
    """The files cut into units, in their order; by the files alone, so that a batch that goes on finds its units again.

    digest: of all else that decides on results, see `parts.Job`.
    """
    pictures = sum(not file.is_video for file in files)
    most = min(max(-(-pictures // _UNITS), _FEWEST), _MOST)
    groups: list[list[SourceFile]] = []
    for file in files:
        if file.is_video or not groups or groups[-1][0].is_video or len(groups[-1]) == most:
            groups.append([])
        groups[-1].append(file)
    return [Unit(sources_digest(group, digest)[:16], tuple(group)) for group in groups]


def sources_digest(files: Sequence[SourceFile], start: str = "") -> str:
    """sha256 in hex over names, sizes and times of the files, and `start`."""
    digest = hashlib.sha256(start.encode())
    for file in files:
        digest.update(f"\0{file.name}\0{file.size}\0{file.mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
