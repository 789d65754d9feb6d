"""The doctor as a whole: on this machine, in a bare environment, on a terminal, in a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_packages import package

import edge_retina
from edge_retina import cli
from edge_retina.commands import doctor as command
from edge_retina.doctor import plain
from edge_retina.doctor.examine import CHECKS, as_json, examine, summary
from edge_retina.doctor.machine import Finding, Machine

SOURCES = Path(edge_retina.__file__).parent.parent
FINDINGS = [
    Finding("Python", "python", "ok", "3.11.7", "never shown"),
    Finding("OpenCV", "opencv", "fail", "ImportError: libGL.so.1", "sudo apt install libgl1"),
    Finding("OpenCV", "windows", "none", "none"),
    Finding("System", "memory", "warn", "0.5 GiB free", "end other programs"),
]


def environment(**changes: str) -> dict[str, str]:
    left = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "PYTHONPATH", "COLUMNS")}
    return {**left, **changes}


def run(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, words)), env=environment(**changes), capture_output=True, text=True, timeout=300, check=False
    )


def test_no_checks() -> None:
    assert examine(Machine(), checks=()) == []
    assert summary([]) == "0 checks: 0 ok, 0 warnings, 0 faults, 0 do not apply"


def test_this_machine() -> None:
    done = run(sys.executable, "-m", "edge_retina", "doctor", "--json")
    facts = json.loads(done.stdout)
    found = {(row["group"], row["name"]): row for row in facts["checks"]}
    faults = [name for (_, name), row in found.items() if row["status"] == "fail"]
    assert facts["ok"] == (not faults)
    assert done.returncode == (11 if faults else 0)
    assert done.stderr == (f"edge-retina: faults found: {', '.join(faults)}\n" if faults else "")
    for name in ("python", "edge-retina", "click", "rich"):
        assert found["Python", name]["status"] == "ok", found["Python", name]
    for name in ("numpy", "onnx", "onnxruntime"):
        assert found["Packages", name]["status"] in ("ok", "warn"), found["Packages", name]
    assert facts["versions"]["numpy"] in found["Packages", "numpy"]["found"]
    assert {group for group, _ in found} == {
        "Python",
        "Packages",
        "OpenCV",
        "Cameras",
        "GPU",
        "Plugin",
        "Jetson",
        "System",
    }
    assert sum(facts["counts"].values()) == len(facts["checks"])
    for row in facts["checks"]:
        assert row["found"]
        assert row["remedy"] or row["status"] in ("ok", "none"), row


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with nothing in it."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place, symlinks=True)
    return place / "bin" / "python"


def test_a_bare_environment(bare: Path, tmp_path: Path) -> None:
    # As after pip install --no-deps: the package, and nothing that it needs.
    (tmp_path / "edge_retina").symlink_to(SOURCES / "edge_retina")
    done = run(bare, "-m", "edge_retina", "doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 11, done.stderr
    assert done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "FAIL click not installed: the command line needs it",
        "-> pip install click",
        "FAIL numpy not installed",
        "-> pip install numpy",
        "FAIL onnxruntime not installed: the CPU runtime",
        "warn onnx not installed: build needs it, run does not",
        "-> pip install opencv-python",
    ):
        assert line in lines, done.stdout
    done = run(bare, "-m", "edge_retina", "run", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr == (
        "edge-retina: cannot start: ModuleNotFoundError: No module named 'click'; run: edge-retina doctor\n"
    )
    done = run(bare, "-m", "edge_retina", "doctor", "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, "--camera URI" in done.stdout) == (0, True)


def test_a_reader_who_leaves(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "edge_retina").symlink_to(SOURCES / "edge_retina")
    command = [bare, "-m", "edge_retina", "doctor"]
    given = environment(PYTHONPATH=str(tmp_path))
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("name", "code", "found"),
    [
        ("cv2", "import ctypes; ctypes.string_at(0)", "opencv import of cv2 crashes Python (SIGSEGV)"),
        ("rich", "raise RuntimeError('rich is broken')", "rich RuntimeError: rich is broken"),
        ("click", "raise RuntimeError('click is broken')", "click RuntimeError: click is broken"),
    ],
)
def test_the_doctor_outlives_what_is_broken(tmp_path: Path, name: str, code: str, found: str) -> None:
    package(tmp_path, name, code)
    done = run(sys.executable, "-m", "edge_retina", "doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 11
    assert "Traceback" not in done.stderr
    assert f"FAIL {found}" in " ".join(done.stdout.split())


def test_what_is_broken_leads_to_the_doctor(tmp_path: Path) -> None:
    package(tmp_path, "cv2", "raise ImportError('libGL.so.1: cannot open shared object file')")
    (tmp_path / "m.edge").touch()
    words = (sys.executable, "-m", "edge_retina", "run", tmp_path / "m.edge", "--source", "test://")
    done = run(*words, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr.endswith("libGL.so.1: cannot open shared object file; run: edge-retina doctor\n")
    assert done.stderr.count("\n") == 1


def test_a_check_that_fails_itself() -> None:
    def check_moon(_: Machine) -> list[Finding]:
        raise ZeroDivisionError("oh")

    (finding,) = examine(Machine(), checks=[check_moon])
    assert (finding.name, finding.status) == ("moon", "warn")
    assert finding.found == "this check failed itself: ZeroDivisionError: oh"


def test_findings_stand_in_the_order_of_the_checks() -> None:
    checks = [lambda _, n=n: [Finding("Python", str(n), "ok", "x")] for n in range(20)]
    assert [finding.name for finding in examine(Machine(), checks=checks)] == [str(n) for n in range(20)]
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)


# How it is shown


def test_plain_lines() -> None:
    assert list(plain.lines(FINDINGS, 80)) == [
        "Python",
        "  ok   python               3.11.7",
        "",
        "OpenCV",
        "  FAIL opencv               ImportError: libGL.so.1",
        "                            -> sudo apt install libgl1",
        "  -    windows              none",
        "",
        "System",
        "  warn memory               0.5 GiB free",
        "                            -> end other programs",
        "",
        "4 checks: 1 ok, 1 warning, 1 fault, 1 do not apply",
    ]
    assert list(plain.lines([], 80)) == [summary([])]
    long = [Finding("System", "memory", "ok", "word " * 100)]
    assert all(len(line) <= 60 for line in plain.lines(long, 60))


def test_json() -> None:
    facts = json.loads(as_json(FINDINGS))
    assert not facts["ok"]
    assert facts["counts"] == {"ok": 1, "fail": 1, "none": 1, "warn": 1}
    assert facts["checks"][1] == {
        "group": "OpenCV",
        "name": "opencv",
        "status": "fail",
        "found": "ImportError: libGL.so.1",
        "remedy": "sudo apt install libgl1",
    }
    assert json.loads(as_json([]))["ok"]


def shown(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], **environ: str) -> tuple[str, BaseException | None]:
    import edge_retina.doctor.examine as module

    monkeypatch.setattr(module, "examine", lambda *_, **__: findings)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(command.doctor_command, [])
    return result.stdout, result.exception


def test_colours_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    text, error = shown(monkeypatch, FINDINGS)
    assert "\x1b" not in text
    assert "  FAIL opencv " in text
    assert str(error) == "faults found: opencv"
    assert error.exit_code == 11  # type: ignore[union-attr]
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured, _ = shown(monkeypatch, FINDINGS, FORCE_COLOR="1")
    assert "\x1b[32m" in coloured
    assert "✘" in coloured
    assert "never shown" not in coloured
    assert "→ sudo apt install libgl1" in coloured
    assert "\x1b" not in shown(monkeypatch, FINDINGS, FORCE_COLOR="1", NO_COLOR="1")[0]
    assert shown(monkeypatch, FINDINGS[:1]) == ("\n".join(plain.lines(FINDINGS[:1], 80)) + "\n", None)


def test_it_is_a_command() -> None:
    assert cli.cli.get_command(cli.click.Context(cli.cli), "doctor") is command.doctor_command
