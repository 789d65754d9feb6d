"""The one frame of a live source that waits to be worked on, and the account of all others."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from dataclasses import dataclass

from edge_retina.errors import UsageError
from edge_retina.events import Event
from edge_retina.types import Frame

__all__ = ["Bell", "CameraCounts", "Limits", "Newest"]


# One frame in a quarter of an hour.
_SLOWEST_FPS = 0.001


class Bell:
    """One lock for all feeds of a run, and the condition that one who waits for any of them waits on."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.rung = threading.Condition(self.lock)


@dataclass(frozen=True, slots=True)
class CameraCounts:
    """Frames so far: captured == processed + dropped + waiting, always.

    waiting: 0 or 1. reconnects: how often the stream came back. outages: how often it went away.
    """

    captured: int = 0
    processed: int = 0
    dropped: int = 0
    waiting: int = 0
    reconnects: int = 0
    outages: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Which frames are taken. fps: at most so many a second. max_age_ms: none that is older. None: no limit.

    frame_size: (H, W) that frames must have. stale_s: age from which a frame is marked as stale. Raises UsageError.
    """

    fps: float | None = None
    max_age_ms: float | None = None
    frame_size: tuple[int, int] | None = None
    stale_s: float = 2.0

    def __post_init__(self) -> None:
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps >= _SLOWEST_FPS):
            raise UsageError(f"--fps wants frames a second, {_SLOWEST_FPS:g} or more, found {self.fps}")
        if self.max_age_ms is not None and not (math.isfinite(self.max_age_ms) and self.max_age_ms > 0):
            raise UsageError(f"--max-age wants milliseconds above 0, found {self.max_age_ms}")

    def unfit(self, shape: tuple[int, int]) -> str:
        """What is wrong with frames of that (H, W); empty where nothing is."""
        if self.frame_size is None or self.frame_size == shape:
            return ""
        height, width = self.frame_size
        return (
            f"this bundle takes frames of {width}x{height} only, found {shape[1]}x{shape[0]}; "
            "for frames of any size build it without --frame-size"
        )


class Newest:
    """The newest frame and the counts; the lock of `bell` is held for each call, and may be held by the caller."""

    def __init__(self, name: str, bell: Bell, limits: Limits) -> None:
        self._name, self._bell, self._limits = name, bell, limits
        self._waiting: Frame | None = None
        self._due_ns = self._last_ns = 0
        self.shape: tuple[int, int] | None = None
        self.captured = self.processed = self.dropped = 0

    @property
    def waits(self) -> bool:
        """True while a frame waits."""
        return self._waiting is not None

    def put(self, frame: Frame) -> Event | None:
        """Take a new frame in place of the one that waits; the event to tell of where its size is another than before.

        Raises UsageError where the very first frame has a size that the bundle does not take.
        """
        with self._bell.lock:
            shape = (frame.image.shape[0], frame.image.shape[1])
            known, self.shape = self.shape, shape
            unfit = self._limits.unfit(shape)
            if unfit and known is None:
                raise UsageError(f"{frame.source}: {unfit}")
            self.drop()
            # Later than the one before, also across a reconnect.
            self._last_ns = max(self._last_ns + 1, frame.timestamp_ns)
            self._waiting = dataclasses.replace(
                frame, index=self.captured, timestamp_ns=self._last_ns, camera=self._name
            )
            self.captured += 1
            if unfit:
                self.drop()
        if known in (None, shape):
            return None
        return Event("size", self._name, reason=unfit, data={"width": shape[1], "height": shape[0]})

    def take(self, now_ns: int | None = None) -> Frame | None:
        """The frame that waits; None where there is none, it is not yet due, or it is too old."""
        with self._bell.lock:
            now = time.monotonic_ns() if now_ns is None else now_ns
            frame = self._waiting
            if frame is None or now < self._due_ns:
                return None
            age_ms = (now - frame.timestamp_ns) / 1_000_000
            if self._limits.max_age_ms is not None and age_ms > self._limits.max_age_ms:
                self.drop()
                return None
            self._waiting = None
            self.processed += 1
            if self._limits.fps is not None:
                # Counted from when it was due, for the cap to be met on average; not from long ago.
                interval_ns = round(1_000_000_000 / self._limits.fps)
                self._due_ns = max(self._due_ns + interval_ns, now)
        return dataclasses.replace(frame, stale=True) if age_ms > self._limits.stale_s * 1000 else frame

    def due_s(self, now_ns: int) -> float | None:
        """Seconds until the frame that waits may be taken; None where none waits."""
        with self._bell.lock:
            return None if self._waiting is None else max(0.0, (self._due_ns - now_ns) / 1_000_000_000)

    def drop(self) -> None:
        """Nobody will take the frame that waits."""
        with self._bell.lock:
            if self._waiting is not None:
                self._waiting = None
                self.dropped += 1
