"""What happens in a run beside its frames: a camera goes and comes back, a sink fails, something crosses a line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["Event"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    kind: of a camera its new state, "connecting", "live", "stale" (no frame for too long) or "down" (given up for now,
    another attempt follows), or "size" (its frames changed their size); "sink" for one that failed or lost results;
    trackers and zones have kinds of their own. camera: its name, "" where none is meant.
    at_ns: monotonic clock. time_ns: wall clock, since 1970. reason: text without passwords. data: plain values.
    """

    kind: str
    camera: str = ""
    at_ns: int = field(default_factory=time.monotonic_ns)
    time_ns: int = field(default_factory=time.time_ns)
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def to_json(self) -> dict[str, Any]:
        """Plain values, those of `data` beside the others; what is empty is left out."""
        row: dict[str, Any] = {"event": self.kind, "camera": self.camera, "at_ns": self.at_ns, "time_ns": self.time_ns}
        if self.reason:
            row["reason"] = self.reason
        return row | {key: value for key, value in self.data.items() if key not in row}
