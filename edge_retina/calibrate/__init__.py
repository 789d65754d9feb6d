"""Calibration: pictures through the very graph that will run, ranges and means of its tensors out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import onnx

from edge_retina.calibrate.staged import run_stages, split
from edge_retina.calibrate.statistics import Accumulator, TensorStatistics
from edge_retina.errors import InputError
from edge_retina.types import U8

__all__ = ["TensorStatistics", "gather"]


def gather(
    model: onnx.ModelProto,
    tensors: Collection[str],
    frames: Iterable[U8],
    *,
    on_frame: Callable[[], None] = lambda: None,
) -> Mapping[str, TensorStatistics]:
    """Run frames, uint8 (H, W, 3) BGR, and gather the statistics of the named tensors, float32 (B, C, H, W).

    One pass; memory depends neither on the number of frames nor on the sum of all tensors, and the result depends on
    the frames and their order only. on_frame is called after each. Raises InputError without frames, ModelError for
    NaN and for a tensor that the model lacks, RuntimeFailure.
    """
    stages = split(model, tensors)
    found = {name: Accumulator() for name in sorted(stages.wanted)}
    seen = 0
    for frame in frames:
        run_stages(stages, frame, lambda name, values: found[name].add(name, values))
        seen += 1
        on_frame()
    if not seen:
        raise InputError("calibration wants pictures, found none; name them with --calib, 100 or more")
    return {name: accumulator.result() for name, accumulator in found.items()}
