"""How long a frame takes: frames in memory to Detections, warm-up apart, several detectors in alternating rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_retina.detector import Detector
from edge_retina.errors import InputError
from edge_retina.types import U8

__all__ = ["NOISY", "Timing", "measure", "percentiles"]

# Medians of rounds that vary by more (standard deviation over mean) say more of the machine than of the model.
NOISY = 0.1
_PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(frozen=True)
class Timing:
    """What one detector took. latency_ms: of every frame after the warm-up, in their order.

    rounds_ms: the median of each round. counts: of a TensorRT runtime what its workers did and hold, else empty.
    """

    name: str
    runtime: str
    latency_ms: tuple[float, ...]
    rounds_ms: tuple[float, ...]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def variation(self) -> float:
        """Coefficient of variation of the rounds' medians."""
        return float(np.std(self.rounds_ms) / np.mean(self.rounds_ms))

    def to_json(self) -> dict[str, Any]:
        """Plain values, times in milliseconds."""
        p50, p90, p99 = percentiles(self.latency_ms)
        return {
            "name": self.name,
            "runtime": self.runtime,
            "frames": len(self.latency_ms),
            "p50_ms": round(p50, 4),
            "p90_ms": round(p90, 4),
            "p99_ms": round(p99, 4),
            "fps": round(1000 / (sum(self.latency_ms) / len(self.latency_ms)), 2),
            "variation": round(self.variation, 4),
            "noisy": self.variation > NOISY,
            **({"counts": self.counts} if self.counts else {}),
        }


def percentiles(latency_ms: Sequence[float]) -> tuple[float, float, float]:
    """The 50th, 90th and 99th percentile."""
    p50, p90, p99 = np.percentile(np.array(latency_ms, np.float64), _PERCENTILES)
    return float(p50), float(p90), float(p99)


def measure(
    detectors: Sequence[tuple[str, Detector]],
    images: Sequence[U8],
    *,
    frames: int = 200,
    rounds: int = 5,
    warm_up: int = 10,
    on_step: Callable[[int, int], None] = lambda *_: None,
) -> list[Timing]:
    """Time `frames` frames a detector, one at a time, dealt out over rounds in which the detectors take turns.

    detectors: name and detector. images: uint8 (H, W, 3), BGR, taken in turn; at least one. warm_up: frames a detector
    before the first round, which are not counted: allocation, graph capture, caches. Raises InputError for no images,
    and what the detectors raise.
    """
    if not images:
        raise InputError("wanted frames to measure on, found none; give --source with a picture, a folder or a video")
    rounds = min(rounds, frames)
    parts = [frames // rounds + (number < frames % rounds) for number in range(rounds)]
    total, done = len(detectors) * (warm_up + frames), 0
    latency: list[list[list[float]]] = [[] for _ in detectors]
    for number, part in enumerate([warm_up, *parts]):
        for (_, detector), taken in zip(detectors, latency, strict=True):
            times = []
            for i in range(part):
                image = images[i % len(images)]
                start = time.perf_counter()
                detector(image)
                times.append((time.perf_counter() - start) * 1000)
            if number:
                taken.append(times)
            done += part
            on_step(done, total)
    return [
        Timing(
            name,
            detector.runtime.name,
            tuple(value for times in taken for value in times),
            tuple(float(np.median(times)) for times in taken),
            _counts(detector),
        )
        for (name, detector), taken in zip(detectors, latency, strict=True)
    ]


def _counts(detector: Detector) -> dict[str, int]:
    counts = getattr(detector.runtime, "counts", None)
    return {} if counts is None else {key: int(value) for key, value in counts._asdict().items()}
