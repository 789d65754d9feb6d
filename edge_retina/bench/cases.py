"""Bundles opened, run once and made into cases; what a case of this batch cannot be said before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edge_retina.bench.benchmark import Case
from edge_retina.bench.machine import read_memory
from edge_retina.bench.models import Model
from edge_retina.bench.profile import profile_ort, profile_trt
from edge_retina.bench.stages import Profile
from edge_retina.bench.timing import of_detector
from edge_retina.detector import Detector
from edge_retina.errors import UsageError
from edge_retina.memory import release
from edge_retina.types import U8

__all__ = ["Opened", "cases", "open_model"]

Open = Callable[[], Detector]


@dataclass(frozen=True, eq=False)
class Opened:
    """A detector that has run once. load_ms, first_ms: what that took. memory_mib: what it added to this process.

    again: opens another of it.
    """

    model: Model
    detector: Detector
    again: Open
    load_ms: float
    first_ms: float
    memory_mib: float


def open_model(model: Model, again: Open, image: U8) -> Opened:
    """Open a model and run one frame. Raises what that raises."""
    release()
    before, start = read_memory().resident_mib, time.perf_counter()
    detector = again()
    try:
        loaded = time.perf_counter()
        detector(image)
        end = time.perf_counter()
    except BaseException:
        detector.close()
        raise
    grown = max(0.0, read_memory().resident_mib - before)
    return Opened(model, detector, again, (loaded - start) * 1000, (end - loaded) * 1000, grown)


def cases(
    opened: Opened, batches: Sequence[int], images: Sequence[U8], *, looks: int, threads: int | None = None
) -> list[Case]:
    """A case for each batch. looks: calls to profile, 0 for none. Raises UsageError for a batch it does not take."""
    detector, model = opened.detector, opened.model
    most = [n for n in (detector.bundle.manifest.batch_max, detector.runtime.batch_most) if n is not None]
    if most and max(batches) > min(most):
        raise UsageError(
            f"{model.name}: takes {min(most)} frame{'s' if min(most) > 1 else ''} in one run, found --batch "
            f"{max(batches)}; export the ONNX with a free batch axis, or leave it out"
        )
    size = detector.bundle.manifest.frame_size
    facts = {
        "bundle": str(model.bundle) if model.name == model.bundle.name else None,
        "digest": detector.bundle.digest,
        "precision": model.precision,
        "frame_size": None if size is None else list(size),
        "load_ms": round(opened.load_ms, 2),
        "first_ms": round(opened.first_ms, 2),
    }
    return [
        Case(
            of_detector(model.name, detector, batch),
            _profiler(opened, images, looks, batch, threads) if looks else None,
            facts,
            opened.memory_mib,
        )
        for batch in batches
    ]


def _profiler(
    opened: Opened, images: Sequence[U8], looks: int, batch: int, threads: int | None
) -> Callable[[], Profile]:
    if opened.detector.runtime.name == "ort":
        return partial(profile_ort, opened.detector.bundle, images, frames=looks, batch=batch, threads=threads)
    return partial(profile_trt, opened.again, images, frames=looks, batch=batch)
