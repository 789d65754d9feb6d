"""What compiles the plugin, and what for: CUDA's and TensorRT's files on this machine, its TensorRT and its GPU."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_retina.errors import UsageError

__all__ = [
    "HEADERS",
    "Headers",
    "compute_capability",
    "find_headers",
    "find_nvcc",
    "installed_version",
    "lacking",
    "parse_version",
]

# A folder with NvInfer.h, looked at instead of the usual places.
HEADERS = "EDGE_RETINA_TENSORRT_HEADERS"

_OLDEST = (10, 3)
# Where JetPack and NVIDIA's installers put CUDA and TensorRT, PATH aside.
_CUDA_PLACES = (Path("/usr/local/cuda"),)
_TENSORRT_PLACES = (Path("/usr/include"), Path("/usr/local/tensorrt/include"), Path("/opt/tensorrt/include"))
_DRIVER = "libcuda.so.1"
_CC_MAJOR, _CC_MINOR = 75, 76  # cuDeviceGetAttribute, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_PACKAGES = {
    "nvcc": "cuda-nvcc-12-6, or your CUDA version's; on JetPack nvidia-cuda-dev has it; Debian, Ubuntu: "
    "nvidia-cuda-toolkit",
    "cuda_runtime_api.h": "cuda-cudart-dev-12-6, or your CUDA version's; on JetPack nvidia-cuda-dev has it",
    "g++": "g++",
    "NvInfer.h": "libnvinfer-headers-dev (pip's tensorrt has no headers), or set "
    f"{HEADERS} to the include folder of TensorRT's tar",
}


@dataclass(frozen=True)
class Headers:
    """TensorRT's headers: the folder that has NvInfer.h, and their (major, minor)."""

    folder: Path
    version: tuple[int, int]


def lacking(version: str | None = None) -> list[tuple[str, str]]:
    """What a build lacks on this machine, each with the package to install.

    version: of the TensorRT to build for, whose headers must be of its major version.
    """
    nvcc, gxx = find_nvcc(), _host_compiler()
    have = {
        "nvcc": nvcc is not None,
        "g++": gxx is not None,
        "cuda_runtime_api.h": nvcc is None or gxx is None or _has_cuda_headers(nvcc),
        "NvInfer.h": find_headers(version) is not None,
    }
    return [(_what(name, version), _PACKAGES[name]) for name, there in have.items() if not there]


def find_nvcc() -> Path | None:
    """CUDA's compiler: of $CUDACXX, $CUDA_HOME, $CUDA_PATH, PATH, /usr/local/cuda; the first that is there."""
    named = [Path(os.environ[name]) for name in ("CUDACXX",) if os.environ.get(name)]
    named += [Path(os.environ[name]) / "bin" / "nvcc" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    on_path = shutil.which("nvcc")
    places = [*named, *([Path(on_path)] if on_path else []), *(place / "bin" / "nvcc" for place in _CUDA_PLACES)]
    return next((path for path in places if path.is_file() and os.access(path, os.X_OK)), None)


def find_headers(version: str | None = None) -> Headers | None:
    """TensorRT's headers of a version's major, preferably its minor; of any usable version without one.

    Looked for: $EDGE_RETINA_TENSORRT_HEADERS alone where it is set; else $TENSORRT_ROOT, where JetPack, Debian and
    Ubuntu have them, and beside the libraries of a tar on LD_LIBRARY_PATH.
    """
    found = [headers for place in _header_places() if (headers := _read_version(place)) and headers.version >= _OLDEST]
    if version is None:
        return found[0] if found else None
    major, minor = parse_version(version)
    same = [headers for headers in found if headers.version[0] == major]
    return min(same, key=lambda headers: abs(headers.version[1] - minor), default=None)


def installed_version() -> str | None:
    """The TensorRT that Python has, such as "10.3.0", else that of the headers; None: there is none."""
    from importlib import metadata

    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    headers = find_headers()
    return ".".join(map(str, headers.version)) if headers else None


def compute_capability() -> str | None:
    """That of this machine's first GPU, such as "8.7", asked of the driver; None: there is none."""
    import ctypes

    try:
        driver = ctypes.CDLL(_DRIVER)
        if driver.cuInit(0) != 0:
            return None
        device, numbers = ctypes.c_int(), []
        if driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
            return None
        for attribute in (_CC_MAJOR, _CC_MINOR):
            value = ctypes.c_int()
            if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
                return None
            numbers.append(value.value)
    except (OSError, AttributeError):
        return None
    return ".".join(map(str, numbers))


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) of a TensorRT such as "10.3.0.30". Raises UsageError for what is none, or too old."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.|$)", text)
    numbers = (int(match[1]), int(match[2])) if match else None
    if numbers is None or numbers < _OLDEST:
        raise UsageError(
            f"the plugin wants TensorRT {_OLDEST[0]}.{_OLDEST[1]} or later, such as 10.3.0, found {text!r}"
        )
    return numbers


def _header_places() -> Iterator[Path]:
    if own := os.environ.get(HEADERS):
        yield Path(own)
        return
    if root := os.environ.get("TENSORRT_ROOT"):
        yield Path(root) / "include"
    yield Path(f"/usr/include/{platform.machine()}-linux-gnu")
    yield from _TENSORRT_PLACES
    for place in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        # TensorRT-10.3/lib and TensorRT-10.3/targets/x86_64-linux-gnu/lib
        yield from (above / "include" for above in Path(place).parents[:3:2])


def _read_version(place: Path) -> Headers | None:
    """Before 10.13 NV_TENSORRT_MAJOR is a number; since then it stands for TRT_MAJOR_ENTERPRISE."""
    try:
        text = (place / "NvInferVersion.h").read_text(errors="replace") if (place / "NvInfer.h").is_file() else ""
    except OSError:
        return None
    found = [re.search(rf"^#define \w*_{part}(?:_ENTERPRISE)?\s+(\d+)", text, re.M) for part in ("MAJOR", "MINOR")]
    numbers = [int(match[1]) for match in found if match]
    return Headers(place, (numbers[0], numbers[1])) if len(numbers) == 2 else None


def _host_compiler() -> str | None:
    """The C++ compiler that nvcc will call: $NVCC_CCBIN is one or the folder that has g++."""
    named = os.environ.get("NVCC_CCBIN") or "g++"
    return shutil.which("g++", path=named) if os.path.isdir(named) else shutil.which(named)


def _has_cuda_headers(nvcc: Path) -> bool:
    """Asked of nvcc, which may be a wrapper or have its headers elsewhere."""
    command = [str(nvcc), "-x", "c++", "-E", os.devnull, "-include", "cuda_runtime_api.h", "-o", os.devnull]
    with suppress(OSError):
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    return False


def _what(name: str, version: str | None) -> str:
    return f"{name} of TensorRT {version.split('.')[0]}" if name == "NvInfer.h" and version else name
