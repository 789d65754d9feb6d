"""Files that are whole or not there: written beside their target, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from edge_retina.errors import OutputError

__all__ = ["Draft", "as_output_error"]


@contextlib.contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """What the system has against writing `path`, as an OutputError that says so."""
    try:
        yield
    except OSError as exc:
        raise OutputError(f"cannot write {path}: {exc.strerror}; check folder, permissions and disk space") from exc


class Draft:
    """A file under a hidden name beside `target`, which takes the target's name only when it is whole.

    Makes the folder and the empty draft at once, so that a place that cannot be written is known early.
    in_place: no draft, write to the target itself, which is a device or a pipe. Raises OutputError.
    """

    def __init__(self, target: Path, *, in_place: bool = False) -> None:
        self.target = target
        # The suffix stays: encoders choose the format by it.
        self.path = target if in_place else target.with_name(f".edge-retina-{secrets.token_hex(6)}{target.suffix}")
        self.filled = False
        if not in_place:
            with as_output_error(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                self.path.open("xb").close()

    def fill(self, data: bytes) -> None:
        """Write all of it. Raises OutputError."""
        with as_output_error(self.target):
            self.path.write_bytes(data)
        self.filled = True

    def publish(self) -> None:
        """Take the target's name, replacing what stood there; a second time does nothing. Raises OutputError."""
        if self.path != self.target:
            with as_output_error(self.target):
                os.replace(self.path, self.target)
            self.path = self.target

    def discard(self) -> None:
        """Remove the file unless it was published. Never raises."""
        if self.path != self.target:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.path = self.target
