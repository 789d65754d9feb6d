"""The options of a plan: what reaches the builder, what is refused before anything is built, and real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import rtx
from click.testing import CliRunner, Result
from fakes import fake_cuda, fake_tensorrt
from models import tiny_model, write_pictures

from edge_retina.bareplan import read_bare
from edge_retina.commands.build import build_command
from edge_retina.commands.plan import Planned
from edge_retina.commands.report import report_command
from edge_retina.errors import MissingPackage, UsageError
from edge_retina.plans import list_plans

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edge_retina.plugin.missing", lambda *_: [("nvcc", "cuda-nvcc")])
    for name in ("tensorrt", "tensorrt_rtx"):  # as if not installed
        monkeypatch.setitem(sys.modules, name, None)
    tiny_model(tmp_path / "m.onnx")


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU with TensorRT 10.3."""
    trt = fake_tensorrt.module("10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    with fake_cuda.installed():
        yield trt


def build(*arguments: str) -> Result:
    return CliRunner().invoke(build_command, ["m.onnx", *arguments], catch_exceptions=False)


def test_every_option_is_a_field_and_has_help() -> None:
    options = {p.name: p for p in build_command.params if isinstance(p, click.Option)}
    for field in fields(Planned):
        assert options[field.name].help


def test_without_a_gpu_no_plan_is_made_and_nothing_is_said_of_it() -> None:
    with fake_cuda.installed(pycuda=False, bindings=False):
        result = build()
    assert result.exit_code == 0
    assert result.stdout == "m.edge\n"
    assert "plan for" not in result.stderr
    assert list_plans() == []


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        ("--dla", UsageError, "DLA is not a target"),
        ("--plan x.plan", UsageError, "--plan wants to know which TensorRT"),
        ("--plan x.plan --target ort", UsageError, "--plan wants to know which TensorRT"),
        ("--compute-capability SM86", UsageError, "goes with --target tensorrt_rtx"),
        ("--target ort --batch 2", UsageError, "ONNX Runtime needs no plan"),
        ("--target tensorrt", MissingPackage, "needs pycuda"),
        ("--target tensorrt_rtx", MissingPackage, r"run: pip install 'edge-retina\[rtx\]'"),
    ],
)
def test_refused_before_anything_is_built(typed: str, error: type[Exception], message: str) -> None:
    with fake_cuda.installed(pycuda=False, bindings=False), pytest.raises(error, match=message):
        build(*typed.split())
    assert not Path("m.edge").exists()


def test_rtx_without_a_gpu_asks_for_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt.module("1.7.1", rtx=True))
    with (
        fake_cuda.installed(pycuda=False, bindings=False),
        pytest.raises(UsageError, match="say which, --compute-capability SM86"),
    ):
        build("--target", "tensorrt_rtx")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--compute-capability 8.6", "--compute-capability wants some of SM75, .*SM121, found 8.6$"),
        ("--compute-capability SM86 --compute-capability sm87", "found SM87$"),
        ("--compute-capability SM86 --version-compatible", "has engines for one version"),
        ("--compute-capability SM86 --hardware-compatible", "has engines for one version"),
    ],
)
def test_what_rtx_has_not_is_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, typed: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt.module("1.7.1", rtx=True))
    with pytest.raises(UsageError, match=message):
        build("--target", "tensorrt_rtx", *typed.split())
    assert not Path("m.edge").exists()


def test_where_there_is_a_gpu_its_plan_is_compiled(tensorrt: Any) -> None:
    result = build("--batch", "4")
    assert result.stdout == "m.edge\n"
    assert "plan for Fake Orin (8.7), tensorrt 10.3.0: " in result.stderr
    assert "convolutions: fp32 100%" in result.stderr
    (plan,) = list_plans()
    assert plan.key.profile == "1x64x64..1x720x1280..4x2160x3840"


def test_every_option_reaches_the_builder(tensorrt: Any) -> None:
    typed = "--usual-frame 640x480 --largest-frame 1920x1080 --workspace 64 --optimization-level 2 --refit"
    build(*typed.split(), "--version-compatible", "--hardware-compatible")
    (plan,) = list_plans()
    assert plan.key.profile == "1x64x64..1x480x640..1x1080x1920"
    flags = "version_compatible hardware_compatible refit"
    assert plan.key.options == f"fp32 workspace={64 << 20} level=2 {flags}"
    assert plan.host_code


def test_a_fixed_frame_has_no_others(tensorrt: Any) -> None:
    build("--frame-size", "80x48")
    assert list_plans()[0].key.profile == "1x48x80..1x48x80..1x48x80"
    with pytest.raises(UsageError, match="frames of 80x48 only"):
        build("--frame-size", "80x48", "--largest-frame", "100x100")


def test_the_bare_plan_and_what_it_is(tensorrt: Any) -> None:
    build("--target", "tensorrt", "--plan", "out.plan")
    plan = read_bare(Path("out.plan"), bundle=list_plans()[0].key.bundle)
    assert plan.data == Path("out.plan").read_bytes()
    assert json.loads(Path("out.plan.json").read_text())["key"]["gpu"] == "Fake Orin"


def test_the_report_shows_the_engine(tensorrt: Any, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 4)
    build("--fp16", "--calib", "in")
    CliRunner().invoke(report_command, ["m.edge"], catch_exceptions=False)
    page = Path("m.html").read_text()
    assert "tensorrt 10.3.0, Fake Orin" in page
    assert "work of the convolutions: fp16 100.0%" in page
    assert page.rstrip().endswith("</html>")


def test_a_real_engine_for_gpus_elsewhere(tmp_path: Path) -> None:
    words = "build m.onnx --fp16 --target tensorrt_rtx --compute-capability sm86 --compute-capability SM89"
    command = [rtx.interpreter(), "-m", "edge_retina", *words.split(), "--plan", "out.plan"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "plan for SM86,SM89, tensorrt_rtx" in done.stderr
    assert "convolutions: fp16 100%" in done.stderr
    assert Path("out.plan").stat().st_size > 100_000
    assert [plan.key.compute_capability for plan in list_plans()] == ["SM86,SM89"]
