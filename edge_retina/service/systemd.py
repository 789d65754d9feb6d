"""Talking to systemd, by its own command."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.service.place import Place

__all__ = ["call", "need_root_and_systemd", "show", "version"]


def need_root_and_systemd(place: Place, *, uid: int) -> None:
    """Raise UsageError unless this machine's services may be changed; an image (--root) needs neither."""
    if place.image:
        return
    if uid != 0:
        raise UsageError("services are root's to change; type sudo before it, or give --root DIR to fill an image")
    if shutil.which("systemctl") is None or not Path("/run/systemd/system").is_dir():
        raise UsageError(
            "systemd does not run here (no /run/systemd/system); give --root DIR to fill an image of a machine, "
            "or run it in a container: samples/jetson/README.md"
        )


def call(words: Sequence[str], *, timeout_s: float = 60, check: bool = True) -> str:
    """What a command says on stdout. Raises RuntimeFailure when it fails or takes too long, unless check is False."""
    shown = " ".join(words)
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as exc:
        raise RuntimeFailure(f"{words[0]}: not found; it comes with the package systemd") from exc
    except subprocess.TimeoutExpired as exc:
        raise RuntimeFailure(f"{shown}: not done after {timeout_s:.0f} s") from exc
    if check and done.returncode != 0:
        raise RuntimeFailure(f"{shown}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def show(unit: str, names: Sequence[str]) -> dict[str, str]:
    """Properties of a unit, "" for what it has not."""
    lines = call(["systemctl", "show", unit, f"--property={','.join(names)}"], check=False).splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return {name: found.get(name, "") for name in names}


def version(place: Place) -> int | None:
    """The systemd that will read the units, by the name of its library; None where there is none to be seen."""
    for folder in ("usr/lib", "lib"):
        for path in place.at(folder).glob("**/systemd/libsystemd-shared-*.so"):
            if match := re.search(r"shared-([0-9]+)", path.name):
                return int(match[1])
    return None
