"""What the run wrote last, kept for whoever looks: written by the run's thread, read by the server's."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edge_retina.events import Event
from edge_retina.sources import redact
from edge_retina.types import Detections, Frame
from edge_retina.web.metrics import Metrics
from edge_retina.web.stats import BUCKET_S, BUCKETS, Bucket, CameraStats, percentile

__all__ = ["Board", "Note", "Shown"]

# A reader of detections that falls behind by more gets each camera's newest alone.
_RESULTS_KEPT = 128
_NOTES_KEPT = 256
_NOTES_SHOWN = 20
# More lines than that nobody tells apart; the rest is one more.
_CLASSES_SHOWN = 6
_OTHERS = "other"


@dataclass(frozen=True, eq=False)
class Shown:
    """One result. sequence: of all that was written, from 1. age_ms: from capture to result, None for a file."""

    sequence: int
    camera: str
    frame: Frame = field(repr=False)
    detections: Detections = field(repr=False)
    age_ms: float | None = None

    @cached_property
    def message(self) -> bytes:
        """The result as a server-sent event; made when somebody reads, once."""
        frame = self.frame
        row: dict[str, Any] = {
            "camera": self.camera,
            "source": redact(frame.source),
            "frame": frame.index,
            "timestamp_ns": frame.timestamp_ns,
        }
        if self.age_ms is not None:
            row["age_ms"] = round(self.age_ms, 1)
        if frame.stale:
            row["stale"] = True
        height, width = frame.image.shape[:2]
        row |= {"width": width, "height": height, "detections": self.detections.to_json()}
        return message("detections", row)


@dataclass(frozen=True, eq=False)
class Note:
    """One event, without passwords. sequence: of all that was written."""

    sequence: int
    camera: str
    row: dict[str, Any]

    @cached_property
    def message(self) -> bytes:
        """The event as a server-sent one; made when somebody reads, once."""
        return message("event", self.row)


def message(kind: str, row: object) -> bytes:
    """A server-sent event. kind: one word; row: becomes JSON, which is one line."""
    try:
        text = json.dumps(row, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):  # not a number, or not a plain value: rare, so looked for only now
        text = json.dumps(_clean(row), separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()


class Board:
    """The newest of every camera, and the last results and events of all. Thread-safe; writing never waits for readers.

    on_change is called after each write, by the writer's thread.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.sequence = 0
        self._metrics = metrics
        self._clock = clock
        self._started_ns = clock()
        self._lock = threading.Lock()
        self._cameras: dict[str, CameraStats] = {}
        self._newest: dict[str, Shown] = {}
        self._results: deque[Shown] = deque(maxlen=_RESULTS_KEPT)
        self._notes: deque[Note] = deque(maxlen=_NOTES_KEPT)
        metrics.watch(self.ages_and_states)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Take a result."""
        camera = redact(frame.camera or frame.source) or "camera"
        with self._lock:
            now_ns = self._clock()
            stats = self._stats(camera, now_ns)
            drops = stats.add(frame, detections, now_ns)
            counts = stats.counts
            self.sequence += 1
            shown = Shown(self.sequence, camera, frame, detections, frame.age_ms(now_ns))
            self._newest[camera] = shown
            self._results.append(shown)
        self._metrics.result(camera, counts, drops, shown.age_ms)
        self.on_change()

    def event(self, event: Event) -> None:
        """Take an event."""
        row = _clean(event.to_json())
        camera = str(row["camera"])
        known = Event(event.kind, camera, event.at_ns, event.time_ns, redact(event.reason))
        with self._lock:
            self.sequence += 1
            self._notes.append(Note(self.sequence, camera, row))
            again = bool(camera) and self._stats(camera, self._clock()).hear(known, self._clock())
        self._metrics.event(event.kind, camera, again)
        self.on_change()

    def cameras(self) -> list[str]:
        """Their names, in the order in which they appeared."""
        with self._lock:
            return list(self._cameras)

    def newest(self, camera: str) -> Shown | None:
        """The last result of a camera."""
        with self._lock:
            return self._newest.get(camera)

    def since(self, sequence: int) -> list[Shown | Note]:
        """Results and events written after `sequence`, in order; each camera's newest where too many results were."""
        with self._lock:
            results: Sequence[Shown] = [shown for shown in self._results if shown.sequence > sequence]
            if len(results) == _RESULTS_KEPT:
                results = [shown for shown in self._newest.values() if shown.sequence > sequence]
            notes = [note for note in self._notes if note.sequence > sequence]
        return sorted([*results, *notes], key=lambda item: item.sequence)

    def ages_and_states(self) -> dict[str, tuple[float | None, str]]:
        """By camera: seconds since its newest result was captured, None for a file, and its state."""
        with self._lock:
            now_ns = self._clock()
            return {
                name: (None if (at := stats.captured_ns) is None else (now_ns - at) / 1e9, stats.state(now_ns)[0])
                for name, stats in self._cameras.items()
            }

    def version(self) -> tuple[int, int]:
        """Changes when the history does: with each step, and with each event."""
        with self._lock:
            return self._clock() // (BUCKET_S * 1_000_000_000), self._notes[-1].sequence if self._notes else 0

    def summary(self) -> dict[str, Any]:
        """All cameras now, as plain values."""
        now_ns = self._clock()
        rows = []
        for name in self.cameras():
            with self._lock:  # for each anew, so that who writes does not wait for all
                rows.append({"name": name} | self._cameras[name].to_json(now_ns))
        return {"time": round(time.time(), 3), "uptime_s": round((now_ns - self._started_ns) / 1e9, 1), "cameras": rows}

    def history(self) -> dict[str, Any]:
        """The last minutes in steps of BUCKET_S: of each class how many were in view, of each camera its latency.

        A step in which no frame came has None. The last events stand beside it.
        """
        with self._lock:
            last = self._clock() // (BUCKET_S * 1_000_000_000)
            numbers = range(last - BUCKETS, last)
            series = {name: stats.history(numbers) for name, stats in self._cameras.items()}
            notes = [note.row for note in self._notes][-_NOTES_SHOWN:]
        # Buckets of the past are not written any more, so the rest needs no lock.
        return {
            "step_s": BUCKET_S,
            "classes": _in_view(list(series.values())),
            "latency": [
                {"camera": name, **{f"p{share}": _latency(buckets, share) for share in (50, 99)}}
                for name, buckets in series.items()
                if any(bucket is not None and bucket.ages for bucket in buckets)
            ],
            "events": notes,
        }

    def _stats(self, camera: str, now_ns: int) -> CameraStats:
        if camera not in self._cameras:
            self._cameras[camera] = CameraStats(now_ns)
        return self._cameras[camera]


def _in_view(series: list[list[Bucket | None]]) -> list[dict[str, Any]]:
    """Per class the mean number in a frame, summed over cameras; the most frequent classes, then all others in one."""
    totals: Counter[str] = Counter()
    for buckets in series:
        for bucket in buckets:
            totals.update({} if bucket is None else bucket.counts)
    shown = [name for name, _ in totals.most_common(_CLASSES_SHOWN)]
    steps = []
    for step in zip(*series, strict=True):
        there = [bucket for bucket in step if bucket is not None]
        means: defaultdict[str, float] = defaultdict(float)
        for bucket in there:
            for name, count in bucket.counts.items():
                means[name if name in shown else _OTHERS] += count / bucket.frames
        steps.append(means if there else None)
    names = sorted(shown) + ([_OTHERS] if len(totals) > len(shown) and _OTHERS not in shown else [])
    return [
        {"name": name, "values": [None if step is None else round(step[name], 2) for step in steps]} for name in names
    ]


def _latency(buckets: list[Bucket | None], share: float) -> list[float | None]:
    values = (None if bucket is None else percentile(sorted(bucket.ages), share) for bucket in buckets)
    return [None if value is None else round(value, 1) for value in values]


def _clean(value: Any) -> Any:
    """The value fit for JSON, and without passwords, however deep they lie."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_clean(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_clean(item) for item in value]
    return redact(str(value))
