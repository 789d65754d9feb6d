"""Python, this environment, and whether edge-retina's own requirements are met in it."""

from __future__ import annotations

import platform
import re
import struct
import sys
from importlib import metadata

from edge_retina.doctor.explain import remedy
from edge_retina.doctor.machine import Finding, Machine
from edge_retina.doctor.versions import OPENCV, ORT, at_least, installed

__all__ = ["check_command_line", "check_python", "check_requirements"]

_GROUP = "Python"
_TESTED = ((3, 10), (3, 13))
# Any of these will do where the first is asked for.
_EQUAL = {"onnxruntime": ORT, "opencv-python": OPENCV}


def check_python(_: Machine) -> list[Finding]:
    """Its version, and where it is."""
    version, bits = platform.python_version(), struct.calcsize("P") * 8
    place = f"virtual environment {sys.prefix}" if sys.prefix != sys.base_prefix else sys.prefix
    found = f"{version}, {bits} bit, {place}"
    if bits != 64:
        return [
            Finding(_GROUP, "python", "fail", found, "install a 64-bit Python: ONNX Runtime has no wheels for this")
        ]
    if not _TESTED[0] <= sys.version_info[:2] <= _TESTED[1]:
        wanted = " to ".join(f"{major}.{minor}" for major, minor in _TESTED)
        return [Finding(_GROUP, "python", "warn", found, f"tested with Python {wanted}; make an environment with one")]
    return [Finding(_GROUP, "python", "ok", found)]


def check_requirements(_: Machine) -> list[Finding]:
    """That what edge-retina asks for is installed, and not too old."""
    try:
        wanted = [line for line in metadata.requires("edge-retina") or [] if "extra ==" not in line]
        version = metadata.version("edge-retina")
    except metadata.PackageNotFoundError:
        return [Finding(_GROUP, "edge-retina", "warn", "not installed in this Python", "in a clone: pip install -e .")]
    absent, old = [], []
    for line in wanted:
        name, least = re.match(r"([\w.-]+)(?:\[.*?\])?(?:>=([\d.]+))?", line).groups()  # type: ignore[union-attr]
        if "python_version" in line and sys.version_info >= (3, 11):
            continue
        there = installed(_EQUAL.get(name, (name,)))
        if not there:
            absent.append(name)
        elif least and not any(at_least(version, least) for version in there.values()):
            old.append((name, least, " and ".join(there.values())))
    if not absent and not old:
        return [Finding(_GROUP, "edge-retina", "ok", f"{version}, all {len(wanted)} requirements installed")]
    found = [*(f"{name} is missing" for name in absent), *(f"{name} {have} < {least}" for name, least, have in old)]
    needed = [*absent, *(f"'{name}>={least}'" for name, least, _ in old)]
    return [Finding(_GROUP, "edge-retina", "fail", f"{version}; {', '.join(found)}", f"pip install {' '.join(needed)}")]


def check_command_line(machine: Machine) -> list[Finding]:
    """What the command line needs."""
    findings = []
    for name in ("click", "rich"):
        module = {"click": "click", "rich": "rich.console"}[name]
        probe = machine.probe(name, f"import {module}")
        if probe.ok:
            version = ", ".join(installed((name,)).values()) or "unknown version"
            findings.append(Finding(_GROUP, name, "ok", version))
        else:
            what = "not installed: the command line needs it" if probe.missing else probe.error
            findings.append(Finding(_GROUP, name, "fail", what, remedy(probe, name)))
    return findings
