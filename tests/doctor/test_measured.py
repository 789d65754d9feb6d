"""A source opened and measured: made-up live frames, a video, and what cannot be opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import write_pictures

from edge_retina.doctor import measured
from edge_retina.doctor.machine import Machine

PAN = Path(__file__).resolve().parents[2] / "samples" / "digits" / "pan.mp4"


def test_a_live_source_at_its_pace() -> None:
    facts = measured.measure("test://?live=1&fps=20&size=64x48", 1.5)
    assert facts["size"] == (64, 48)
    assert facts["live"]
    assert facts["promised_fps"] == 20
    assert 5 < facts["fps"] < 30  # 20, on a machine that does other work
    assert facts["interval_ms"][0] <= facts["interval_ms"][1]
    assert facts["age_ms"][0] >= 0
    assert facts["cpu_ms"] >= 0
    assert facts["backend"] == "edge-retina itself"


def test_findings_of_a_video() -> None:
    source, frames, cost = measured.check_source(Machine(), str(PAN))
    assert [finding.status for finding in (source, frames, cost)] == ["ok", "ok", "ok"]
    assert source.found.startswith(f"{PAN}: 640x480 by OpenCV (FFMPEG), first frame after ")
    assert " ms of a core to decode it" in cost.found


def test_too_few_frames(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    source, frames = measured.check_source(Machine(), str(tmp_path))
    assert source.status == "ok"
    assert (frames.status, frames.found) == ("none", "1: too few to measure")


@pytest.mark.parametrize(
    ("uri", "found", "remedy"),
    [
        ("rtsp://me:secret@127.0.0.1:9/x?fps=q", "no video from rtsp://me:***@127.0.0.1:9/x", "check address"),
        ("v4l2:///dev/video77", "no camera at /dev/video77", "plug it in"),
    ],
)
def test_what_cannot_be_opened(uri: str, found: str, remedy: str) -> None:
    (finding,) = measured.check_source(Machine(), uri)
    assert finding.status == "fail"
    assert finding.found.startswith(found)
    assert remedy in finding.remedy
    assert "secret" not in str(finding)


def test_slow_and_old(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"size": (64, 48), "live": True, "frames": 40, "first_s": 0.1, "backend": "OpenCV (V4L2)", "cpu_ms": 3.0}
    facts |= {"fps": 14.9, "promised_fps": 30.0, "interval_ms": (67.0, 68.0), "age_ms": (240.0, 300.0)}
    monkeypatch.setattr(Machine, "probe", lambda *_: measured_probe(facts))
    _, frames, age = measured.check_source(Machine(), "0")
    assert (frames.status, age.status) == ("warn", "warn")
    assert "promised 30" in frames.found
    assert "exposure" in frames.remedy
    facts |= {"frames": 0}
    (finding,) = measured.check_source(Machine(), "0")
    assert (finding.status, finding.found) == ("fail", "0: opened, and no frame came")


def measured_probe(facts: dict[str, object]) -> object:
    from edge_retina.doctor.machine import Probe

    return Probe(facts)
