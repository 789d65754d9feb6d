"""A machine for tests: a folder as its root, and a systemctl that only plays."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_retina.service.place import Place
from edge_retina.service.releases import Release, Releases

SYSTEMCTL = Path(__file__).with_name("systemctl.py")


@dataclass(frozen=True)
class Machine:
    place: Place
    fake: Path

    @classmethod
    def make(cls, folder: Path, patch: pytest.MonkeyPatch) -> Machine:
        """The place, and PATH and environment such that this process and its children meet the stand-ins."""
        place = Place(root=folder / "root")
        machine = cls(place, folder / "fake")
        tools = folder / "bin"
        for path in (machine.fake, tools, place.state):
            path.mkdir(parents=True)
        (tools / "systemctl").write_text(f"#!{sys.executable} -S\n{SYSTEMCTL.read_text(encoding='utf-8')}")
        for name in ("systemd-sysusers", "udevadm"):
            (tools / name).write_text("#!/bin/sh\nexit 0\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        for name, value in machine.environment.items():
            patch.setenv(name, value)
        return machine

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.fake.parent / 'bin'}:/usr/bin:/bin",
            "FAKE_SYSTEMD": str(self.fake),
            "FAKE_STATE": str(self.place.state),
        }

    @property
    def releases(self) -> Releases:
        return Releases(self.place)

    def release(self, config: str = "") -> Release:
        """A new release, not yet run."""
        bundle = self.fake / "m.edge"
        bundle.write_bytes(b"bundle")
        return self.releases.make(bundle, "d" * 64, f"secret = 1\n{config}".encode(), Path("/opt/x/bin/edge-retina"))

    @property
    def told(self) -> list[str]:
        """What systemctl was told, without the questions."""
        lines = (self.fake / "log").read_text().splitlines() if (self.fake / "log").exists() else []
        return [line for line in lines if not line.startswith("show ")]

    @property
    def unit(self) -> dict[str, object]:
        return dict(json.loads((self.fake / "state").read_text()))
