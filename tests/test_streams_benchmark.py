"""benchmarks/streams.py for minutes, where its defaults take an hour: what it finds over real servers that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults import missing_rtsp

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "streams.py"


def found(*arguments: str) -> dict[str, Any]:
    """The facts that it prints, which must meet their bounds."""
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["met"] is True
    return facts


def test_a_part_that_is_not_there() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "dance"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'dance'" in done.stderr


@pytest.mark.skipif(bool(missing_rtsp()), reason=missing_rtsp() or "there")
def test_memory_is_flat_over_reconnects() -> None:
    # 23 MB per 100 with a thread for each connection; 0.2 MB with one for all, of which so short a run cannot tell.
    facts = found("reconnects", "--count", "50", "--most-kib", "2048")
    assert facts["reconnects"] >= 50
    assert all(facts["kinds"].values())


def test_a_soak_of_two_minutes() -> None:
    facts = found("soak", "--seconds", "120")
    assert sum(facts["faults"].values()) > 20
    assert len(facts["faults"]) == 6
    for counts in facts["cameras"].values():
        assert counts["outages"] > 0
        assert counts["captured"] == counts["processed"] + counts["dropped"] > 100
    assert facts["written"] + facts["lost_to_sinks"] == facts["frames"]
