"""OpenCV: whether it can be imported, and what it was built with."""

from __future__ import annotations

import re

from edge_retina.doctor.machine import Finding, Machine
from edge_retina.doctor.packages import failed, shadowed
from edge_retina.doctor.versions import OPENCV, installed

__all__ = ["check_opencv"]

_GROUP = "OpenCV"
_CODE = """
import cv2, numpy
picture = numpy.full((16, 16, 3), 128, numpy.uint8)
good, coded = cv2.imencode(".jpg", picture)
assert good and abs(int(cv2.imdecode(coded, cv2.IMREAD_COLOR)[8, 8, 1]) - 128) < 4
facts.update(version=cv2.__version__, file=cv2.__file__, build=cv2.getBuildInformation())
"""
_SYSTEMS = (
    "pip uninstall -y opencv-python && sudo apt install python3-opencv, in an environment that sees the system's "
    "packages: python3 -m venv --system-site-packages"
)


def check_opencv(machine: Machine) -> list[Finding]:
    """Imported, a JPEG made and read, then its build: GStreamer, FFmpeg, Video4Linux, windows."""
    probe = machine.probe("cv2", _CODE)
    there = list(installed(OPENCV))
    if not probe.ok:
        return [failed(_GROUP, "opencv", probe, there[0] if there else "opencv-python")]
    build = probe.facts["build"]
    where = ", ".join(there) or "not from pip"
    findings = [
        shadowed(probe, "opencv")
        or Finding(_GROUP, "opencv", "ok", f"{probe.facts['version']} ({where}), made and read a JPEG")
    ]
    findings.append(_gstreamer(machine, build))
    findings.append(
        _part(build, "FFMPEG", "ffmpeg", "videos and network streams are read", "pip install opencv-python")
    )
    if _has(build, "v4l/v4l2") is not None:
        findings.append(_part(build, "v4l/v4l2", "v4l2", "USB cameras are read", "pip install opencv-python"))
    window = re.search(r"^\s*(GTK\+|QT|Wayland|Cocoa|WIN32UI|Win32 UI|FLTK):\s+YES", build, re.M | re.I)
    if window:
        findings.append(Finding(_GROUP, "windows", "ok", f"{window[1]}: --out display:// has its window"))
    else:
        found = "none: a headless build, --out display:// has no window"
        what = "pip uninstall -y opencv-python-headless && pip install opencv-python, where you want one"
        findings.append(Finding(_GROUP, "windows", "none", found, what))
    return findings


def _gstreamer(machine: Machine, build: str) -> Finding:
    if _has(build, "GStreamer"):
        return Finding(_GROUP, "gstreamer", "ok", "yes: CSI cameras and hardware decoding can be used")
    found = "no: csi:// and #decoder=gstreamer do not work"
    return Finding(_GROUP, "gstreamer", "warn" if machine.jetson else "none", found, _SYSTEMS if machine.jetson else "")


def _part(build: str, part: str, name: str, use: str, what: str) -> Finding:
    if _has(build, part):
        return Finding(_GROUP, name, "ok", f"yes: {use}")
    return Finding(_GROUP, name, "warn", f"no: without it not so: {use}", what)


def _has(build: str, part: str) -> bool | None:
    """Whether OpenCV's account of its build says YES to a part; None where it does not name it."""
    match = re.search(rf"^\s*{re.escape(part)}:\s+(\w+)", build, re.M)
    return None if match is None else match[1].upper() == "YES"
