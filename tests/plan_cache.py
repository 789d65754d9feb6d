"""A key and what is compiled for it, and code that runs in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_retina.plans import PlanKey

KEY = PlanKey(
    bundle="ab" * 32,
    target="tensorrt",
    version="10.3.0",
    gpu="Orin",
    compute_capability="8.7",
    driver="12060",
    plugin="",
    profile="1x64x64..1x720x1280..4x2160x3840",
    options="precision=int8",
)
OTHER = replace(KEY, bundle="cd" * 32, driver="12080")
ABOUT = {
    "model": "digits.edge",
    "precision": "int8",
    "seconds": 12.5,
    "layers": [{"name": "conv1", "precision": "int8"}],
}


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: SIGKILL takes nothing that was written, so fsync only takes time here."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as path:
        yield Path(path)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs some code with these arguments, and with the cache of this one."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    """What each printed; their ends are seen to be good."""
    outcomes = [(process.communicate(timeout=300), process.returncode) for process in processes]
    for (_, stderr), code in outcomes:
        assert (code, stderr) == (0, "")
    return [stdout for (stdout, _), _ in outcomes]


def names(folder: Path) -> list[str]:
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
