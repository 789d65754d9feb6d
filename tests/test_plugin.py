"""The plugin found and built, on machines that have a script for nvcc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_toolchain import Machine, empty_machine

from edge_retina import plugin
from edge_retina.errors import MissingPackage, OutputError, RuntimeFailure, UsageError
from edge_retina.plugin import LIBRARY, VARIABLE, build_library, find_library, library_path, missing, sources

ROOT = Path(__file__).resolve().parent.parent
VERSION, GPU = "10.3.0", "8.7"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return empty_machine(tmp_path, monkeypatch)


def test_nothing_is_built_on_an_empty_machine(machine: Machine) -> None:
    assert find_library(VERSION, GPU) is None
    with pytest.raises(MissingPackage) as caught:
        build_library(VERSION, GPU)
    for told in ("nvcc: install cuda-nvcc-12-6", "g++: install g++", "libnvinfer-headers-dev", "plugin build"):
        assert told in str(caught.value)
    assert not library_path(VERSION, GPU).parent.exists()


def test_the_sources_are_the_checkouts() -> None:
    found = sources()
    assert found is not None
    assert found.resolve() == ROOT / "plugins" / "anchor_decode"


def test_a_package_without_sources_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.whole()
    build_library(VERSION, GPU)
    monkeypatch.setattr(plugin, "_SOURCES", machine.root / "none")
    assert missing() == [("the plugin's sources", "edge-retina, anew")]
    assert find_library(VERSION, GPU) is None
    with pytest.raises(MissingPackage, match="sources: install edge-retina"):
        build_library(VERSION, GPU)


def test_a_build_is_kept_and_found(machine: Machine, tmp_path: Path) -> None:
    machine.whole()
    notes: list[str] = []
    path = build_library(VERSION, GPU, on_note=notes.append)
    assert notes == ["building the plugin for TensorRT 10.3.0, sm_87"]
    assert path == find_library(VERSION, GPU) == library_path("10.3.9", GPU)
    assert path.name == LIBRARY
    assert path.parent.name.endswith("-trt10.3-sm87")
    assert path.parent.parent == tmp_path / "cache" / "plugins"
    assert path.read_bytes() == b"\x7fELFlibrary"
    assert sorted(p.name for p in path.parent.iterdir()) == ["build.log", LIBRARY]
    assert (path.parent / "build.log").read_text().endswith("exit code 0\n")
    (call,) = machine.calls
    assert "-gencode=arch=compute_87,code=sm_87" in call
    assert f"-I{machine.root / 'include'} " in call
    for source in ("anchor_decode.cu", "anchor_decode_fields.cpp", "anchor_decode_plugin.cpp"):
        assert f"/{source}" in call
    assert build_library(VERSION, GPU) == path
    assert len(machine.calls) == 1
    machine.nvcc(body="another")
    assert build_library(VERSION, GPU, force=True).read_bytes() == b"\x7fELFanother"


def test_each_tensorrt_and_gpu_has_its_own(machine: Machine) -> None:
    machine.whole()
    build_library(VERSION, GPU)
    assert find_library("10.7.0", GPU) is None
    assert find_library(VERSION, "11.0") is None
    assert library_path(VERSION, "11.0").parent.name.endswith("-sm110")


def test_sources_that_change_want_a_new_build(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.whole()
    copy = machine.root / "sources"
    shutil.copytree(ROOT / "plugins" / "anchor_decode", copy)
    monkeypatch.setattr(plugin, "_SOURCES", copy)
    paths = {build_library(VERSION, GPU)}
    (copy / "README.md").write_text("not compiled")
    assert find_library(VERSION, GPU) in paths
    for change in (
        lambda: (copy / "anchor_decode.h").write_text("// other"),
        lambda: (copy / "anchor_decode.h").rename(copy / "b.h") and (copy / "anchor_decode.h").touch(),
        lambda: monkeypatch.setattr(plugin.platform, "machine", lambda: "aarch64"),
    ):
        change()
        assert library_path(VERSION, GPU) not in paths
        paths.add(library_path(VERSION, GPU))


def test_the_variable_names_any_library(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    own = machine.root / "own.so"
    own.touch()
    monkeypatch.setenv(VARIABLE, str(own))
    assert find_library(VERSION, GPU) == own
    monkeypatch.chdir(machine.root)
    monkeypatch.setenv(VARIABLE, "own.so")
    assert find_library(VERSION, GPU) == own
    monkeypatch.setenv(VARIABLE, "other.so")
    with pytest.raises(UsageError, match=r"EDGE_RETINA_PLUGIN=other\.so: no such file"):
        find_library(VERSION, GPU)


@pytest.mark.parametrize(("version", "gpu"), [("8.6.2", GPU), ("ten", GPU), (VERSION, "87"), (VERSION, "8.7;rm")])
def test_versions_and_gpus_that_are_none(machine: Machine, version: str, gpu: str) -> None:
    machine.whole()
    for call in (find_library, build_library):
        with pytest.raises(UsageError):
            call(version, gpu)
    assert machine.calls == []


def test_headers_of_another_minor_are_told(machine: Machine) -> None:
    machine.whole()
    notes: list[str] = []
    build_library("10.16.2", GPU, on_note=notes.append)
    assert notes[0].startswith("headers of TensorRT 10.3 for 10.16.2: ")
    with pytest.raises(MissingPackage, match=r"NvInfer\.h of TensorRT 11: install libnvinfer-headers-dev"):
        build_library("11.0.0", GPU)


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        (1, "warning: x\na.cu(3): error: no such thing\nmore", r"a\.cu\(3\): error: no such thing\. All of it: "),
        (1, "nvcc fatal   : Unsupported gpu architecture 'compute_87'", "Unsupported gpu architecture"),
        (139, "", "exit code 139, no message"),
        (0, "done", "does not compile: done"),
    ],
)
def test_a_compile_that_fails(machine: Machine, code: int, message: str, told: str) -> None:
    machine.whole(code=code, message=message)
    if code == 0:  # says all is well and writes nothing of use
        machine.nvcc(message=message, before="set -- -o /dev/null x")
    with pytest.raises(RuntimeFailure, match=told) as caught:
        build_library(VERSION, GPU)
    assert find_library(VERSION, GPU) is None
    log = Path(str(caught.value).rsplit(": ", 1)[1])
    assert log == library_path(VERSION, GPU).parent / "build.log"
    assert message in log.read_text()
    assert f"exit code {code}\n" in log.read_text()
    machine.nvcc()
    assert build_library(VERSION, GPU).is_file()


def test_a_compiler_that_is_killed_leaves_nothing(machine: Machine) -> None:
    machine.whole(before="kill -9 $$")
    with pytest.raises(RuntimeFailure, match="exit code -9"):
        build_library(VERSION, GPU)
    assert [p.name for p in library_path(VERSION, GPU).parent.iterdir()] == ["build.log"]


def test_a_cache_that_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    machine.whole()
    (tmp_path / "cache").touch()
    with pytest.raises(OutputError, match="cannot write"):
        build_library(VERSION, GPU)
    assert machine.calls == []


def test_two_processes_build_once(machine: Machine) -> None:
    machine.whole(before="/bin/sleep 0.5")
    program = """
    import platform, sys
    platform.machine = lambda: "emptiness"
    from edge_retina.plugin import build_library
    print(build_library("10.3.0", "8.7", on_note=lambda note: print(note, file=sys.stderr)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    assert {out for out, _ in ended} == {f"{library_path(VERSION, GPU)}\n"}
    assert len(machine.calls) == 1
    assert find_library(VERSION, GPU) is not None
