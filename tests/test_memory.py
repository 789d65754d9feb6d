"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import weakref

import pytest

from edge_retina import memory
from edge_retina.memory import release, tidied

# Small blocks with one in use above them: none of the heap goes back by itself.
FREED = """
from pathlib import Path
from edge_retina.memory import release

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(4096) for _ in range(20000)]
last = bytearray(4096)
del blocks
before = held()
release()
print(before - held())
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc only")
def test_what_is_free_goes_back():
    out = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True).stdout
    assert int(out) > 40e6


def test_what_refers_to_itself_is_freed():
    class Node:
        pass

    node = Node()
    node.itself, gone = node, weakref.ref(node)  # type: ignore[attr-defined]
    del node
    release()
    assert gone() is None


def test_a_stage_is_told_of_behind_it(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(memory, "release", lambda: told.append("given back"))
    tidied(told.append)("check")
    assert told == ["given back", "check"]


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    release()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", pytest.fail)
    release()
