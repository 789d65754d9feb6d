"""Builds ONNX models with the real TensorRT-RTX, which needs no GPU for it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edge_retina import errors
from edge_retina.compile import Options
from edge_retina.layers import Layer, engine_layers

VARIABLE = "EDGE_RETINA_RTX_PYTHON"
ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("rtx_worker.py")
# Name of an input to its smallest, usual and largest shape.
Profiles = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Built:
    """What came of one model. stage: "parse" or "build", the last one reached. error: with the node's name, "" if ok.

    network: layers as parsed. engine: layers as built, fused and with the types they run in.
    """

    ok: bool
    stage: str
    error: str = ""
    engine_bytes: int = 0
    seconds: float = 0.0
    network: tuple[Layer, ...] = ()
    engine: tuple[Layer, ...] = ()


@cache
def interpreter() -> str:
    """A Python that can import tensorrt_rtx: this one or what EDGE_RETINA_RTX_PYTHON names; skips otherwise."""
    tried = []
    for python in filter(None, (sys.executable, os.environ.get(VARIABLE))):
        done = subprocess.run([python, "-c", "import onnx, tensorrt_rtx"], capture_output=True, text=True)
        if done.returncode == 0:
            return python
        tried.append(f"{python}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    pytest.skip(f"no TensorRT-RTX ({'; '.join(tried)}); pip install tensorrt-rtx, or set {VARIABLE}")


def build(
    model: bytes,
    *,
    profiles: Profiles | None = None,
    compute_capability: str = "SM86",
    timeout: float = 300,
    parse_only: bool = False,
) -> Built:
    """Parse a model and build its engine for one compute capability; profiles: of inputs with open sizes."""
    request = {"build": not parse_only, "compute_capability": compute_capability, "profiles": profiles or {}}
    answer = ask(model, request, timeout)
    if "ended" in answer:
        return Built(False, "parse", answer["ended"])
    network = tuple(Layer.from_dict(layer) for layer in answer.pop("network", ()))
    engine = engine_layers(answer.pop("engine_text", ""))
    return Built(**answer, network=network, engine=engine)


def compiled(
    model: bytes,
    options: Options,
    macs: Mapping[str, int],
    *,
    interrupt_at: int | None = None,
    plan: Path | None = None,
    timeout: float = 300,
) -> dict[str, Any]:
    """What compile_plan makes of a model, in numbers; raises what it raised. interrupt_at: Ctrl-C at that step.

    Keys plan_bytes, layers (how many), shares, seconds, timing_cache, host_code, steps. plan: where to write it.
    """
    request = {
        "options": asdict(options),
        "macs": dict(macs),
        "interrupt_at": interrupt_at,
        "plan": plan and str(plan.resolve()),
    }
    answer = ask(model, request, timeout)
    if "ended" in answer:
        raise AssertionError(answer["ended"])
    if "raised" in answer:
        kind, text = answer["raised"]
        raise KeyboardInterrupt if kind == "KeyboardInterrupt" else getattr(errors, kind)(text)
    return answer


def ask(model: bytes, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The worker's answer; "ended" is all there is when its process ended otherwise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        (folder / "request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [interpreter(), str(WORKER), name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            return {"ended": f"ended with {done.returncode}: {done.stderr[-500:]}"}
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer
