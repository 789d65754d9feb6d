"""Calibration: pictures through the very graph that will run, ranges and means of its tensors out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import onnx

from edge_retina.calibrate.probes import SAMPLE, open_probes, sample_size
from edge_retina.calibrate.statistics import Accumulator, TensorStatistics
from edge_retina.errors import InputError
from edge_retina.types import U8

__all__ = ["TensorStatistics", "gather", "sample_size"]


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
    found = {name: Accumulator() for name in sorted(tensors)}
    probes, seen = open_probes(model, found, sample), 0
    for frame in frames:
        for name, reading in probes.read(frame, seen).items():
            found[name].add(name, reading)
        seen += 1
        on_frame()
    if not seen:
        raise InputError("calibration wants pictures, found none; name them with --calib, 100 or more")
    return {name: accumulator.result() for name, accumulator in found.items()}
