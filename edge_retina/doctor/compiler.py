"""The CUDA plugin: built for this TensorRT and GPU, loadable, and what a build needs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from edge_retina import plugin, toolchain
from edge_retina.doctor.gpu import has_gpu
from edge_retina.doctor.machine import Finding, Machine
from edge_retina.errors import EdgeRetinaError

__all__ = ["check_compiler", "check_plugin"]

_GROUP = "Plugin"
# libnvinfer first, by Python's own package where it brings one: the plugin names it and no folder.
_LOAD = """
import ctypes
try:
    import tensorrt
except ImportError:
    pass
ctypes.CDLL(argument)
"""


def check_plugin(machine: Machine) -> list[Finding]:
    """Whether it is built for the TensorRT and the GPU that are here, and can be loaded."""
    try:
        version, capability = toolchain.installed_version(), toolchain.compute_capability()
        library = plugin.find_library(version, capability) if version and capability else None
    except (EdgeRetinaError, OSError) as exc:
        return [Finding(_GROUP, "plugin", "fail", str(exc), "edge-retina plugin status")]
    if version is None or not has_gpu(machine):
        return [Finding(_GROUP, "plugin", "none", "without TensorRT and a GPU it is not used")]
    if capability is None:
        return [Finding(_GROUP, "plugin", "none", f"for TensorRT {version} and which GPU? the driver names none")]
    if library is None:
        found = f"not built for TensorRT {version}, compute capability {capability}: boxes are decoded later"
        return [Finding(_GROUP, "plugin", "warn", found, "edge-retina plugin build")]
    probe = machine.probe("the plugin", _LOAD, str(library))
    if not probe.ok:
        found = f"{library} cannot be loaded: {probe.error}"
        return [Finding(_GROUP, "plugin", "fail", found, "edge-retina plugin build --force")]
    return [Finding(_GROUP, "plugin", "ok", f"for TensorRT {version}, compute capability {capability}: {library}")]


def check_compiler(machine: Machine) -> list[Finding]:
    """nvcc, g++ and the headers, which building the plugin wants."""
    try:
        version = toolchain.installed_version()
        lacks = plugin.missing(version)
        headers, nvcc = toolchain.find_headers(version), toolchain.find_nvcc()
    except (EdgeRetinaError, OSError) as exc:
        return [Finding(_GROUP, "compiler", "warn", str(exc), "edge-retina plugin status")]
    if not lacks and headers and nvcc:
        found = f"nvcc {_release(nvcc)}, headers {'.'.join(map(str, headers.version))} in {headers.folder}"
        return [Finding(_GROUP, "compiler", "ok", found)]
    found = f"missing: {', '.join(what for what, _ in lacks)}"
    if version is None or not has_gpu(machine):
        return [Finding(_GROUP, "compiler", "none", f"{found}; not needed here")]
    return [Finding(_GROUP, "compiler", "warn", found, "; ".join(f"{what}: install {which}" for what, which in lacks))]


def _release(nvcc: Path) -> str:
    """CUDA's version, by nvcc itself."""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "that does not answer"
    match = re.search(r"release (\d+\.\d+)", said.stdout)
    return match[1] if match else "of unknown version"
