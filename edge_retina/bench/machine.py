"""What the numbers were measured on, and what else that machine did meanwhile."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_retina.bench.jetson import Jetson, read_jetson
from edge_retina.runtime import cores

__all__ = ["Load", "Machine", "Memory", "read_load", "read_machine", "read_memory"]

_ROOT = Path("/")
# Instruction sets that decide which kernels ONNX Runtime takes; x86's flags, then Arm's features.
_SETS = (
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
_PACKAGES = ("edge-retina", "numpy", "opencv-python", "onnxruntime", "tensorrt", "tensorrt-rtx")
_MIB = 1 << 20
# More of the processors' time than this taken by others is worth a warning.
BUSY = 0.1


@dataclass(frozen=True)
class Machine:
    """Facts that do not change while one measures. governor: of the clock, "" where the system does not say."""

    processor: str
    instruction_sets: tuple[str, ...]
    cores: int
    cores_used: int
    governor: str
    memory_mib: int
    system: str
    python: str
    packages: dict[str, str] = field(default_factory=dict)
    jetson: Jetson | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "processor": self.processor,
            "instruction_sets": list(self.instruction_sets),
            "cores": self.cores,
            "cores_used": self.cores_used,
            "governor": self.governor,
            "memory_mib": self.memory_mib,
            "system": self.system,
            "python": self.python,
            "packages": self.packages,
            "jetson": None if self.jetson is None else self.jetson.to_json(),
        }


@dataclass(frozen=True)
class Memory:
    """Of this process, MiB: resident now, and the most it ever was. 0.0 where the system does not say."""

    resident_mib: float
    peak_mib: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return {"resident_mib": round(self.resident_mib, 1), "peak_mib": round(self.peak_mib, 1)}


@dataclass(frozen=True)
class Load:
    """The processors' time so far, in seconds. busy: in all, stolen: by other virtual machines; ours: this process's.

    at: on the monotonic clock.
    """

    at: float
    busy: float
    stolen: float
    ours: float

    def others_since(self, before: Load) -> float:
        """Share of the processors' time, 0..1, that others took since then."""
        passed = (self.at - before.at) * (os.cpu_count() or 1)
        others = (self.busy - before.busy) - (self.ours - before.ours) + (self.stolen - before.stolen)
        return min(1.0, max(0.0, others / passed)) if passed > 0 else 0.0


def read_machine(root: Path = _ROOT) -> Machine:
    """Look everything up; what cannot be found is "" or 0. root: where /proc and /sys are."""
    info = _text(root / "proc/cpuinfo")
    return Machine(
        _processor(info, root),
        tuple(name for name in _SETS if name in _flags(info)),
        os.cpu_count() or 1,
        cores(),
        _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        _kib(_text(root / "proc/meminfo"), "MemTotal") // 1024,
        platform.platform(),
        platform.python_version(),
        _versions(),
        read_jetson(root),
    )


def _processor(info: str, root: Path) -> str:
    """Its name; of an Arm board, whose processors have none, the board's."""
    if found := re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE):
        return found[1].strip()
    board = _text(root / "proc/device-tree/model").strip("\0\n ")
    return board or platform.processor() or platform.machine()


def _flags(info: str) -> set[str]:
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    return set(found[1].split()) if found else set()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_memory(root: Path = _ROOT) -> Memory:
    """This process's memory by Linux's account of it; elsewhere the peak alone."""
    status = _text(root / "proc/self/status")
    peak = _kib(status, "VmHWM") / 1024
    if not peak and sys.platform != "win32":
        import resource

        unit = _MIB if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return Memory(_kib(status, "VmRSS") / 1024, peak)


def read_load(root: Path = _ROOT) -> Load:
    """The processors' time so far; where the system does not say it, others seem to take none."""
    ours = time.process_time()
    found = re.match(r"cpu +([\d ]+)", _text(root / "proc/stat"))
    ticks = [int(part) / os.sysconf("SC_CLK_TCK") for part in found[1].split()] if found else []
    if len(ticks) < 8:
        return Load(time.monotonic(), ours, 0.0, ours)
    user, nice, system, _, _, irq, softirq, stolen = ticks[:8]
    return Load(time.monotonic(), user + nice + system + irq + softirq, stolen, ours)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _kib(text: str, key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0
