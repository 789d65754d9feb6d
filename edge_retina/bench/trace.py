"""What ONNX Runtime's profiler wrote, call by call: time by stage and by layer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_retina.bench.names import Names
from edge_retina.bench.stages import LayerTime, Profile
from edge_retina.errors import RuntimeFailure

__all__ = ["Operator", "read_profile", "read_trace"]

_RUN, _KERNEL = "model_run", "_kernel_time"
_US = 1000


class Operator(NamedTuple):
    """One operator as it ran once. name, kind: the runtime's. us: microseconds."""

    name: str
    kind: str
    us: int


def read_trace(path: Path) -> list[list[Operator]]:
    """The operators of every run, in the order they ran; those inside a loop or a branch count with that.

    Raises RuntimeFailure for what is no such trace.
    """
    try:
        events = json.loads(path.read_bytes())
        runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == _RUN)
        nodes = sorted((e for e in events if _is_kernel(e)), key=lambda e: (e["ts"], -e["dur"]))
        found: list[list[Operator]] = [[] for _ in runs]
        at, end = 0, -1
        for event in nodes:
            while at < len(runs) and event["ts"] >= runs[at][1]:
                at += 1
            if at == len(runs):
                break
            if event["ts"] < runs[at][0] or event["ts"] < end:  # before the first run, or inside another operator
                continue
            end = event["ts"] + event["dur"]
            kind = str(event["args"].get("op_name", ""))
            found[at].append(Operator(event["name"].removesuffix(_KERNEL), kind, event["dur"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RuntimeFailure(f"{path.name}: wanted a trace of ONNX Runtime's profiler, found: {exc!r}") from exc
    return found


def _is_kernel(event: dict[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event.get("name")).endswith(_KERNEL)


def read_profile(runs: Sequence[Sequence[Operator]], call_ms: Sequence[float], names: Names) -> Profile:
    """The profile of these runs. call_ms: what each call took, from frame to detections, with all around the run.

    Raises RuntimeFailure when there are no runs, or not one for each call.
    """
    if not runs or len(runs) != len(call_ms) or not all(runs):
        raise RuntimeFailure(
            f"wanted the operators of {len(call_ms)} calls, found {len(runs)} runs in ONNX Runtime's trace; "
            "profile fewer frames"
        )
    known: dict[tuple[str, str], tuple[str, str, str | None]] = {}
    stages: dict[str, list[float]] = {stage: [0.0] * len(runs) for stage in ("preprocess", "trunk", "decode", "host")}
    layers: dict[tuple[str, str, str], float] = defaultdict(float)
    for number, (run, whole) in enumerate(zip(runs, call_ms, strict=True)):
        stage = "preprocess"
        for name, kind, us in run:
            if (name, kind) not in known:
                known[name, kind] = names.of(name, kind)
            layer, shown, own_stage = known[name, kind]
            stage = own_stage or stage
            stages[stage][number] += us / _US
            layers[layer, shown, stage] += us / _US / len(runs)
        stages["host"][number] = max(0.0, whole - sum(us for *_, us in run) / _US)
    return Profile(
        {stage: tuple(ms) for stage, ms in stages.items() if np.any(ms)},
        tuple(call_ms),
        tuple(LayerTime(layer, kind, stage, ms) for (layer, kind, stage), ms in layers.items()),
    )
