"""Releases side by side, and two links: `current`, which runs, and `previous`, to which it can go back.

    /var/lib/NAME/releases/7/   model.edge, run.toml (root's alone), bin/edge-retina, perhaps env/; release.json last
    /var/lib/NAME/current       -> releases/7
    /var/lib/NAME/previous      -> releases/6
    /var/lib/NAME/unproven      7, from before `current` turns to it until it has proved that it works

A release without release.json is what a process left that was killed while it made one. A link is replaced by a rename,
so that whenever the power goes it leads to a whole release: the one before or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_retina.cachefolder import hold
from edge_retina.drafts import as_output_error
from edge_retina.errors import OutputError, UsageError
from edge_retina.service.place import Place

__all__ = ["Release", "Releases"]

MODEL, CONFIG, FACTS, PROGRAM = "model.edge", "run.toml", "release.json", "bin/edge-retina"
_CURRENT, _PREVIOUS, _UNPROVEN = "current", "previous", "unproven"


@dataclass(frozen=True, slots=True)
class Release:
    """One release. made: s since 1970. bundle: its digest. env_of: the release whose Python environment it runs in, 0
    for one outside the releases. program: the command it runs.
    """

    number: int
    made: float
    bundle: str
    program: str
    env_of: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Releases:
    """The releases of a service. Raises OutputError for what cannot be written."""

    def __init__(self, place: Place) -> None:
        self._state = place.state
        self.folder = place.state / "releases"

    @contextlib.contextmanager
    def locked(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Be the one who changes them; the lock goes with its process."""
        with as_output_error(self.folder):
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with hold(self._state / ".lock", on_wait=on_wait):
            yield

    def all(self) -> list[Release]:
        """Every whole release, oldest first."""
        found = [self._read(path) for path in self._folders()]
        return sorted((release for release in found if release), key=lambda release: release.number)

    def get(self, number: int) -> Release:
        """The release of that number. Raises UsageError."""
        for release in self.all():
            if release.number == number:
                return release
        numbers = ", ".join(str(release.number) for release in self.all()) or "none"
        raise UsageError(f"there is no release {number} in {self.folder}; there are: {numbers}")

    @property
    def current(self) -> Release | None:
        """The release that runs, or would."""
        return self._linked(_CURRENT)

    @property
    def previous(self) -> Release | None:
        """The one to go back to."""
        return self._linked(_PREVIOUS)

    @property
    def unproven(self) -> int | None:
        """The number of the release that is on trial; None where none is."""
        with contextlib.suppress(OSError, ValueError):
            return int((self._state / _UNPROVEN).read_text(encoding="ascii"))
        return None

    def path(self, release: Release) -> Path:
        """Its folder."""
        return self.folder / str(release.number)

    def make(
        self, bundle: Path, digest: str, config: bytes, program: Path, build_env: Callable[[Path], Path] | None = None
    ) -> Release:
        """A new release, whole and on the disk; nothing leads to it yet.

        config: what only root is to read. program: the edge-retina that runs it; with build_env what that returns,
        given the folder for an environment, which cannot be moved later.
        """
        self._sweep_broken()
        number = max((int(path.name) for path in self._folders()), default=0) + 1
        folder = self.folder / str(number)
        with as_output_error(folder):
            folder.mkdir(mode=0o755, parents=True)
            shutil.copyfile(bundle, folder / MODEL)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{bundle}.sig", folder / f"{MODEL}.sig")
            descriptor = os.open(folder / CONFIG, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(config)
        release = Release(number, time.time(), digest, str(program), self._env_of(program))
        if build_env is not None:
            release = replace(release, program=str(build_env(folder / "env")), env_of=number)
        with as_output_error(folder):
            (folder / PROGRAM).parent.mkdir(exist_ok=True)
            (folder / PROGRAM).symlink_to(release.program)
            for path in (folder / MODEL, folder / CONFIG):
                _to_disk(path)
            _write_whole(folder / FACTS, json.dumps(release.to_json(), indent=1).encode())
            _to_disk(self.folder)
        return release

    def try_out(self, release: Release) -> Release | None:
        """Turn `current` to a release that is yet to prove itself; the one to go back to, None for the first."""
        before = self.current
        self.get(release.number)
        with as_output_error(self._state):
            if before is not None and before.number != release.number:
                _write_whole(self._state / _UNPROVEN, str(release.number).encode())
                self._link(_PREVIOUS, before)
            self._link(_CURRENT, release)
        return before

    def go_back(self, before: Release) -> None:
        """Turn `current` to the release before, on which there is no doubt, and `previous` to the one before that."""
        with as_output_error(self._state):
            self._link(_CURRENT, before)
            if earlier := [release for release in self.all() if release.number < before.number]:
                self._link(_PREVIOUS, earlier[-1])
            self.prove()

    def prove(self) -> None:
        """The release that runs works: nobody returns from it any more unless told to."""
        with as_output_error(self._state):
            (self._state / _UNPROVEN).unlink(missing_ok=True)
            _to_disk(self._state)

    def remove(self, release: Release) -> None:
        """Take a release away, its facts first, so that a half removed one is none."""
        with as_output_error(self.path(release)):
            (self.path(release) / FACTS).unlink(missing_ok=True)
            shutil.rmtree(self.path(release))

    def prune(self, keep: int) -> list[int]:
        """Remove all but the newest `keep`, current, previous and those whose environments these run in; numbers."""
        everything = self.all()
        kept = {release.number for release in everything[-keep:]}
        kept |= {release.number for release in (self.current, self.previous) if release}
        kept |= {release.env_of for release in everything if release.number in kept}
        gone = [release for release in everything if release.number not in kept]
        for release in gone:
            self.remove(release)
        return [release.number for release in gone]

    def _folders(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return [path for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir()]
        return []

    def _read(self, path: Path) -> Release | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            release = Release(**json.loads((path / FACTS).read_text(encoding="utf-8")))
            return release if release.number == int(path.name) else None
        return None

    def _linked(self, name: str) -> Release | None:
        with contextlib.suppress(OSError, ValueError):
            target = Path(os.readlink(self._state / name))
            if target.parent.name == "releases":
                return self._read(self.folder / target.name)
        return None

    def _link(self, name: str, release: Release) -> None:
        """Make or replace a link at once. It is relative: an image's leads to its own releases."""
        draft = self._state / f".{name}-{secrets.token_hex(4)}"
        draft.symlink_to(f"releases/{release.number}")
        try:
            os.replace(draft, self._state / name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _to_disk(self._state)

    def _env_of(self, program: Path) -> int:
        """The release in whose environment a program lies; 0 for one elsewhere."""
        inside = [release.number for release in self.all() if str(program).startswith(f"{self._env(release)}/")]
        return inside[0] if inside else 0

    def _env(self, release: Release) -> Path:
        return self.path(release) / "env"

    def _sweep_broken(self) -> None:
        """What processes left that were killed: folders without facts, links without names."""
        for path in self._folders():
            if not (path / FACTS).exists():
                with as_output_error(path):
                    shutil.rmtree(path)
        for path in self._state.glob(".[cpu]*-????????"):
            path.unlink(missing_ok=True)


def _write_whole(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    draft.write_bytes(data)
    _to_disk(draft)
    os.replace(draft, path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Let what was written outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:  # not every file system can for folders
        if path.is_file():
            raise OutputError(f"cannot write {path}: {exc.strerror}; check the disk") from exc
    finally:
        os.close(descriptor)
