"""Runtimes that take the trunk as ONNX, each with the settings that its documentation gives for low latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from edge_retina.peers.processing import Found, Processing
from edge_retina.peers.trunk import PICTURE
from edge_retina.types import U8

__all__ = ["in_onnxruntime", "in_opencv", "in_openvino"]

Call = Callable[[U8], Found]


def in_onnxruntime(trunk: bytes, processing: Processing, threads: int) -> tuple[str, Call]:
    """A plain session with everything that is on by default."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = ort.InferenceSession(trunk, options, providers=["CPUExecutionProvider"])

    def call(frame: U8) -> Found:
        picture, fit = processing.picture(frame)
        return processing.detections(session.run(None, {PICTURE: picture}), fit)

    return f"onnxruntime {ort.__version__}", call


def in_openvino(
    trunk: bytes,
    processing: Processing,
    threads: int,
    *,
    precision: str = "f32",
    quantize_on: Sequence[U8] | None = None,
) -> tuple[str, Call]:
    """Latency hint, inputs not copied. precision: "f32", or "bf16", OpenVINO's own choice where the CPU has it.

    quantize_on: frames on which NNCF, with its defaults, calibrates the float trunk.
    """
    import openvino as ov

    core, runtime = ov.Core(), f"openvino {ov.__version__.partition('-')[0]}"
    model = core.read_model(trunk)
    if quantize_on is not None:
        import nncf

        nncf.set_log_level(40)
        pictures = [processing.picture(frame)[0] for frame in quantize_on]
        model = nncf.quantize(model, nncf.Dataset(pictures), subset_size=len(pictures))
        runtime = f"{runtime}, nncf {nncf.__version__}"
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    outputs = range(len(model.outputs))

    def call(frame: U8) -> Found:
        picture, fit = processing.picture(frame)
        request.infer([picture], share_inputs=True)
        return processing.detections([request.get_output_tensor(i).data for i in outputs], fit)

    return runtime, call


def in_opencv(trunk: bytes, processing: Processing, threads: int) -> tuple[str, Call]:
    """OpenCV's own engine on the CPU."""
    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(trunk, np.uint8))
    names = [f"{kind}_{level}" for kind in ("logits", "deltas") for level in range(processing.spec.num_levels)]

    def call(frame: U8) -> Found:
        picture, fit = processing.picture(frame)
        net.setInput(picture)
        heads: Any = net.forward(names)
        return processing.detections(heads, fit)

    return f"opencv {cv2.__version__}", call
