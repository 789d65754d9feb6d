"""Run by tests/rtx.py in an interpreter that has tensorrt_rtx: FOLDER/model.onnx and request.json in, answer.json out.

A process of its own, for TensorRT-RTX may end it (a registered plugin does) and its native code may crash.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

from edge_retina.compile import Options, compile_plan
from edge_retina.errors import EdgeRetinaError
from edge_retina.layers import network_layers
from edge_retina.monitor import open_log
from edge_retina.profile import Profile


def compiled(model: bytes, request: dict[str, Any]) -> dict[str, Any]:
    """What compile_plan makes of it, in numbers, or what it raised."""
    steps: list[tuple[int, int]] = []
    values = request["options"]
    profile = Profile(*(tuple(values["profile"][name]) for name in ("least", "usual", "most")))
    options = Options(**{**values, "profile": profile, "compute_capabilities": tuple(values["compute_capabilities"])})

    def on_step(done: int, total: int) -> None:
        steps.append((done, total))
        if request["interrupt_at"] is not None and done >= request["interrupt_at"]:
            request["interrupt_at"] = None
            signal.raise_signal(signal.SIGINT)

    try:
        found = compile_plan(trt, model, options, macs=request["macs"], on_step=on_step)
    except (EdgeRetinaError, KeyboardInterrupt) as raised:
        return {"raised": (type(raised).__name__, str(raised))}
    if request["plan"]:
        Path(request["plan"]).write_bytes(found.plan)
    numbers = {"plan_bytes": len(found.plan), "layers": len(found.layers), "steps": steps, "version": trt.__version__}
    return numbers | {name: getattr(found, name) for name in ("shares", "seconds", "timing_cache", "host_code")}


def built(model: bytes, request: dict[str, Any]) -> dict[str, Any]:
    """Parse and, where asked, build any model: what tests/rtx.py makes a Built of."""
    log, started = open_log(trt), time.monotonic()
    builder = trt.Builder(log)
    network, config = builder.create_network(0), builder.create_builder_config()
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
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
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "request.json").read_text())
    do = compiled if "options" in asked else built
    (folder / "answer.json").write_text(json.dumps(do((folder / "model.onnx").read_bytes(), asked)))
