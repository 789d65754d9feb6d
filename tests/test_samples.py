"""The sample programs run, on real frames."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_retina import build

SAMPLES = Path(__file__).resolve().parent.parent / "samples"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SAMPLES / "digits" / "digits.onnx", tmp_path_factory.mktemp("bundle") / "digits.edge").path


def run(*words: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_follow_steers_towards_the_largest(bundle):
    out = run(SAMPLES / "robot" / "follow.py", bundle, SAMPLES / "digits" / "pan.mp4", "--max-frames", "6")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows] == list("012345")
    assert all(-1 <= float(row[1]) <= 1 for row in rows)
    assert any(float(row[1]) != 0 for row in rows)


def test_count_counts_a_folder(bundle, tmp_path):
    for i in range(10):
        name = f"test_{i:05d}.jpg"
        (tmp_path / name).symlink_to(SAMPLES / "digits" / "test" / name)
    counts = dict(line.split(": ") for line in run(SAMPLES / "robot" / "count.py", bundle, tmp_path).splitlines())
    assert set(counts) <= set("0123456789")
    assert sum(map(int, counts.values())) > 10
