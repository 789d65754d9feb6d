"""Run by tests/rtx.py in an interpreter that has tensorrt_rtx: FOLDER/model.onnx and request.json in, answer.json out.

A process of its own, for TensorRT-RTX may end it (a registered plugin does) and its native code may crash.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

from edge_retina.layers import network_layers

# Where the builder, at verbose, prints its engine as IEngineInspector would; that one needs a GPU.
ENGINE_STARTS, ENGINE_ENDS = "Layers:\n", "\n\nI/O Tensors:"


class Log(trt.ILogger):
    """Keeps errors, and the text of the built engine."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []
        self.engine = ""

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)
        elif message.startswith(ENGINE_STARTS):
            self.engine = message.removeprefix(ENGINE_STARTS).split(ENGINE_ENDS)[0]


def answer(folder: Path) -> dict[str, Any]:
    """Parse and, where asked, build: what tests/rtx.py makes a Built of."""
    request, log, started = json.loads((folder / "request.json").read_text()), Log(), time.monotonic()
    builder = trt.Builder(log)
    network, config = builder.create_network(0), builder.create_builder_config()
    parser = trt.OnnxParser(network, log)
    if not parser.parse((folder / "model.onnx").read_bytes()):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        told = [f"{e.node_name()} [{e.node_operator()}]: {e.desc()}" for e in errors]
        return {"ok": False, "stage": "parse", "error": "; ".join(told or log.errors)}
    layers = [asdict(layer) for layer in network_layers(network)]
    engine_bytes = 0
    if request["build"]:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, request["compute_capability"]), 0)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        profile = builder.create_optimization_profile()
        for name, shapes in request["profiles"].items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            return {"ok": False, "stage": "build", "error": "; ".join(log.errors), "network": layers}
        engine_bytes = engine.nbytes
    seconds = time.monotonic() - started
    return {
        "ok": True,
        "stage": "build" if request["build"] else "parse",
        "engine_bytes": engine_bytes,
        "seconds": seconds,
        "network": layers,
        "engine_text": log.engine,
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "answer.json").write_text(json.dumps(answer(place)))
