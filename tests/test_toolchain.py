"""What is on a machine for compiling the plugin, found and missed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulator.build import compiler
from fake_toolchain import NEW, OLD, Machine, empty_machine

from edge_retina import toolchain
from edge_retina.errors import UsageError
from edge_retina.toolchain import (
    Headers,
    compute_capability,
    find_headers,
    find_nvcc,
    installed_version,
    lacking,
    parse_version,
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return empty_machine(tmp_path, monkeypatch)


def test_an_empty_machine_lacks_everything(machine: Machine) -> None:
    assert [what for what, _ in lacking()] == ["nvcc", "g++", "NvInfer.h"]
    packages = dict(lacking("10.3.0"))
    assert "cuda-nvcc-12-6" in packages["nvcc"]
    assert packages["g++"] == "g++"
    assert packages["NvInfer.h of TensorRT 10"].startswith("libnvinfer-headers-dev")
    assert (find_nvcc(), find_headers(), compute_capability()) == (None, None, None)


def test_a_whole_machine_lacks_nothing(machine: Machine) -> None:
    machine.whole()
    assert lacking() == lacking("10.13") == []


def test_nvcc_without_its_headers(machine: Machine) -> None:
    machine.whole(headers=False)
    assert [(what, package[:16]) for what, package in lacking()] == [("cuda_runtime_api.h", "cuda-cudart-dev-")]


def test_an_nvcc_that_cannot_be_run_lacks_its_headers(machine: Machine) -> None:
    machine.whole()
    (machine.bin / "nvcc").write_text("#!/nowhere/sh\n")
    assert [what for what, _ in lacking()] == ["cuda_runtime_api.h"]


def test_the_host_compiler_may_be_another(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.nvcc()
    machine.headers()
    assert [what for what, _ in lacking()] == ["g++"]
    machine.gxx()
    monkeypatch.setenv("NVCC_CCBIN", "g++-12")
    assert [what for what, _ in lacking()] == ["g++"]
    monkeypatch.setenv("NVCC_CCBIN", str(machine.root))
    assert [what for what, _ in lacking()] == ["g++"]
    monkeypatch.setenv("NVCC_CCBIN", str(machine.bin))  # nvcc takes the folder too
    assert lacking() == []


def test_where_nvcc_is_looked_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {}
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "PATH", "usual"):
        nvcc = machine.root / name / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text("#!/bin/sh\n")
        nvcc.chmod(0o755)
        places[name] = nvcc
    monkeypatch.setattr(toolchain, "_CUDA_PLACES", (machine.root / "usual",))
    assert find_nvcc() == places["usual"]
    monkeypatch.setenv("PATH", str(places["PATH"].parent))
    assert find_nvcc() == places["PATH"]
    for name in ("CUDA_PATH", "CUDA_HOME"):
        monkeypatch.setenv(name, str(machine.root / name))
        assert find_nvcc() == places[name]
    monkeypatch.setenv("CUDACXX", str(places["CUDACXX"]))
    assert find_nvcc() == places["CUDACXX"]
    places["CUDACXX"].chmod(0o644)
    assert find_nvcc() == places["CUDA_HOME"]


@pytest.mark.parametrize(
    ("version", "text", "expected"),
    [("10.3", OLD, (10, 3)), ("10.13", NEW, (10, 13)), ("11.4", NEW, (11, 4)), ("8.6", OLD, None), ("10.3", "", None)],
)
def test_headers_say_their_version(machine: Machine, version: str, text: str, expected: tuple[int, int] | None) -> None:
    folder = machine.headers(version, text=text)
    assert find_headers() == (Headers(folder, expected) if expected else None)


def test_headers_of_another_major_do_not_do(machine: Machine) -> None:
    folder = machine.headers("10.3")
    assert find_headers("10.16.2") == Headers(folder, (10, 3))
    assert find_headers("11.0.0") is None


def test_where_headers_are_looked_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for place, version in (("tar/include", "10.7"), ("root/include", "10.9"), ("usual", "10.3"), ("own", "10.5")):
        found[version] = Headers(machine.headers(version, place=place), (10, int(version[3:])))
    assert find_headers("10.3") == found["10.5"]  # the variable names the only place
    monkeypatch.delenv(toolchain.HEADERS)
    assert find_headers() is None
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{machine.root}/none:{machine.root}/tar/lib")
    assert find_headers() == found["10.7"]
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{machine.root}/tar/targets/x86_64-linux-gnu/lib")
    assert find_headers() == found["10.7"]
    monkeypatch.setattr(toolchain, "_TENSORRT_PLACES", (machine.root / "usual",))
    assert find_headers() == found["10.3"]
    monkeypatch.setenv("TENSORRT_ROOT", str(machine.root / "root"))
    assert find_headers() == found["10.9"]
    # Of several that would do the nearest.
    assert find_headers("10.6.0") == find_headers("10.7") == found["10.7"]
    assert find_headers("10.3.0") == found["10.3"]
    assert find_headers("10.16") == found["10.9"]


def test_headers_that_cannot_be_read_are_none(machine: Machine) -> None:
    folder = machine.headers()
    (folder / "NvInferVersion.h").unlink()
    (folder / "NvInferVersion.h").mkdir()
    assert find_headers() is None


def test_the_installed_version_is_pythons_then_the_headers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    place = machine.root / "site"
    monkeypatch.syspath_prepend(str(place))
    machine.headers("10.16")
    for name, version in (("tensorrt_cu12", "10.7.0"), ("tensorrt", "10.3.0")):
        info = place / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        assert installed_version() == version


@pytest.mark.parametrize("text", ["", "10", "ten", "10.2.9", "8.6.2", "10.3x", "-1.5", "99999.1"])
def test_versions_that_do_not_do(text: str) -> None:
    with pytest.raises(UsageError, match=r"10\.3 or later"):
        parse_version(text)


def test_versions_are_major_and_minor() -> None:
    assert parse_version("10.3") == parse_version("10.3.0.30") == (10, 3)
    assert parse_version("11.4.1") == (11, 4)


DRIVER = """
extern "C" int cuInit(unsigned) { return %d; }
extern "C" int cuDeviceGet(int* device, int index) { *device = 40 + index; return 0; }
extern "C" int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return device == 40 ? 0 : 1;
}
"""


@pytest.mark.parametrize(("code", "expected"), [(0, "8.7"), (100, None)])
def test_the_driver_is_asked_what_the_gpu_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: str | None
) -> None:
    source, library = tmp_path / "driver.cpp", tmp_path / f"libcuda-{code}.so"
    source.write_text(DRIVER % code)
    subprocess.run([compiler(), "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    monkeypatch.setattr(toolchain, "_DRIVER", str(library))
    assert compute_capability() == expected


def test_a_library_that_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_DRIVER", "libm.so.6")
    assert compute_capability() is None
