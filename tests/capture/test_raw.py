"""Frames on standard input, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import sys
from edge_retina.errors import EdgeRetinaError
from edge_retina.sources import open_source
try:
    for f in open_source(sys.argv[1]):
        print(f.index, f.live, f.image.shape, f.image[0, 0].tolist())
except EdgeRetinaError as exc:
    print("error:", exc)
"""


def run(uri: str, data: bytes) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, uri]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode().splitlines()


def test_no_frames() -> None:
    assert run("stdin://?size=2x2", b"") == []


def test_frames_of_each_format() -> None:
    red = np.full((2, 4, 3), (255, 0, 0), np.uint8)
    assert run("stdin://?size=4x2&format=rgb24", red.tobytes() * 2) == [
        "0 True (2, 4, 3) [0, 0, 255]",
        "1 True (2, 4, 3) [0, 0, 255]",
    ]
    assert run("stdin://?size=4x2&live=0", red.tobytes()) == ["0 False (2, 4, 3) [255, 0, 0]"]
    assert run("stdin://?size=4x2&format=gray", b"\x07" * 8) == ["0 True (2, 4, 3) [7, 7, 7]"]
    grey = b"\x80" * 12
    for name in ("nv12", "yuv420p"):
        assert run(f"stdin://?size=4x2&format={name}", grey) == ["0 True (2, 4, 3) [130, 130, 130]"]
    assert run("stdin://?size=4x2&format=yuyv422", b"\x80" * 16) == ["0 True (2, 4, 3) [130, 130, 130]"]


@pytest.mark.parametrize("count", [1, 23])
def test_an_end_within_a_frame(count: int) -> None:
    rows = run("stdin://?size=4x2", bytes(24 + count))
    assert rows[0].startswith("0 True")
    assert rows[1].startswith("error: stdin://?size=4x2: wanted frames of 24 bytes, found ")
    assert f"found {count} at the end" in rows[1]
