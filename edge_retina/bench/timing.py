"""How long a frame takes: frames in memory to results, warm-up apart, several subjects in alternating rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_retina.detector import Detector
from edge_retina.errors import InputError
from edge_retina.types import U8

__all__ = ["NOISY", "PERCENTILES", "Subject", "Timing", "measure", "of_detector", "percentiles"]

# Medians of rounds that vary by more (standard deviation over mean) say more of the machine than of the model.
NOISY = 0.1
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True)
class Subject:
    """What is timed. call: gets an image, uint8 (H, W, 3) BGR; with batch 2 and more, a list of so many.

    runtime: what runs it, in a word. counts: asked after the last round, of what was done and is held; {} for nothing.
    """

    name: str
    runtime: str
    call: Callable[[Any], Any]
    batch: int = 1
    counts: Callable[[], Mapping[str, int]] = field(default=dict, repr=False)


def of_detector(name: str, detector: Detector, batch: int = 1) -> Subject:
    """A detector as a subject: frames in memory to Detections."""

    def counts() -> dict[str, int]:
        held = getattr(detector.runtime, "counts", None)
        return {} if held is None else {key: int(value) for key, value in held._asdict().items()}

    return Subject(name, detector.runtime.name, detector if batch == 1 else detector.batch, batch, counts)


@dataclass(frozen=True)
class Timing:
    """What one subject took. latency_ms: of every call after the warm-up, in their order.

    rounds_ms: the median of each round. warm_up_ms: of the calls before. batch: frames in one call. counts: of a
    TensorRT runtime what its workers did and hold, else empty.
    """

    name: str
    runtime: str
    latency_ms: tuple[float, ...]
    rounds_ms: tuple[float, ...]
    warm_up_ms: tuple[float, ...] = ()
    batch: int = 1
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def variation(self) -> float | None:
        """Coefficient of variation of the rounds' medians; None of one round, which says nothing of it."""
        return float(np.std(self.rounds_ms) / np.mean(self.rounds_ms)) if len(self.rounds_ms) > 1 else None

    @property
    def noisy(self) -> bool | None:
        """Whether the rounds vary by more than NOISY; None where that is not known."""
        return None if self.variation is None else self.variation > NOISY

    @property
    def mean_ms(self) -> float:
        """Of a call."""
        return sum(self.latency_ms) / len(self.latency_ms)

    @property
    def fps(self) -> float:
        """Frames a second, one call after the other."""
        return 1000 * self.batch / self.mean_ms

    def to_json(self) -> dict[str, Any]:
        """Plain values, times of a call in milliseconds."""
        return {
            "name": self.name,
            "runtime": self.runtime,
            "batch": self.batch,
            "frames": len(self.latency_ms) * self.batch,
            **percentiles(self.latency_ms),
            "mean_ms": round(self.mean_ms, 4),
            "fps": round(self.fps, 2),
            "warm_up": len(self.warm_up_ms),
            "rounds_ms": [round(value, 4) for value in self.rounds_ms],
            "variation": None if self.variation is None else round(self.variation, 4),
            "noisy": self.noisy,
            **({"counts": dict(self.counts)} if self.counts else {}),
        }


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50_ms, p90_ms, p99_ms and p99_9_ms, interpolated; of few values the last ones are the slowest of them."""
    found = np.percentile(np.array(milliseconds, np.float64), PERCENTILES)
    return {f"p{p:g}_ms".replace(".", "_"): round(float(v), 4) for p, v in zip(PERCENTILES, found, strict=True)}


def measure(
    subjects: Sequence[Subject],
    images: Sequence[U8],
    *,
    frames: int = 200,
    rounds: int = 10,
    warm_up: int = 10,
    on_step: Callable[[int, int], None] = lambda *_: None,
) -> list[Timing]:
    """Time `frames` calls of each subject, one at a time, dealt out over rounds in which the subjects take turns.

    images: uint8 (H, W, 3), BGR, taken in turn; at least one. warm_up: calls of each subject before the first round,
    which are not counted: allocation, graph capture, caches. Raises InputError for no images, and what the subjects
    raise.
    """
    if not images:
        raise InputError("wanted frames to measure on, found none; give --source with a picture, a folder or a video")
    rounds = min(rounds, frames)
    parts = [frames // rounds + (number < frames % rounds) for number in range(rounds)]
    total, done = len(subjects) * (warm_up + frames), 0
    latency: list[list[list[float]]] = [[] for _ in subjects]
    for part in [warm_up, *parts]:
        for subject, taken in zip(subjects, latency, strict=True):
            inputs = batches(images, subject.batch)
            times = []
            for i in range(part):
                given = inputs[i % len(inputs)]
                start = time.perf_counter()
                subject.call(given)
                times.append((time.perf_counter() - start) * 1000)
            taken.append(times)
            done += part
            on_step(done, total)
    return [
        Timing(
            subject.name,
            subject.runtime,
            tuple(value for times in counted for value in times),
            tuple(float(np.median(times)) for times in counted),
            tuple(first),
            subject.batch,
            subject.counts(),
        )
        for subject, (first, *counted) in zip(subjects, latency, strict=True)
    ]


def batches(images: Sequence[U8], batch: int) -> list[Any]:
    """What a subject of this batch is called with, in turn: the images, or lists of so many of them."""
    if batch == 1:
        return list(images)
    return [[images[(start + i) % len(images)] for i in range(batch)] for start in range(len(images))]
