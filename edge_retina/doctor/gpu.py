"""The NVIDIA GPU, its driver, and what runs on it: TensorRT, TensorRT-RTX, pycuda, cuda-bindings."""

from __future__ import annotations

import os
import re
from typing import Any

from edge_retina.doctor.explain import remedy
from edge_retina.doctor.machine import Finding, Machine
from edge_retina.doctor.versions import TENSORRT, TENSORRT_RTX, at_least, installed, numbers

__all__ = ["check_cuda_python", "check_driver", "check_tensorrt", "check_tensorrt_rtx", "has_gpu"]

_GROUP = "GPU"
_NVIDIA, _DISPLAY_CLASS = "0x10de", "0x03"
_DRIVER = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
code = driver.cuInit(0)
facts.update(code=code, devices=[], cuda=0)
version = ctypes.c_int()
if driver.cuDriverGetVersion(ctypes.byref(version)) == 0:
    facts["cuda"] = version.value
count = ctypes.c_int()
if code == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
    for index in range(count.value):
        device, name, numbers = ctypes.c_int(), ctypes.create_string_buffer(100), []
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, 100, device)
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            value = ctypes.c_int()
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            numbers.append(str(value.value))
        facts["devices"].append([name.value.decode(errors="replace"), ".".join(numbers)])
"""
# cuda.h, CUresult: those that a user meets at cuInit.
_CODES = {
    2: ("out of memory", "end other programs on the GPU"),
    34: ("the library is a stub, no driver", "take CUDA's lib64/stubs folder off LD_LIBRARY_PATH"),
    100: ("no GPU is visible", "unset CUDA_VISIBLE_DEVICES; a container wants --gpus all (Jetson: --runtime nvidia)"),
    802: ("the GPU is not ready yet", "sudo systemctl restart nvidia-fabricmanager"),
    803: ("driver and library are of different versions", "reboot: the driver was updated under a running kernel"),
    804: ("this CUDA is newer than the driver serves", "update NVIDIA's driver, or take an older container"),
    999: ("the driver fails", "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm, or reboot; see dmesg"),
}
_MODULE = """
import importlib
module = importlib.import_module(argument)
if module.__file__ is None:  # type stubs, or an empty folder of that name
    raise ModuleNotFoundError("no such package", name=argument)
facts.update(version=module.__version__, file=module.__file__, library="", libraries=[])
try:
    import ctypes, re
    for line in open("/proc/self/maps"):
        path = line.split(maxsplit=5)[-1].strip()
        if re.search(r"/libnvinfer\\.so|/libtensorrt_rtx\\.so", path) and path not in facts["libraries"]:
            facts["libraries"].append(path)
    for path in facts["libraries"][:1]:
        number = ctypes.CDLL(path).getInferLibVersion()
        # TensorRT 10 and later: major * 10000 + minor * 100 + patch.
        facts["library"] = f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number >= 100000 else ""
except (OSError, AttributeError):
    pass
"""
_OLDEST, _NEWEST_MAJOR = "10.3", 11
# Where JetPack's and Debian's packages have it, which a virtual environment does not see by itself.
_SYSTEM_PLACES = (
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3.10/dist-packages",
    "/usr/lib/python3.12/dist-packages",
)


def has_gpu(machine: Machine) -> bool:
    """Whether there is an NVIDIA GPU, driver or none."""
    if machine.jetson:
        return True
    for name in machine.names("/sys/bus/pci/devices"):
        place = f"/sys/bus/pci/devices/{name}"
        if machine.text(f"{place}/vendor") == _NVIDIA and machine.text(f"{place}/class").startswith(_DISPLAY_CLASS):
            return True
    return any(re.fullmatch(r"nvidia\d+", name) for name in machine.names("/dev"))


def check_driver(machine: Machine) -> list[Finding]:
    """The driver, asked itself: a GPU that CUDA can use, the newest CUDA it runs."""
    there = has_gpu(machine)
    probe = machine.probe("CUDA's driver", _DRIVER)
    if not probe.ok:
        if "libcuda" not in probe.error:
            return [Finding(_GROUP, "driver", "fail", probe.error, "reinstall NVIDIA's driver, reboot")]
        if not there:
            return [Finding(_GROUP, "driver", "none", "no NVIDIA GPU: bundles run on the CPU")]
        return [
            Finding(_GROUP, "driver", "fail", "there is an NVIDIA GPU and no driver (libcuda.so.1)", _install(machine))
        ]
    cuda = f"CUDA {probe.facts['cuda'] // 1000}.{probe.facts['cuda'] % 1000 // 10}"
    kernel = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", machine.text("/proc/driver/nvidia/version"))
    said = f"{kernel[1]}, {cuda}" if kernel else cuda
    if code := probe.facts["code"]:
        what, todo = _CODES.get(code, (f"error {code}", "see dmesg; reboot"))
        if code == 100 and not there:
            return [Finding(_GROUP, "driver", "none", f"{said}, and no NVIDIA GPU: bundles run on the CPU")]
        return [Finding(_GROUP, "driver", "fail", f"{said}: {what} (cuInit: {code})", _closed(machine) or todo)]
    devices = "; ".join(f"{name}, compute capability {capability}" for name, capability in probe.facts["devices"])
    return [Finding(_GROUP, "driver", "ok", f"{devices}; {said}")]


def check_tensorrt(machine: Machine) -> list[Finding]:
    """TensorRT's Python bindings, and whether the library under them is of their version."""
    probe = machine.probe("tensorrt", _MODULE, "tensorrt")
    if probe.missing:
        return [_without_tensorrt(machine)]
    there = installed(TENSORRT)
    if not probe.ok:
        return [Finding(_GROUP, "tensorrt", "fail", probe.error, remedy(probe, next(iter(there), "tensorrt")))]
    if finding := _mixed("tensorrt", probe.facts):
        return [finding]
    version = probe.facts["version"]
    if not at_least(version, _OLDEST):
        what = "JetPack 6.1 or later" if machine.jetson else f"pip install -U 'tensorrt>={_OLDEST}'"
        return [Finding(_GROUP, "tensorrt", "fail", f"{version}, wanted {_OLDEST} or later", what)]
    if numbers(version)[0] > _NEWEST_MAJOR:
        what = f"pip install 'tensorrt<{_NEWEST_MAJOR + 1}', should it not work"
        return [Finding(_GROUP, "tensorrt", "warn", f"{version}, newer than what was tried", what)]
    return [Finding(_GROUP, "tensorrt", "ok", _told(probe.facts))]


def check_tensorrt_rtx(machine: Machine) -> list[Finding]:
    """TensorRT-RTX: for desktop GPUs, and to build engines without one."""
    probe = machine.probe("tensorrt_rtx", _MODULE, "tensorrt_rtx")
    if probe.missing:
        return [Finding(_GROUP, "tensorrt-rtx", "none", "not installed")]
    if not probe.ok:
        package = next(iter(installed(TENSORRT_RTX)), "tensorrt-rtx")
        return [Finding(_GROUP, "tensorrt-rtx", "fail", probe.error, remedy(probe, package))]
    if finding := _mixed("tensorrt-rtx", probe.facts):
        return [finding]
    if machine.jetson:
        return [Finding(_GROUP, "tensorrt-rtx", "warn", "is for desktop GPUs", "on a Jetson use JetPack's TensorRT")]
    return [Finding(_GROUP, "tensorrt-rtx", "ok", _told(probe.facts))]


def check_cuda_python(machine: Machine) -> list[Finding]:
    """pycuda, without which nothing runs on TensorRT, and cuda-bindings, for CUDA graphs, against the driver."""
    wanted = has_gpu(machine) and bool({**installed(TENSORRT), **installed(TENSORRT_RTX)})
    findings = []
    path = "export PATH=/usr/local/cuda/bin:$PATH && pip install pycuda"
    probe = machine.probe("pycuda", "import pycuda.driver\nimport pycuda\nfacts['version'] = pycuda.VERSION_TEXT")
    if probe.ok:
        findings.append(Finding(_GROUP, "pycuda", "ok", probe.facts["version"]))
    elif probe.missing:
        what = "not installed: TensorRT runs need it" if wanted else "not installed, not needed"
        findings.append(Finding(_GROUP, "pycuda", "fail" if wanted else "none", what, path if wanted else ""))
    else:
        # Without a GPU its driver is missing, which the check above told.
        findings.append(Finding(_GROUP, "pycuda", "fail" if wanted else "none", probe.error, remedy(probe, "pycuda")))
    code = "from cuda.bindings import runtime\nstatus, version = runtime.cudaRuntimeGetVersion()\n"
    probe = machine.probe("cuda", code + "facts.update(version=int(version))")
    if not probe.ok:
        findings.append(_bindings_missing(probe.missing, probe.error, wanted))
        return findings
    runtime, driver = (
        probe.facts["version"] // 1000,
        machine.probe("CUDA's driver", _DRIVER).facts.get("cuda", 0) // 1000,
    )
    told = ", ".join(installed(("cuda-bindings",)).values()) or f"CUDA {runtime}"
    if driver and runtime > driver:
        found = f"{told}: of CUDA {runtime}, the driver of {driver}; no CUDA graphs"
        findings.append(Finding(_GROUP, "cuda-bindings", "warn", found, f"pip install 'cuda-bindings=={driver}.*'"))
    else:
        findings.append(Finding(_GROUP, "cuda-bindings", "ok", told))
    return findings


def _bindings_missing(missing: bool, error: str, wanted: bool) -> Finding:
    if missing and not wanted:
        return Finding(_GROUP, "cuda-bindings", "none", "not installed, not needed")
    found = "not installed: no CUDA graphs, frames take longer" if missing else error
    what = "pip install cuda-bindings; on JetPack 6: pip install 'cuda-bindings==12.*'"
    return Finding(_GROUP, "cuda-bindings", "warn" if wanted else "none", found, what)


def _mixed(name: str, facts: Any) -> Finding | None:
    """Bindings and library of different versions: plans that one writes the other refuses, or worse."""
    version, library = facts["version"], facts["library"]
    if not library or numbers(version)[:2] == numbers(library)[:2]:
        return None
    found = f"the bindings are of {version}, {facts['libraries'][0]} is {library}"
    same = ".".join(map(str, numbers(library)[:2]))
    what = f"take the other one off LD_LIBRARY_PATH, or: pip install '{name}=={same}.*'"
    return Finding(_GROUP, name, "fail", found, what)


def _told(facts: Any) -> str:
    where = os.path.dirname(facts["libraries"][0]) if facts["libraries"] else ""
    return f"{facts['version']}, library {facts['library']} in {where}" if facts["library"] else facts["version"]


def _without_tensorrt(machine: Machine) -> Finding:
    if not has_gpu(machine):
        return Finding(_GROUP, "tensorrt", "none", "not installed; without a GPU it is of no use")
    if place := next((place for place in _SYSTEM_PLACES if machine.at(f"{place}/tensorrt").is_dir()), None):
        what = "python3 -m venv --system-site-packages .venv, and install edge-retina in there"
        return Finding(_GROUP, "tensorrt", "warn", f"is in {place}, which this environment does not see", what)
    if machine.jetson:
        what = "sudo apt install python3-libnvinfer, and an environment that sees it: --system-site-packages"
        return Finding(_GROUP, "tensorrt", "warn", "not installed: the GPU is not used", what)
    what = "pip install 'edge-retina[tensorrt]', or on a desktop GPU 'edge-retina[rtx]'"
    return Finding(_GROUP, "tensorrt", "warn", "not installed: the GPU is not used", what)


def _install(machine: Machine) -> str:
    if machine.container:
        return "start the container with --gpus all (Jetson: --runtime nvidia)"
    if machine.jetson:
        return "sudo apt install nvidia-l4t-cuda"
    return "sudo ubuntu-drivers install (Ubuntu), or sudo apt install nvidia-driver (Debian); then reboot"


def _closed(machine: Machine) -> str:
    """What to do where the GPU's device files are there and this user may not open them."""
    names = [name for name in machine.names("/dev") if re.fullmatch(r"nvidia\d+|nvidiactl|nvhost-gpu|nvmap", name)]
    if all(os.access(machine.at(f"/dev/{name}"), os.R_OK | os.W_OK) for name in names):
        return ""
    return "this user may not open /dev/nvidia*: sudo usermod -aG video,render $USER, then log in again"
