"""What is known of one camera by its results: rate, age, state, counts; now and over the last minutes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_retina.events import Event
from edge_retina.types import Detections, Frame

__all__ = ["BUCKETS", "BUCKET_S", "STATES", "Bucket", "CameraStats", "percentile"]

STATES = ("connecting", "live", "stale", "down")
BUCKET_S = 5
BUCKETS = 120  # ten minutes
_S = 1_000_000_000
_RATE_S = 5
_LATENCY_S = 60
# A camera that says nothing of its state is stale after this long without a frame.
STALLED_S = 3.0


def percentile(values: Sequence[float], per_cent: float) -> float | None:
    """The one of the ascending values that per_cent of them do not exceed (nearest rank); None of none.

    >>> percentile([1.0, 2.0, 3.0], 50), percentile([], 50)
    (2.0, None)
    """
    if not values:
        return None
    rank = -(-len(values) * per_cent // 100)
    return values[max(0, int(rank) - 1)]


@dataclass
class Bucket:
    """BUCKET_S seconds of results. number: of the bucket, by the monotonic clock. ages: ms from capture to result."""

    number: int
    frames: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    ages: list[float] = field(default_factory=list)


class CameraStats:
    """The numbers of one camera. Times are monotonic nanoseconds, handed in; not thread-safe."""

    def __init__(self, now_ns: int) -> None:
        self.frames = self.drops = self.reconnects = 0
        self.live = False
        self.shape = (0, 0)
        self.counts: Counter[str] = Counter()
        self.last_ns: int | None = None
        self.captured_ns: int | None = None
        self.reason = ""
        self.buckets: deque[Bucket] = deque(maxlen=BUCKETS + 1)  # the one being filled, and those that are full
        self._state = "connecting"
        self._state_ns = now_ns
        self._told_ns = 0  # when the camera last spoke for itself
        self._was_live = False
        self._index: int | None = None
        self._times: deque[int] = deque(maxlen=1024)
        self._ages: deque[tuple[int, float]] = deque(maxlen=4096)

    def add(self, frame: Frame, detections: Detections, now_ns: int) -> int:
        """Take a result; returns how many frames of the camera were dropped just before it."""
        drops = 0
        if self._index is not None and frame.live and frame.index > self._index:
            drops = frame.index - self._index - 1
        self._index = frame.index
        self.drops += drops
        self.frames += 1
        self.live = frame.live
        self.shape = (frame.image.shape[0], frame.image.shape[1])
        self.counts = Counter(map(detections.name_of, detections.labels.tolist()))
        self.last_ns = now_ns
        self._times.append(now_ns)
        bucket = self._bucket(now_ns)
        bucket.frames += 1
        bucket.counts.update(self.counts)
        age = frame.age_ms(now_ns)
        if age is not None:
            self.captured_ns = frame.timestamp_ns
            self._ages.append((now_ns, age))
            bucket.ages.append(age)
        # A frame from before its camera went away says nothing of now.
        if not frame.stale and (not frame.live or frame.timestamp_ns >= self._told_ns):
            self._enter("live", now_ns)
        return drops

    def hear(self, event: Event, now_ns: int) -> bool:
        """Take a camera's event; returns whether it was a reconnection."""
        if event.kind not in STATES:
            return False
        again = event.kind == "live" and self._was_live and self._state != "live"
        self.reconnects += again
        self._enter(event.kind, now_ns)
        self._told_ns = event.at_ns
        self.reason = event.reason
        return again

    def state(self, now_ns: int) -> tuple[str, float]:
        """One of STATES, and for how many seconds it has been that."""
        if self._state == "live" and self.last_ns is not None and now_ns - self.last_ns > STALLED_S * _S:
            return "stale", (now_ns - self.last_ns) / _S
        return self._state, max(0, now_ns - self._state_ns) / _S

    def fps(self, now_ns: int) -> float:
        """Results per second, over the last seconds."""
        times = [time for time in self._times if now_ns - time <= _RATE_S * _S]
        span = times[-1] - times[0] if times else 0
        return (len(times) - 1) * _S / span if span else 0.0

    def to_json(self, now_ns: int) -> dict[str, Any]:
        """Plain values, as the page shows them."""
        state, seconds = self.state(now_ns)
        ages = sorted(age for at, age in self._ages if now_ns - at <= _LATENCY_S * _S)
        return {
            "state": state,
            "state_s": round(seconds, 1),
            "reason": self.reason if state != "live" else "",
            "live": self.live,
            "fps": round(self.fps(now_ns), 1),
            "frames": self.frames,
            "width": self.shape[1],
            "height": self.shape[0],
            "age_ms": None if self.captured_ns is None else round((now_ns - self.captured_ns) / 1e6),
            "latency_ms": {f"p{share}": _rounded(percentile(ages, share)) for share in (50, 90, 99)},
            "drops": self.drops,
            "reconnects": self.reconnects,
            "counts": dict(self.counts.most_common()),
        }

    def history(self, numbers: Iterable[int]) -> list[Bucket | None]:
        """The buckets of these numbers, None where no result fell into one."""
        there = {bucket.number: bucket for bucket in self.buckets}
        return [there.get(number) for number in numbers]

    def _enter(self, state: str, now_ns: int) -> None:
        if state == "live":
            self._was_live = True
        if state != self._state:
            self._state, self._state_ns = state, now_ns

    def _bucket(self, now_ns: int) -> Bucket:
        number = now_ns // (BUCKET_S * _S)
        if not self.buckets or self.buckets[-1].number != number:
            self.buckets.append(Bucket(number))
        return self.buckets[-1]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
