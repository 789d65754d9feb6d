"""A pass of its own with the runtime's profiler on, so that no other timing pays for it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edge_retina.bench.stages import Profile
from edge_retina.bench.timing import batches, of_detector
from edge_retina.bundle import Bundle
from edge_retina.detector import Detector
from edge_retina.types import U8

__all__ = ["profile_ort", "profile_trt"]


def profile_ort(
    bundle: Bundle, images: Sequence[U8], *, frames: int, batch: int = 1, warm_up: int = 5, threads: int | None = None
) -> Profile:
    """Where the time of `frames` calls goes, in a session of its own on the CPU. Raises RuntimeFailure, InputError."""
    import onnx

    from edge_retina.bench.names import Names
    from edge_retina.bench.trace import read_profile, read_trace
    from edge_retina.runtime.ort import OrtRuntime

    model, inputs, call_ms = bundle.model(), batches(images, batch), []
    with tempfile.TemporaryDirectory(prefix="edge-retina-bench-") as folder:
        runtime = OrtRuntime(model, threads=threads, profile=Path(folder) / "trace")
        try:
            call = of_detector("", Detector(bundle, runtime), batch).call
            for i in range(warm_up + frames):
                start = time.perf_counter()
                call(inputs[i % len(inputs)])
                call_ms.append((time.perf_counter() - start) * 1000)
        finally:
            path = runtime.end_profile()
        runs = read_trace(path)
    names = Names(onnx.load_from_string(model), {operator.name for run in runs for operator in run})
    return read_profile(runs[warm_up:], call_ms[warm_up:], names)


def profile_trt(
    open_again: Callable[[], Detector], images: Sequence[U8], *, frames: int, batch: int = 1, warm_up: int = 5
) -> Profile:
    """Where the time of `frames` calls goes, on a GPU: in a runtime of its own, piece by piece and not as a graph.

    open_again: opens the detector once more. Raises RuntimeFailure, UsageError, InputError.
    """
    from edge_retina.bench.layers import find_nodes, read_pieces
    from edge_retina.runtime.trt import TrtRuntime

    inputs = batches(images, batch)
    with open_again() as detector:
        runtime = detector.runtime
        assert isinstance(runtime, TrtRuntime)
        stacked = [_stacked(given) for given in inputs]
        runs = [runtime.run_in_pieces(stacked[i % len(stacked)]) for i in range(warm_up + frames)][warm_up:]
        nodes = find_nodes(detector.bundle.digest, runtime.name, [name for name, _ in runs[0].layers])
    return read_pieces(runs, nodes)


def _stacked(given: U8 | list[U8]) -> U8:
    """As the detector hands frames to its runtime: (B, H, W, 3); pictures of one size, so that they are one run."""
    if isinstance(given, list):
        return np.repeat(given[0][None], len(given), axis=0)
    return given[None]
