"""One quantization by one tool, in a process of its own and, for modelopt, in another environment.

    python benchmarks/quantization_worker.py '{"tool": "ort", "method": "minmax", ...}'    # quantization.py says what

tool, method: ort with minmax, entropy or percentile; modelopt with max or entropy. trunk: the ONNX. inputs: a folder
of .npy, each one picture for the trunk. exclude: names of nodes to leave in float. out: the ONNX to write. pictures:
how many of them, all by default. cache: a file where ort keeps ranges or finds them. Imports nothing of edge-retina.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

ORT = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class Pictures(CalibrationDataReader):
    """Preprocessed pictures from .npy files, one at a time."""

    def __init__(self, name: str, files: list[Path]) -> None:
        self.name, self.files = name, iter(files)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next picture as the trunk's feed; None at the end."""
        file = next(self.files, None)
        return None if file is None else {self.name: np.load(file)}


def by_ort(job: dict[str, Any], pictures: Pictures) -> None:
    """INT8 weights per channel, symmetric INT8 activations, Q/DQ in front of every Conv.

    No Q/DQ between a Conv and its Relu, which TensorRT could not fuse and which was not better: with MinMax and its
    best exclusions the first 40 digits scenes give AP 0.7545 so, 0.7514 with it, 0.7539 with every operator quantized.
    """
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    quantize_static(
        job["trunk"],
        job["out"],
        pictures,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=job["exclude"],
        calibrate_method=ORT[job["method"]],
        extra_options={**symmetric, "OpTypesToExcludeOutputQuantization": ["Conv"]},
        calibration_cache_path=job.get("cache"),
    )


def by_modelopt(job: dict[str, Any], pictures: Pictures) -> None:
    """Its own placement for TensorRT; what is not INT8 stays FP32, as with the others."""
    from modelopt.onnx.quantization import quantize

    quantize(
        job["trunk"],
        quantize_mode="int8",
        calibration_data_reader=pictures,
        calibration_method=job["method"],
        calibration_eps=["cpu"],
        nodes_to_exclude=job["exclude"] or None,
        high_precision_dtype="fp32",
        output_path=job["out"],
        log_level="WARNING",
    )


def main() -> None:
    """Do the job of the command line."""
    job = json.loads(sys.argv[1])
    logging.disable(logging.WARNING)
    name = onnx.load(job["trunk"]).graph.input[0].name
    files = sorted(Path(job["inputs"]).glob("*.npy"))[: job.get("pictures")]
    {"ort": by_ort, "modelopt": by_modelopt}[job["tool"]](job, Pictures(name, files))


if __name__ == "__main__":
    main()
