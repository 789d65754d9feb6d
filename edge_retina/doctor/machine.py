"""The machine that is looked at: its files, under a root that tests replace, and Python in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Finding", "Machine", "Probe", "Status"]

Status = Literal["ok", "warn", "fail", "none"]

_SECONDS = 60.0  # a cold import from the SD card of a small board takes many
_MOST_SHOWN = 300
# What the process found stands behind this, whatever else the import printed.
_MARK = "\x1eedge-retina-doctor:"
_CHILD = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[1])
facts = {{}}
try:
    exec(sys.argv[2], {{"facts": facts, "argument": sys.argv[3]}})
except BaseException as exc:
    facts = {{"error": type(exc).__name__, "message": str(exc), "name": getattr(exc, "name", None)}}
sys.stdout.write({_MARK!r} + json.dumps(facts, default=str) + "\\n")
sys.stdout.flush()
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. status: none where the check does not apply. remedy: what to type or do; "" for nothing."""

    group: str
    name: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of some Python in a process of its own.

    facts: what it found; empty unless it came to its end. missing: no such package. error: why it did not end well,
    in a line: an exception, a crash with its signal, or a time limit. signal: name of the signal that killed it, or "".
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: bool = False
    error: str = ""
    said: str = ""
    signal: str = ""

    @property
    def ok(self) -> bool:
        """Whether it came to its end."""
        return not self.missing and not self.error


@dataclass(frozen=True)
class Machine:
    """A machine to look at. root: where its /dev, /proc, /sys and /etc are. path: Python's, as this process has it."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    seconds: float = _SECONDS

    def at(self, name: str) -> Path:
        """An absolute path under the root."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """A file's text, without trailing blanks and NULs; "" where it cannot be read."""
        try:
            return self.at(name).read_text(encoding="utf-8", errors="replace").rstrip("\0 \n")
        except OSError:
            return ""

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none where it cannot be read."""
        try:
            return sorted(os.listdir(self.at(folder)))
        except OSError:
            return []

    @property
    def jetson(self) -> bool:
        """Whether this is a Jetson."""
        return bool(self.text("/etc/nv_tegra_release")) or "nvidia,tegra" in self.text("/proc/device-tree/compatible")

    @property
    def container(self) -> bool:
        """Whether this is a container, as far as can be told."""
        return self.at("/.dockerenv").exists() or self.at("/run/.containerenv").exists()

    def probe(self, module: str, code: str, argument: str = "") -> Probe:
        """Run Python that imports `module` and fills the dict `facts`, in a process of its own; never raises."""
        command = [sys.executable, "-c", _CHILD, json.dumps(self.path), code, argument]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self.environ),
                start_new_session=True,  # what it starts ends with it
            )
        except OSError as exc:
            return Probe(error=f"{sys.executable} cannot be run: {exc.strerror or exc}")
        try:
            out, err = child.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            return Probe(error=f"import of {module} does not end: stopped after {self.seconds:g} s")
        finally:
            _end(child)
        return _judge(module, child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and of those it started."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


def _judge(module: str, code: int, out: str, err: str) -> Probe:
    said = f"{out.rsplit(_MARK, 1)[0]}\n{err}"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return Probe(error=f"import of {module} crashes Python ({name})", said=said, signal=name)
    if _MARK not in out:
        return Probe(error=f"import of {module} ends Python with exit code {code}", said=said)
    facts = json.loads(out.rsplit(_MARK, 1)[1])
    if "error" not in facts:
        return Probe(facts, said=said)
    # A package that is there may lack another one, which is a fault.
    if facts["error"] == "ModuleNotFoundError" and facts["name"] == module:
        return Probe(missing=True)
    # Long messages, as NumPy's, begin with what matters; where there is none, what was printed does.
    told = str(facts["message"]) or said.strip().partition("\n\n")[0]
    message = " ".join(told.split())[:_MOST_SHOWN]
    return Probe(error=f"{facts['error']}: {message}", said=f"{said}\n{facts['message']}")
