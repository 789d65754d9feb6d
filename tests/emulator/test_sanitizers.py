"""The launcher under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, in a process without Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulator.build import HERE, KERNELS, SANITIZERS, compile_host, run_host


def run(sanitizer: str, kernels: Path = KERNELS) -> subprocess.CompletedProcess[str]:
    program = compile_host(f"sanitize-{sanitizer}", HERE / "sanitize.cpp", SANITIZERS[sanitizer], kernels)
    return run_host(program)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_a_sanitizer_finds_nothing(sanitizer):
    done, plain = run(sanitizer), run("none")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ERROR" not in done.stderr
    assert "WARNING: ThreadSanitizer" not in done.stderr
    assert done.stdout == plain.stdout
    assert "digest" in done.stdout


@pytest.mark.parametrize(
    ("sanitizer", "file", "before", "after", "found"),
    [
        ("thread", "top.cuh", "    __syncthreads();\n    bound |=", "    bound |=", "data race"),
        ("address", "suppress.cuh", "chunk.kept[kept] = row;", "chunk.kept[kept + kChunk] = row;", "out of bounds"),
        ("address", "top.cuh", "place < top.capacity", "place <= top.capacity", "overflow"),
    ],
    ids=["a barrier left out", "past a shared array", "past dynamic shared memory"],
)
def test_a_planted_fault_is_found(tmp_path, sanitizer, file, before, after, found):
    for source in KERNELS.iterdir():
        if source.suffix in (".h", ".cu", ".cuh"):
            text = source.read_text()
            if source.name == file:
                assert text.count(before) == 1
                text = text.replace(before, after)
            (tmp_path / source.name).write_text(text)
    done = run(sanitizer, tmp_path)
    assert done.returncode != 0
    assert found in done.stderr
