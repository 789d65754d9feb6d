"""benchmarks/stopwatch.py: its arithmetic by hand, itself, and whole processes against what bench tells."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from models import tiny_model

from edge_retina import build

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "stopwatch.py"
# Four seconds of sleep, timed from behind the imports, which take another time each time; what is left is the end.
BOUND = 0.2


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import stopwatch

    return stopwatch


def test_slope_by_hand(stopwatch: ModuleType) -> None:
    assert stopwatch.slope((10, 110), (1.5, 3.5)) == pytest.approx(20)


def test_rounds_alternate_and_the_ratio_is_their_median(stopwatch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    told = iter([10.0, 20.0, 11.0])

    def process(_: Path, frames: int, __: str) -> float:
        order.append(str(frames))
        return 3.0 + frames / 100

    def bench(*_: object) -> float:
        order.append("bench")
        return next(told)

    monkeypatch.setattr(stopwatch, "whole_process", process)
    monkeypatch.setattr(stopwatch, "by_bench", bench)
    found = stopwatch.compare(Path("m.edge"), (10, 60), 3, "test://")
    assert order == ["10", "bench", "60", "60", "bench", "10", "10", "bench", "60"]
    assert found["stopwatch_ms"] == pytest.approx([10, 10, 10])
    assert found["ratio"] == pytest.approx(1.1)


def test_the_script_itself(tmp_path: Path, stopwatch: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(tmp_path / "m.onnx")
    bundle = build(tmp_path / "m.onnx").path
    words = ["--short", "1", "--long", "3", "--rounds", "1", "--source", "test://?size=64x48&frames=2"]
    stopwatch.main([str(bundle), *words])
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == [1, 3]
    assert found["bench_ms"][0] > 0


SLEEPER = """
import sys, time
import numpy as np
from edge_retina.bench import Subject, measure
subject = Subject("sleeper", "none", lambda _: time.sleep(0.02))
image = np.zeros((1, 1, 3), np.uint8)
print("ready", flush=True)
(timing,) = measure([subject], [image], frames=int(sys.argv[1]), rounds=5, warm_up=3)
print(timing.mean_ms)
"""


def test_what_bench_tells_is_what_whole_processes_take(stopwatch: ModuleType) -> None:
    """Of calls that sleep, so that a busy machine makes all of them a little longer and none a lot."""

    def timed(frames: int) -> tuple[float, float]:
        command = [sys.executable, "-c", SLEEPER, str(frames)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            start = time.perf_counter()
            told = float(process.stdout.read())
            return time.perf_counter() - start, told

    (first, _), (second, told) = timed(10), timed(210)
    assert told == pytest.approx(stopwatch.slope((10, 210), (first, second)), rel=BOUND)


def test_bad_lengths() -> None:
    command = [sys.executable, SCRIPT, "m.edge", "--short", "9", "--long", "9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "wants 0 < --short < --long" in done.stderr
