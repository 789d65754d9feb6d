"""`edge-retina plugin`, on machines that have a script for nvcc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_toolchain import Machine, empty_machine

from edge_retina.commands.plugin import plugin_command
from edge_retina.errors import MissingPackage, UsageError
from edge_retina.plugin import LIBRARY, find_library

WHERE = ("--tensorrt", "10.3.0", "--compute-capability", "8.7")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return empty_machine(tmp_path, monkeypatch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plugin_command, arguments)


def test_status_of_an_empty_machine(machine: Machine) -> None:
    done = run("status")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:5] == ["library: none", "tensorrt: none", "compute capability: none", "nvcc: none", "headers: none"]
    assert [line.split(";")[0] for line in lines[5:]] == ["missing: nvcc", "missing: g++", "missing: NvInfer.h"]
    facts = json.loads(run("status", "--json").stdout)
    assert facts["library"] is None
    assert facts["missing"][1] == {"what": "g++", "package": "g++"}


def test_build_then_status(machine: Machine) -> None:
    machine.whole()
    assert "build it: edge-retina plugin build" in run("status", *WHERE).stdout
    done = run("build", *WHERE)
    assert done.exit_code == 0, done.output
    path = find_library("10.3.0", "8.7")
    assert done.stdout == f"{path}\n"
    assert done.stderr == "building the plugin for TensorRT 10.3.0, sm_87\n"
    facts = json.loads(run("status", "--json", *WHERE).stdout)
    assert facts["library"] == str(path)
    assert facts["headers"] == f"{machine.root / 'include'} (10.3)"
    assert facts["missing"] == []
    assert f"library: {path}" in run("status", *WHERE).stdout
    run("build", "--force", *WHERE)
    assert len(machine.calls) == 2


def test_the_headers_say_which_tensorrt(machine: Machine) -> None:
    machine.whole()
    done = run("build", "--compute-capability", "11.0")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().endswith(f"-trt10.3-sm110/{LIBRARY}")


def test_what_cannot_be_known_is_asked_for(machine: Machine) -> None:
    machine.whole()
    failed = run("build", "--tensorrt", "10.3").exception
    assert isinstance(failed, UsageError)
    assert "--compute-capability 8.7 (Orin)" in str(failed)


def test_what_is_missing_is_told_first(machine: Machine) -> None:
    for arguments in ((), ("--tensorrt", "10.3"), WHERE):
        failed = run("build", *arguments).exception
        assert isinstance(failed, MissingPackage)
        assert "libnvinfer-headers-dev" in str(failed)
