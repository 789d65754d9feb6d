"""What lies before and behind the detector: reading frames from a source, writing results to sinks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_retina.bench.timing import percentiles
from edge_retina.detector import Detector
from edge_retina.sinks import open_sink
from edge_retina.sources import is_live, open_source, redact
from edge_retina.stream import run
from edge_retina.types import Detections, Frame

__all__ = ["Ends", "Loop", "Read", "read_frames", "run_loop", "time_ends", "time_sinks", "try_outs"]

# Of a frame and its detections, for the sinks.
_KEPT = 16


@dataclass(frozen=True, eq=False)
class Read:
    """Frames of a source held in memory, at most as many as asked for. capture_ms: what each that was read took."""

    frames: tuple[Frame, ...]
    capture_ms: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Loop:
    """What a short `run` from source to sinks did. capture_ms: of a live source, from a frame's time stamp to when it
    was worked on: its way into memory and its wait; empty of others. age_ms: to its result. dropped: frames that a
    newer one replaced.
    """

    frames: int
    fps: float
    capture_ms: tuple[float, ...]
    age_ms: tuple[float, ...]
    dropped: int
    results: tuple[tuple[Frame, Detections], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "frames": self.frames,
            "fps": round(self.fps, 2),
            "dropped": self.dropped,
            "age": percentiles(self.age_ms) if self.age_ms else None,
        }


def read_frames(source: str, *, most: int, held: int) -> Read:
    """Read up to `most` frames, each timed, and keep the first `held`. Raises UsageError, InputError."""
    kept: list[Frame] = []
    times: list[float] = []
    with closing(open_source(source, max_frames=most)) as frames:
        while True:
            start = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                return Read(tuple(kept), tuple(times))
            times.append((time.perf_counter() - start) * 1000)
            if len(kept) < held:
                kept.append(frame)


@dataclass(frozen=True, eq=False)
class Ends:
    """Both ends of one source. source: without passwords. loop: of a live source."""

    source: str
    capture_ms: tuple[float, ...]
    sinks_ms: tuple[float, ...]
    loop: Loop | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "source": self.source,
            "capture": percentiles(self.capture_ms) if self.capture_ms else None,
            "sinks": percentiles(self.sinks_ms) if self.sinks_ms else None,
            "run": None if self.loop is None else self.loop.to_json(),
        }


def time_ends(detector: Detector, source: str, outs: Sequence[str], read: Read, *, frames: int) -> Ends:
    """What a frame takes to come in, and a result to be written.

    read: what was read of the source before. Of a live source a short `run` tells how long a frame waits until it is
    worked on; standard input cannot be read again. Raises what the source, the sinks and the detector raise.
    """
    loop = None
    if is_live(source) and not source.startswith("stdin:"):
        loop = run_loop(detector, source, outs, frames=frames)
    results = (loop and loop.results) or [(frame, detector(frame.image)) for frame in read.frames]
    capture_ms = loop.capture_ms if loop is not None and loop.capture_ms else read.capture_ms
    return Ends(redact(source), capture_ms, time_sinks(results, outs, writes=frames), loop)


@contextmanager
def _outs(outs: Sequence[str]) -> Iterator[Sequence[str]]:
    """Those given, else a file of lines that is thrown away."""
    if outs:
        yield outs
        return
    with tempfile.TemporaryDirectory(prefix="edge-retina-bench-") as folder:
        yield [str(Path(folder) / "out.jsonl")]


def try_outs(outs: Sequence[str]) -> None:
    """Open and close all sinks, so that what cannot be written to is known before the work. Raises as open_sink."""
    with ExitStack() as stack:
        for place in outs:
            stack.enter_context(open_sink(place, fps=30.0))


def run_loop(detector: Detector, source: str, outs: Sequence[str], *, frames: int) -> Loop:
    """Run the stream itself for so many frames. Raises what `run` raises."""
    results: list[tuple[Frame, Detections]] = []

    def keep(frame: Frame, detections: Detections) -> None:
        if len(results) < _KEPT:
            results.append((frame, detections))

    with _outs(outs) as places:
        summary = run(detector, source, places, max_frames=frames, on_frame=keep)
    ages = tuple(summary.age_ms)
    waits = tuple(max(0.0, age - ms) for age, ms in zip(ages, summary.latency_ms, strict=False))
    dropped = sum(counts.dropped for counts in summary.cameras.values())
    return Loop(summary.frames, summary.fps, waits, ages, dropped, tuple(results))


def time_sinks(results: Sequence[tuple[Frame, Detections]], outs: Sequence[str], *, writes: int) -> tuple[float, ...]:
    """Milliseconds that all sinks together take to write one frame's result; in `run` each has a thread of its own.

    The first write, which opens files and encoders, is not counted. Raises UsageError, OutputError.
    """
    times = []
    with _outs(outs) as places, ExitStack() as stack:
        sinks = [stack.enter_context(open_sink(place, fps=30.0)) for place in places]
        for i in range(writes + 1):
            frame, detections = results[i % len(results)]
            start = time.perf_counter()
            for sink in sinks:
                sink.write(frame, detections)
            times.append((time.perf_counter() - start) * 1000)
    return tuple(times[1:])
