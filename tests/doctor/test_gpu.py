"""GPUs of made-up machines: libraries compiled here stand for NVIDIA's, so that loading them is real."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fake_packages import distribution, package

from edge_retina.doctor import compiler, gpu
from edge_retina.doctor.machine import Finding, Machine

DRIVER = """
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) { const char *code = getenv("FAKE_CUINIT"); return code ? atoi(code) : 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return 0; }
"""
TENSORRT = "int getInferLibVersion() { return 100300; }"
FAKE_TENSORRT = "import ctypes\nctypes.CDLL({library!r})\n__version__ = {version!r}"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libcuda.so.1 and libnvinfer.so.10."""
    folder = tmp_path_factory.mktemp("lib")
    for name, code in (("libcuda.so.1", DRIVER), ("libnvinfer.so.10", TENSORRT)):
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / name)]
        subprocess.run(command, input=code, text=True, check=True, capture_output=True)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks into first."""
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    return place


def graphics_card(root: Path, vendor: str = "0x10de") -> None:
    place = root / "sys/bus/pci/devices/0000:01:00.0"
    place.mkdir(parents=True)
    (place / "vendor").write_text(f"{vendor}\n")
    (place / "class").write_text("0x030000\n")


def one(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_no_gpu(root: Path) -> None:
    machine = Machine(root=root, environ={})
    assert not gpu.has_gpu(machine)
    graphics_card(root, "0x8086")
    assert not gpu.has_gpu(machine)
    assert one(gpu.check_driver(machine)).status == "none"


def test_a_gpu_without_a_driver(root: Path) -> None:
    graphics_card(root)
    finding = one(gpu.check_driver(Machine(root=root, environ={})))
    assert (finding.status, finding.found) == ("fail", "there is an NVIDIA GPU and no driver (libcuda.so.1)")
    assert "ubuntu-drivers" in finding.remedy
    (root / ".dockerenv").touch()
    assert "--gpus all" in one(gpu.check_driver(Machine(root=root, environ={}))).remedy


def test_a_driver(root: Path, libraries: Path) -> None:
    graphics_card(root)
    (root / "proc/driver/nvidia").mkdir(parents=True)
    said = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri Aug 16 21:39:15 UTC 2024\n"
    (root / "proc/driver/nvidia/version").write_text(said)
    finding = one(gpu.check_driver(Machine(root=root, environ={"LD_LIBRARY_PATH": str(libraries)})))
    assert finding == Finding("GPU", "driver", "ok", "Orin, compute capability 8.7; 560.35.03, CUDA 12.6")


@pytest.mark.parametrize(
    ("code", "found", "remedy"),
    [
        ("100", "no GPU is visible (cuInit: 100)", "CUDA_VISIBLE_DEVICES"),
        ("803", "driver and library are of different versions (cuInit: 803)", "reboot"),
        ("999", "the driver fails (cuInit: 999)", "nvidia_uvm"),
        ("17", "error 17 (cuInit: 17)", "dmesg"),
    ],
)
def test_a_driver_that_fails(root: Path, libraries: Path, code: str, found: str, remedy: str) -> None:
    graphics_card(root)
    environ = {"LD_LIBRARY_PATH": str(libraries), "FAKE_CUINIT": code}
    finding = one(gpu.check_driver(Machine(root=root, environ=environ)))
    assert (finding.status, finding.found) == ("fail", f"CUDA 12.6: {found}")
    assert remedy in finding.remedy


def test_tensorrt_and_its_library(root: Path, libraries: Path, packages: Path) -> None:
    library = str(libraries / "libnvinfer.so.10")
    package(packages, "tensorrt", FAKE_TENSORRT.format(library=library, version="10.3.0"))
    machine = Machine(root=root)
    finding = one(gpu.check_tensorrt(machine))
    assert (finding.status, finding.found) == ("ok", f"10.3.0, library 10.3.0 in {libraries}")
    code = packages / "tensorrt" / "__init__.py"
    code.write_text(FAKE_TENSORRT.format(library=library, version="10.13.2.6"))
    finding = one(gpu.check_tensorrt(machine))
    assert (finding.status, finding.found) == ("fail", f"the bindings are of 10.13.2.6, {library} is 10.3.0")
    assert finding.remedy.endswith("pip install 'tensorrt==10.3.*'")
    for version, status in (("8.6.2", "fail"), ("10.3.0", "ok"), ("11.4.1", "ok"), ("12.0", "warn")):
        code.write_text(f"__version__ = {version!r}")
        assert one(gpu.check_tensorrt(machine)).status == status, version
    code.write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file or directory')")
    assert "LD_LIBRARY_PATH" in one(gpu.check_tensorrt(machine)).remedy
    code.unlink()  # an empty folder, as type stubs leave one
    assert one(gpu.check_tensorrt(machine)).status == "none"


def test_a_tensorrt_that_this_environment_does_not_see(root: Path, packages: Path) -> None:
    (packages / "tensorrt").mkdir()
    graphics_card(root)
    machine = Machine(root=root)
    assert one(gpu.check_tensorrt(machine)).remedy.startswith("pip install 'edge-retina[tensorrt]'")
    (root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    finding = one(gpu.check_tensorrt(machine))
    assert finding.status == "warn"
    assert "--system-site-packages" in finding.remedy


def test_tensorrt_rtx(root: Path, packages: Path) -> None:
    package(packages, "tensorrt_rtx", "__version__ = '1.7.1'")
    assert one(gpu.check_tensorrt_rtx(Machine(root=root))) == Finding("GPU", "tensorrt-rtx", "ok", "1.7.1")
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert one(gpu.check_tensorrt_rtx(Machine(root=root))).status == "warn"


def test_cuda_for_python(root: Path, libraries: Path, packages: Path) -> None:
    graphics_card(root)
    distribution(packages, "tensorrt", "10.3.0")
    machine = Machine(root=root, environ={"LD_LIBRARY_PATH": str(libraries)})
    package(packages, "pycuda", "raise ModuleNotFoundError('none', name='pycuda')")
    package(packages, "cuda", "raise ModuleNotFoundError('none', name='cuda')")
    pycuda, bindings = gpu.check_cuda_python(machine)
    assert (pycuda.status, bindings.status) == ("fail", "warn")
    assert pycuda.remedy == "export PATH=/usr/local/cuda/bin:$PATH && pip install pycuda"
    assert "cuda-bindings==12.*" in bindings.remedy
    (packages / "pycuda/__init__.py").write_text("VERSION_TEXT = '2025.1'")
    (packages / "pycuda/driver.py").touch()
    (packages / "cuda/__init__.py").write_text("")
    (packages / "cuda/bindings").mkdir()
    (packages / "cuda/bindings/runtime.py").write_text("def cudaRuntimeGetVersion(): return 0, 13000")
    pycuda, bindings = gpu.check_cuda_python(machine)
    assert (pycuda.status, pycuda.found) == ("ok", "2025.1")
    assert (bindings.status, bindings.remedy) == ("warn", "pip install 'cuda-bindings==12.*'")
    (packages / "cuda/bindings/runtime.py").write_text("def cudaRuntimeGetVersion(): return (0, 12080)")
    assert gpu.check_cuda_python(machine)[1].status == "ok"


def test_cuda_for_python_is_not_needed_without_a_gpu(root: Path, packages: Path) -> None:
    package(packages, "pycuda", "raise ImportError('libcuda.so.1: cannot open shared object file')")
    package(packages, "cuda", "raise ModuleNotFoundError('none', name='cuda')")
    assert {finding.status for finding in gpu.check_cuda_python(Machine(root=root))} == {"none"}


# The plugin


def test_the_plugin(root: Path, libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(root=root)

    def found() -> Finding:
        return one(compiler.check_plugin(machine))

    monkeypatch.setattr(compiler.toolchain, "installed_version", lambda: None)
    monkeypatch.setattr(compiler.toolchain, "compute_capability", lambda: None)
    assert found().status == "none"
    monkeypatch.setattr(compiler.toolchain, "installed_version", lambda: "10.3.0")
    graphics_card(root)
    assert found().status == "none"
    monkeypatch.setattr(compiler.toolchain, "compute_capability", lambda: "8.7")
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "cache"))
    assert (found().status, found().remedy) == ("warn", "edge-retina plugin build")
    monkeypatch.setenv("EDGE_RETINA_PLUGIN", str(libraries / "libnvinfer.so.10"))  # any library that can be loaded
    assert found().status == "ok"
    (tmp_path / "not.so").write_text("no library")
    monkeypatch.setenv("EDGE_RETINA_PLUGIN", str(tmp_path / "not.so"))
    assert found().status == "fail"
    assert "cannot be loaded: OSError: " in found().found
    monkeypatch.setenv("EDGE_RETINA_PLUGIN", "/nowhere.so")
    assert "EDGE_RETINA_PLUGIN=/nowhere.so: no such file" in found().found


def test_the_compiler(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(root=root)
    monkeypatch.setattr(compiler.toolchain, "installed_version", lambda: "10.3.0")
    monkeypatch.setattr(compiler.plugin, "missing", lambda _: [("nvcc", "cuda-nvcc-12-6"), ("g++", "g++")])
    assert one(compiler.check_compiler(machine)).status == "none"
    graphics_card(root)
    finding = one(compiler.check_compiler(machine))
    assert (finding.status, finding.found) == ("warn", "missing: nvcc, g++")
    assert finding.remedy == "nvcc: install cuda-nvcc-12-6; g++: install g++"
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.68'\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(compiler.plugin, "missing", lambda _: [])
    monkeypatch.setattr(compiler.toolchain, "find_nvcc", lambda: nvcc)
    headers = compiler.toolchain.Headers(Path("/usr/include"), (10, 3))
    monkeypatch.setattr(compiler.toolchain, "find_headers", lambda _: headers)
    finding = one(compiler.check_compiler(machine))
    assert (finding.status, finding.found) == ("ok", "nvcc 12.6, headers 10.3 in /usr/include")
