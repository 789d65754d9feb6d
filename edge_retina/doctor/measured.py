"""A camera or stream opened and measured: what it gives, how often, how old, at what cost."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from edge_retina.doctor.machine import Finding, Machine
from edge_retina.redaction import redact, redact_text

__all__ = ["check_source", "measure"]

_GROUP = "Camera"
_SECONDS, _MOST = 5.0, 300
_SETTLE = 5  # frames: exposure settles, and those that were buffered come at once
_CODE = """
import json
from edge_retina.doctor.measured import measure
facts.update(measure(**json.loads(argument)))
"""
_SLOW = 0.8  # of the frames a second that were promised
_OLD_MS = 100.0


def check_source(machine: Machine, uri: str) -> list[Finding]:
    """Open a source in a process of its own and read it for some seconds."""
    label = redact(uri)
    probe = machine.probe("edge_retina", _CODE, json.dumps({"uri": uri, "seconds": _SECONDS}))
    if not probe.ok:
        error = redact_text(probe.error.replace("import of edge_retina", "reading it"))
        # What the sources raise says what to do behind its last semicolon.
        found, _, what = error.partition(": ")[2].partition("; ") if "Error: " in error else (error, "", "")
        return [Finding(_GROUP, "source", "fail", found or error, what or "edge-retina doctor, without --camera")]
    facts = probe.facts
    if not facts["frames"]:
        return [Finding(_GROUP, "source", "fail", f"{label}: opened, and no frame came", "check the source")]
    size = f"{facts['size'][0]}x{facts['size'][1]}"
    findings = [
        Finding(
            _GROUP, "source", "ok", f"{label}: {size} by {facts['backend']}, first frame after {facts['first_s']:.1f} s"
        )
    ]
    if facts["fps"] is None:
        findings.append(Finding(_GROUP, "frames", "none", f"{facts['frames']}: too few to measure"))
        return findings
    fps, promised = facts["fps"], facts["promised_fps"]
    told = f"{fps:.1f} a second, intervals {facts['interval_ms'][0]:.0f} ms (p90 {facts['interval_ms'][1]:.0f})"
    if promised and fps < _SLOW * promised:
        what = (
            "more light (exposure limits it), another USB port, or MJPG: v4l2:///dev/video0?format=mjpg&size=1280x720"
        )
        findings.append(Finding(_GROUP, "frames", "warn", f"{told}, promised {promised:g}", what))
    else:
        findings.append(Finding(_GROUP, "frames", "ok", told))
    age = facts["age_ms"]
    cost = f"{facts['cpu_ms']:.1f} ms of a core to decode it"
    if not facts["live"]:
        findings.append(Finding(_GROUP, "cost", "ok", f"{age[0]:.1f} ms to read it (p90 {age[1]:.1f}), {cost}"))
        return findings
    told = f"{age[0]:.1f} ms old when your program has it (p90 {age[1]:.1f}), {cost}"
    if age[0] > _OLD_MS:
        findings.append(
            Finding(_GROUP, "age", "warn", told, "a smaller size, or a decoder in hardware: docs/streams.md")
        )
    else:
        findings.append(Finding(_GROUP, "age", "ok", told))
    return findings


def measure(uri: str, seconds: float) -> dict[str, Any]:
    """What a source gives, read for some seconds or to its end. Raises UsageError, InputError.

    size: (W, H). first_s: until the first frame. fps, interval_ms: of those after the first few; interval_ms and age_ms
    as (median, 90th percentile). age_ms: since the frame's own stamp, of live sources; else since the one before.
    cpu_ms: processor time of the whole process, a frame. backend: what reads it.
    """
    import logging
    from contextlib import closing

    from edge_retina.sources import open_source, probe

    readers: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if hasattr(record, "backend"):
                readers.append(record.backend)

    logger = logging.getLogger("edge_retina")
    logger.setLevel(logging.INFO)
    logger.addHandler(Listener())
    begun = time.monotonic()
    first = cpu = None
    arrivals: list[int] = []
    ages: list[float] = []
    size, live = (0, 0), False
    with closing(open_source(uri)) as frames:
        for frame in frames:
            now = time.monotonic_ns()
            if first is None:
                first, live = time.monotonic() - begun, frame.live
                size = (frame.image.shape[1], frame.image.shape[0])
            if len(arrivals) == _SETTLE:
                cpu = time.process_time()
            arrivals.append(now)
            ages.append((now - (frame.timestamp_ns if live else arrivals[-2:][0])) / 1e6)
            if len(arrivals) >= _MOST + _SETTLE or time.monotonic() - begun - first >= seconds:
                break
    intervals = [
        (later - sooner) / 1e6 for sooner, later in zip(arrivals[_SETTLE:], arrivals[_SETTLE + 1 :], strict=False)
    ]
    spent = time.process_time() - cpu if cpu is not None else 0.0
    enough = len(intervals) >= 2
    promised = probe(uri).fps if not live else _promised(uri)
    return {
        "size": size,
        "live": live,
        "frames": len(arrivals),
        "first_s": first,
        "fps": 1000 / statistics.fmean(intervals) if enough and statistics.fmean(intervals) else None,
        "promised_fps": promised if live else None,
        "interval_ms": _middle(intervals) if enough else None,
        "age_ms": _middle(ages[_SETTLE:]) if enough else None,
        "cpu_ms": 1000 * spent / len(intervals) if enough else None,
        "backend": ", ".join(dict.fromkeys(readers)) or "edge-retina itself",
    }


def _middle(values: list[float]) -> tuple[float, float]:
    """(median, 90th percentile)."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]


def _promised(uri: str) -> float | None:
    """The frames a second that a URI asks for; None where it does not."""
    from urllib.parse import parse_qs, urlsplit

    asked = parse_qs(urlsplit(uri).query).get("fps", [])
    return float(asked[0]) if asked else None
