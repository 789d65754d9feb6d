"""Python in a process of its own: whatever a broken package does there is told in a line."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from edge_retina.doctor import machine as module
from edge_retina.doctor.machine import Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine's Python, which finds broken.py first; nothing of its file system."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return Machine(root=tmp_path / "root")


def broken(tmp_path: Path, code: str) -> str:
    (tmp_path / "broken.py").write_text(code)
    return "import broken\nfacts['value'] = broken.value"


def test_what_it_finds_comes_back(machine: Machine, tmp_path: Path) -> None:
    probe = machine.probe("broken", broken(tmp_path, "print('hello')\nvalue = [1, 'ü']"))
    assert probe.ok
    assert probe.facts == {"value": [1, "ü"]}
    assert machine.probe("json", "import json").facts == {}
    assert machine.probe("json", "facts['it'] = argument", "x y").facts == {"it": "x y"}


def test_a_package_that_is_not_there(machine: Machine, tmp_path: Path) -> None:
    assert machine.probe("broken", "import broken").missing
    # One that is there and lacks another is broken, not missing.
    probe = machine.probe("broken", broken(tmp_path, "import nowhere_at_all"))
    assert not probe.missing
    assert probe.error == "ModuleNotFoundError: No module named 'nowhere_at_all'"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise ImportError('libGL.so.1: cannot open')", "ImportError: libGL.so.1: cannot open"),
        ("print('was built\\nfor NumPy 1\\n\\nmore')\nraise ImportError", "ImportError: was built for NumPy 1"),
        ("import os; os.abort()", "import of broken crashes Python (SIGABRT)"),
        ("import ctypes; ctypes.string_at(0)", "import of broken crashes Python (SIGSEGV)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "import of broken crashes Python (SIGILL)"),
        ("import os; os._exit(3)", "import of broken ends Python with exit code 3"),
        ("raise SystemExit('leave')", "SystemExit: leave"),
        ("x = ", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("raise ValueError('long ' * 1000)", "ValueError: " + ("long " * 1000)[:300]),
    ],
)
def test_a_broken_package(machine: Machine, tmp_path: Path, code: str, error: str) -> None:
    probe = machine.probe("broken", broken(tmp_path, code))
    assert (probe.ok, probe.missing, probe.facts) == (False, False, {})
    assert probe.error == error


def test_one_that_never_ends_is_stopped_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "import os, pathlib, sys, time\npid = os.fork()\n"
    code += f"if pid: pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(pid))\ntime.sleep(600)"
    probe = Machine(seconds=3).probe("broken", broken(tmp_path, code))
    assert probe.error == "import of broken does not end: stopped after 3 s"
    child, end = int((tmp_path / "child").read_text()), time.monotonic() + 20
    while _runs(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_python_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    assert Machine().probe("json", "import json").error.startswith("/nowhere/python cannot be run: No such file")


def test_it_sees_the_path_that_this_python_has(machine: Machine) -> None:
    assert machine.probe("sys", "import sys; facts['path'] = sys.path").facts["path"] == sys.path


def test_files_under_the_root(machine: Machine, tmp_path: Path) -> None:
    assert machine.text("/etc/nothing") == ""
    assert machine.names("/dev") == []
    assert not machine.jetson
    assert not machine.container
    (tmp_path / "root" / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "root" / "proc" / "device-tree" / "compatible").write_bytes(b"nvidia,p3768\0nvidia,tegra234\0")
    (tmp_path / "root" / ".dockerenv").touch()
    assert machine.jetson
    assert machine.container
    assert os.fspath(machine.at("/etc/x")) == str(tmp_path / "root" / "etc" / "x")
