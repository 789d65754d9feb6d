"""All checks in order, and what becomes of their findings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from edge_retina.doctor import cameras, compiler, gpu, jetson, measured, opencv, packages, python, system
from edge_retina.doctor.machine import Finding, Machine
from edge_retina.doctor.versions import versions

__all__ = ["CHECKS", "as_json", "examine", "summary"]

Check = Callable[[Machine], list[Finding]]

CHECKS: tuple[Check, ...] = (
    python.check_python,
    python.check_requirements,
    python.check_command_line,
    packages.check_numpy,
    packages.check_onnx,
    packages.check_onnxruntime,
    packages.check_pairs,
    packages.check_duplicates,
    opencv.check_opencv,
    cameras.check_cameras,
    cameras.check_csi,
    gpu.check_driver,
    gpu.check_tensorrt,
    gpu.check_tensorrt_rtx,
    gpu.check_cuda_python,
    compiler.check_plugin,
    compiler.check_compiler,
    jetson.check_jetpack,
    jetson.check_power,
    system.check_processor,
    system.check_memory,
    system.check_caches,
    system.check_display,
)
_AT_ONCE = 4  # most of their time is other processes'


def examine(machine: Machine, *, camera: str | None = None, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What all checks found, in their order. camera: also open this URI and measure it, alone, at the end."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda check: _run(check, machine), checks))
    if camera is not None:
        found.append(_run(lambda machine: measured.check_source(machine, camera), machine))
    return [finding for findings in found for finding in findings]


def summary(findings: Sequence[Finding]) -> str:
    """How many findings of each kind, in a line."""
    counts: Counter[str] = Counter(finding.status for finding in findings)
    warnings, faults = (
        f"{counts[s]} {w}{'' if counts[s] == 1 else 's'}" for s, w in (("warn", "warning"), ("fail", "fault"))
    )
    return f"{len(findings)} checks: {counts['ok']} ok, {warnings}, {faults}, {counts['none']} do not apply"


def as_json(findings: Sequence[Finding]) -> str:
    """Everything, as one JSON object."""
    facts = {
        "ok": all(finding.status != "fail" for finding in findings),
        "counts": dict(Counter(finding.status for finding in findings)),
        "versions": versions(),
        "checks": [asdict(finding) for finding in findings],
    }
    return json.dumps(facts, indent=1)


def _run(check: Check, machine: Machine) -> list[Finding]:
    """A check's findings; what it was not prepared for is one, too."""
    try:
        return check(machine)
    except Exception as exc:
        name = getattr(check, "__name__", "check").removeprefix("check_")
        what = "report it, with the output of: edge-retina doctor --json"
        return [Finding("Doctor", name, "warn", f"this check failed itself: {type(exc).__name__}: {exc}", what)]
