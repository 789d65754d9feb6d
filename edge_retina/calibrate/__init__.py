"""Calibration: pictures through the very graph that will run, ranges and means of its tensors out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType

import onnx

from edge_retina.calibrate.probes import SAMPLE, Probes, Reading, open_probes, sample_size
from edge_retina.calibrate.statistics import Accumulator, TensorStatistics
from edge_retina.errors import InputError
from edge_retina.types import F32, U8

__all__ = ["TensorStatistics", "gather", "look", "sample_size"]

_AS_IT_IS: Mapping[str, F32] = MappingProxyType({})


def gather(
    model: onnx.ModelProto,
    tensors: Collection[str],
    frames: Iterable[U8],
    *,
    sample: int = SAMPLE,
    on_frame: Callable[[], None] = lambda: None,
) -> Mapping[str, TensorStatistics]:
    """Run frames, uint8 (H, W, 3) BGR, and gather the statistics of the named tensors, float32 (B, C, ...).

    sample: of each tensor in each frame so many values enter histogram and energy; sample_size says how many will do.
    One pass; memory does not depend on the number of frames, and the result depends on the frames and their order
    only. on_frame is called after each. Raises InputError without frames, ModelError for NaN and for a tensor that the
    model lacks, RuntimeFailure.
    """
    return look(open_probes(model, tensors, sample), frames, on_frame=on_frame)


def look(
    probes: Probes,
    frames: Iterable[U8],
    *,
    factors: Mapping[str, F32] = _AS_IT_IS,
    read: Callable[[U8, int], Mapping[str, Reading]] | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Mapping[str, TensorStatistics]:
    """The same of a model with probes.

    factors: tensor to powers of two, float32 (C,), by which its channels are to be divided; the statistics are then
    bit for bit those of the equalised model. read: frame and its number to its readings, in place of probes.read.
    """
    found, seen = {name: Accumulator() for name in sorted(probes.wanted)}, 0
    read = read or probes.read

    def take_in(readings: Mapping[str, Reading]) -> None:
        for name, reading in readings.items():
            found[name].add(name, reading.divided(factors[name]) if name in factors else reading)

    # A frame is taken in while the next one runs. That runs in this thread: of what other threads have allocated, glibc
    # gives nothing back.
    with ThreadPoolExecutor(1) as pool:
        last: Future[None] | None = None
        for frame in frames:
            readings = read(frame, seen)
            if last is not None:
                last.result()
            last = pool.submit(take_in, readings)
            seen += 1
            on_frame()
        if last is not None:
            last.result()
    if not seen:
        raise InputError("calibration wants pictures, found none; name them with --calib, 100 or more")
    return {name: accumulator.result() for name, accumulator in found.items()}
