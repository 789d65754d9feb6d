"""Events as rows."""

from __future__ import annotations

import json
import time

import pytest

from edge_retina.events import Event


def test_the_least_event() -> None:
    before = time.monotonic_ns(), time.time_ns()
    event = Event("live")
    row = event.to_json()
    assert list(row) == ["event", "camera", "at_ns", "time_ns"]
    assert before[0] <= row["at_ns"] <= time.monotonic_ns()
    assert before[1] <= row["time_ns"] <= time.time_ns()
    with pytest.raises(TypeError):
        event.data["x"] = 1  # type: ignore[index]


def test_reason_and_data() -> None:
    event = Event("size", "front", 1, 2, "changed", {"width": 640, "camera": "never"})
    assert json.loads(json.dumps(event.to_json())) == {
        "event": "size",
        "camera": "front",
        "at_ns": 1,
        "time_ns": 2,
        "reason": "changed",
        "width": 640,
    }
