"""Where the files of a service are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_retina.errors import UsageError

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """One service on one machine. name: of its unit, user and folders. root: / or where an image of a machine lies.

    image: nothing runs there; files are all there is to it.

    Raises UsageError for a name that systemd or the user database would not take, or that is another service's unit.
    """

    name: str = "edge-retina"
    root: Path = Path("/")
    image: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9-]{0,30}", self.name) or self.name.endswith("-"):
            raise UsageError(
                f"a service's name is its user's too: small letters, digits and -, 31 at most, found {self.name!r}"
            )
        if self.name.endswith(("-prepare", "-return")):
            raise UsageError(f"{self.name}: a service's own units are called so; choose another --name")

    def at(self, path: str) -> Path:
        """Where an absolute path of the machine lies here."""
        return self.root / path.lstrip("/")

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return f"{self.name}.service"

    @property
    def state(self) -> Path:
        """What outlives a reboot; root's, save for data/."""
        return self.at(f"/var/lib/{self.name}")

    @property
    def data(self) -> Path:
        """Where the service writes its results; the only folder of it that it may write, beside its cache."""
        return self.state / "data"

    @property
    def cache(self) -> Path:
        """Compiled plans."""
        return self.at(f"/var/cache/{self.name}")
