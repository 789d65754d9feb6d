"""Power mode, clocks and temperatures of a Jetson, from what JetPack's own tools print."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Clock", "Jetson", "parse_clocks", "parse_power_mode", "parse_tegrastats", "read_jetson"]

_PATIENCE_S = 5.0
# Printed for ever, a line each 200 ms: one is enough.
_TEGRASTATS = ("tegrastats", "--interval", "200")

Ask = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Clock:
    """Hertz. name: "cpu0", "GPU", "EMC". held: at its highest, whatever its lowest is."""

    name: str
    least: int
    most: int
    current: int
    held: bool = False

    @property
    def fixed(self) -> bool:
        """True where it cannot fall below its highest: what jetson_clocks is for."""
        return self.held or self.least == self.most


@dataclass(frozen=True)
class Jetson:
    """release: of L4T, such as "R36.4.3". power_mode: nvpmodel's name for it, "" where it was not told.

    clocks: empty without root, which jetson_clocks wants. celsius, watts: at that moment, by tegrastats' names.
    """

    release: str
    power_mode: str
    clocks: tuple[Clock, ...]
    celsius: dict[str, float]
    watts: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "release": self.release,
            "power_mode": self.power_mode,
            "clocks": {
                c.name: {"min_mhz": c.least / 1e6, "max_mhz": c.most / 1e6, "mhz": c.current / 1e6} for c in self.clocks
            },
            "clocks_fixed": all(clock.fixed for clock in self.clocks) if self.clocks else None,
            "celsius": self.celsius,
            "watts": self.watts,
        }


def read_jetson(root: Path = Path("/"), ask: Ask | None = None) -> Jetson | None:
    """The Jetson this is; None elsewhere. ask: runs a tool and gives what it printed, "" where it is missing."""
    try:
        told = (root / "etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    ask = ask or _ask
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", told)
    celsius, watts = parse_tegrastats(ask(_TEGRASTATS))
    return Jetson(
        f"R{found[1]}.{found[2]}" if found else "",
        parse_power_mode(ask(("nvpmodel", "-q"))),
        parse_clocks(ask(("jetson_clocks", "--show"))),
        celsius,
        watts,
    )


def parse_power_mode(text: str) -> str:
    """The name in "NV Power Mode: MAXN" of `nvpmodel -q`."""
    found = re.search(r"^NV Power Mode:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def parse_clocks(text: str) -> tuple[Clock, ...]:
    """Clocks of `jetson_clocks --show`: of processors in kHz, of GPU and memory (EMC) in Hz.

    Processors that the power mode switches off are left out: their clocks are never held. JetPack 4 to 6 hold the
    memory's by FreqOverride=1 and leave its lowest as it is.
    """
    clocks = []
    for line in text.splitlines():
        found = re.match(r"\s*(cpu\d+|GPU|EMC)\b.*?MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", line)
        if found and "Online=0" not in line:
            unit = 1000 if found[1].startswith("cpu") else 1
            least, most, current = (int(value) * unit for value in found.groups()[1:])
            clocks.append(Clock(found[1], least, most, current, "FreqOverride=1" in line))
    return tuple(clocks)


def parse_tegrastats(text: str) -> tuple[dict[str, float], dict[str, float]]:
    """Degrees Celsius and watts of the first line of tegrastats; of a figure's two or three the one of the moment.

    Without root JetPack 6 tells no watts.
    """
    line = text.partition("\n")[0]
    celsius = {name: float(value) for name, value in re.findall(r"(\w+)@(-?[\d.]+)C\b", line)}
    # A sensor of a part that is switched off says -256.
    watts = {name: int(value) / 1000 for name, value in re.findall(r"(\w+) (\d+)mW\b", line)}
    return {name: value for name, value in celsius.items() if value > -100}, watts


def _ask(command: Sequence[str]) -> str:
    """What a tool prints; of one that goes on for ever, what it printed in a second. Waits for no password."""
    path = shutil.which(command[0], path="/usr/bin:/usr/sbin:/bin:/sbin")
    if path is None:
        return ""
    endless = command[0] == _TEGRASTATS[0]
    try:
        done = subprocess.run(
            [path, *command[1:]],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=1.0 if endless else _PATIENCE_S,
            check=False,
        )
        return done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as exc:
        return (exc.stdout or b"").decode(errors="replace")
    except OSError:
        return ""
