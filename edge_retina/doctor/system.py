"""The computer: processor, memory, the disk that caches are on, the display."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from edge_retina import cachefolder
from edge_retina.doctor.machine import Finding, Machine
from edge_retina.errors import UsageError

__all__ = ["check_caches", "check_display", "check_memory", "check_processor"]

_GROUP = "System"
_GIB = 1 << 30
_LEAST_FREE, _LEAST_DISK = _GIB, _GIB
# Below this a TensorRT build is known to be killed on a Jetson without swap.
_SMALL = 9 * _GIB


def check_processor(machine: Machine) -> list[Finding]:
    """Model, cores that may be used, and what it has for INT8."""
    text = machine.text("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.M)
    name = model[1].strip() if model else (machine.text("/proc/device-tree/model") or "unknown")
    flags = set(re.findall(r"\S+", " ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.M)[:1])))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{name}, {cores} cores"
    if quota := _quota(machine):
        found += f", of which a limit leaves {quota:.1f}"
    if not flags:
        return [Finding(_GROUP, "processor", "ok", found)]
    if flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        return [Finding(_GROUP, "processor", "ok", f"{found}; INT8 by VNNI")]
    if flags & {"asimddp", "i8mm"}:
        return [Finding(_GROUP, "processor", "ok", f"{found}; INT8 by dot products")]
    if "avx2" in flags:
        return [Finding(_GROUP, "processor", "ok", f"{found}; AVX2 without VNNI: INT8 gains less")]
    if "asimd" in flags:
        return [Finding(_GROUP, "processor", "ok", f"{found}; no dot products: INT8 gains little")]
    found += "; neither AVX2 nor NEON: slow"
    return [Finding(_GROUP, "processor", "warn", found, "a newer processor, or a smaller model")]


def check_memory(machine: Machine) -> list[Finding]:
    """What is free, and swap."""
    facts = dict(re.findall(r"^(\w+):\s+(\d+) kB", machine.text("/proc/meminfo"), re.M))
    if "MemTotal" not in facts:
        return [Finding(_GROUP, "memory", "none", "/proc/meminfo says nothing")]
    total, free, swap = (int(facts.get(name, 0)) * 1024 for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    with suppress(ValueError):
        total = min(total, int(machine.text("/sys/fs/cgroup/memory.max")))
    free = min(free, total)
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free, swap {swap / _GIB:.1f} GiB"
    if free < _LEAST_FREE:
        return [Finding(_GROUP, "memory", "warn", found, "end other programs: a frame of 4K alone takes 0.8 GiB")]
    if machine.jetson and total < _SMALL and not swap:
        what = "sudo systemctl start nvzramconfig, or make a swap file: TensorRT's builder may be killed without"
        return [Finding(_GROUP, "memory", "warn", found, what)]
    return [Finding(_GROUP, "memory", "ok", found)]


def check_caches(_: Machine) -> list[Finding]:
    """The folder for plans, and the one for temporary files: writable, and with room."""
    try:
        folder = cachefolder.folder()
    except UsageError as exc:
        return [Finding(_GROUP, "cache", "warn", "this user has no home folder", str(exc).split("; ")[-1])]
    variable = f"export {cachefolder.FOLDER}=/var/tmp/edge-retina-$USER"
    return [_room("cache", folder, variable), _room("temporary files", _temporary(), "export TMPDIR=/var/tmp")]


def check_display(machine: Machine) -> list[Finding]:
    """Whether a window can be shown."""
    wayland, display = machine.environ.get("WAYLAND_DISPLAY"), machine.environ.get("DISPLAY")
    if not wayland and not display:
        what = "see the picture in a browser: --out http://127.0.0.1:8080"
        return [Finding(_GROUP, "display", "none", "none: run prints a line per frame", what)]
    if wayland:
        place = Path(machine.environ.get("XDG_RUNTIME_DIR", "/run/user")) / wayland
        if machine.at(str(place)).exists():
            return [Finding(_GROUP, "display", "ok", f"Wayland, {wayland}")]
    match = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", display or "")
    if match and not _answers(machine.at(f"/tmp/.X11-unix/X{match[1]}")):
        what = "unset DISPLAY, or: export DISPLAY=:0 on the machine's own screen; a service has none"
        return [Finding(_GROUP, "display", "warn", f"DISPLAY={display}, where no X server answers", what)]
    shown = f"DISPLAY={display}" if display else f"WAYLAND_DISPLAY={wayland}, not found"
    return [Finding(_GROUP, "display", "ok" if display else "warn", shown, "" if display else "unset WAYLAND_DISPLAY")]


def _quota(machine: Machine) -> float | None:
    """Cores that a container's limit leaves; None without a limit."""
    parts = machine.text("/sys/fs/cgroup/cpu.max").split()
    return int(parts[0]) / int(parts[1]) if len(parts) == 2 and all(part.isdecimal() for part in parts) else None


def _temporary() -> Path:
    """The folder for temporary files, usable or not."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path(os.environ.get("TMPDIR") or "/tmp")


def _room(name: str, folder: Path, elsewhere: str) -> Finding:
    """Whether something can be written where a folder is, or would be made."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
        free = shutil.disk_usage(there).free
    except OSError as exc:
        return Finding(_GROUP, name, "warn", f"{folder}: cannot be written: {exc.strerror or exc}", elsewhere)
    found = f"{folder}, {free / _GIB:.1f} GiB free"
    if free < _LEAST_DISK:
        return Finding(_GROUP, name, "warn", found, f"make room: edge-retina plans clear; or {elsewhere}")
    return Finding(_GROUP, name, "ok", found)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True
