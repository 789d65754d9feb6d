"""The plugin built by the real nvcc, and CMake's part; skipped, with the reason, where they are not there."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from emulator.build import KERNELS
from plugin.build import headers

from edge_retina.cachefolder import FOLDER
from edge_retina.plugin import LIBRARY, build_library, find_library, missing
from edge_retina.toolchain import find_headers, find_nvcc


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for an Orin, out of `edge-retina plugin build`; ten seconds of nvcc."""
    headers()
    found = find_headers()
    assert found is not None
    version = ".".join(map(str, found.version))
    if lacking := missing(version):
        pytest.skip(f"cannot build the plugin: {lacking}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(tmp_path_factory.mktemp("cache")))
        path = build_library(version, "8.7")
        assert find_library(version, "8.7") == path
    return path


def test_it_exports_two_names_and_needs_nothing_of_tensorrt(built: Path) -> None:
    nm = [tool("nm"), "-D", str(built)]
    exported = subprocess.run([*nm, "--defined-only"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in exported.splitlines()] == ["getCreators", "setLoggerFinder"]
    wanted = subprocess.run([*nm, "--undefined-only"], capture_output=True, text=True, check=True).stdout
    assert "nvinfer" not in wanted
    assert "cuda" not in wanted


def test_it_loads_without_gpu_driver_or_tensorrt(built: Path) -> None:
    library, count = ctypes.CDLL(str(built)), ctypes.c_int32()
    library.getCreators.restype = ctypes.POINTER(ctypes.c_void_p)
    creators = library.getCreators(ctypes.byref(count))
    assert count.value == 1
    assert creators[0]
    assert built.name == LIBRARY


@pytest.fixture
def configure(tmp_path: Path) -> list[str]:
    if find_nvcc() is None:
        pytest.skip("needs nvcc")
    tool("g++")
    return [tool("cmake"), "-S", str(KERNELS), "-B", str(tmp_path), "-DCMAKE_CUDA_ARCHITECTURES=87"]


def test_cmake_finds_the_headers(configure: list[str]) -> None:
    command = [*configure, f"-DTENSORRT_ROOT={headers()}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = find_headers()
    assert found is not None
    assert f"TensorRT {'.'.join(map(str, found.version))} headers: {found.folder}" in done.stdout


def test_cmake_names_the_package_that_is_missing(configure: list[str]) -> None:
    done = subprocess.run([*configure, "-DTENSORRT_ROOT=/nowhere"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no NvInfer.h; install libnvinfer-headers-dev" in " ".join(done.stderr.split())
