"""What is measured of a frame's time, on a detector whose times are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import fake_cuda, fake_tensorrt
from models import tiny_model

from edge_retina import build
from edge_retina.bench import NOISY, Timing, measure, percentiles
from edge_retina.commands.bench import bench_command
from edge_retina.errors import InputError

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Clock:
    """Detectors that take what they are told, by a clock that only they move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr("edge_retina.bench.time.perf_counter", lambda: self.now)

    def detector(self, name: str, *seconds: float) -> tuple[str, Any]:
        times = iter(seconds)

        class Told:
            runtime = SimpleNamespace(name="told")

            def __call__(_, image: object) -> None:
                self.order.append(name)
                self.now += next(times)

        return name, Told()


def test_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="found none; give --source"):
        measure([Clock(monkeypatch).detector("a")], [])


def test_percentiles_by_hand() -> None:
    assert percentiles(range(1, 102)) == (51, 91, 100)


def test_warm_up_does_not_count_and_detectors_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    a = clock.detector("a", 9, 9, 0.001, 0.002, 0.003)
    b = clock.detector("b", 9, 9, 0.004, 0.004, 0.004)
    steps: list[tuple[int, int]] = []
    first, second = measure([a, b], [IMAGE], frames=3, rounds=2, warm_up=2, on_step=lambda *s: steps.append(s))
    assert clock.order == [*"aabb", *"aabb", *"ab"]
    assert first.latency_ms == pytest.approx((1, 2, 3))
    assert first.rounds_ms == pytest.approx((1.5, 3))
    assert second.latency_ms == pytest.approx((4, 4, 4))
    assert second.variation == pytest.approx(0)
    assert steps[-1] == (10, 10)
    assert second.to_json()["fps"] == 250
    assert second.counts == {}


def test_rounds_that_differ_are_called_noisy() -> None:
    assert Timing("m", "ort", (1.0, 2.0), (1.0, 2.0)).to_json()["noisy"]
    assert not Timing("m", "ort", (1.0, 1.0), (1.0, 1.0 + NOISY)).to_json()["noisy"]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edge_retina.plugin.missing", lambda *_: [("nvcc", "cuda-nvcc")])
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    tiny_model(tmp_path / "m.onnx")
    return build(tmp_path / "m.onnx").path


def test_two_bundles_side_by_side(bundle: Path) -> None:
    typed = [str(bundle), str(bundle), "--frames", "6", "--target", "ort", "--source", "test://?size=80x64&frames=2"]
    result = CliRunner().invoke(bench_command, typed, catch_exceptions=False)
    first, second = (line for line in result.stdout.splitlines() if " on ort: " in line)
    assert " x the first" in second
    assert " x the first" not in first


def test_what_tensorrt_did_is_shown(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module("10.3.0"))
    typed = [str(bundle), "--frames", "5", "--warm-up", "3", "--source", "test://?size=80x64&frames=2"]
    with fake_cuda.installed():
        (row,) = json.loads(CliRunner().invoke(bench_command, [*typed, "--json"], catch_exceptions=False).stdout)
        assert row["runtime"] == "tensorrt"
        assert row["frames"] == 5
        assert (row["counts"]["captured_launches"], row["counts"]["plain_launches"]) == (7, 1)
        shown = CliRunner().invoke(bench_command, typed, catch_exceptions=False).stdout
    assert "7 graph launches, 1 piece by piece, 1 captures, 2 allocations" in shown
