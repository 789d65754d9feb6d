"""A batch that can be interrupted: what it is about, and the folder beside its result that says how far it came."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_retina.batch.parts import PartFolder
from edge_retina.batch.results import read_about
from edge_retina.drafts import Draft, as_output_error
from edge_retina.errors import UsageError

__all__ = ["is_done", "job_folder", "open_job"]

# What must be the same for a batch to go on, and how a message calls it.
_SAME = {
    "batch": "the format of edge-retina's parts",
    "bundle_digest": "the bundle",
    "min_score": "--min-score",
    "sources": "the files, or their sizes or times",
}
_MANIFEST = "batch.json"


def job_folder(out: Path) -> Path:
    """Where the parts of OUT are until it is written."""
    return out.with_name(f"{out.name}.parts")


def is_done(out: Path, about: dict[str, Any]) -> bool:
    """True where OUT is there and is what this batch would write. Raises UsageError for any other file."""
    if not out.exists():
        return False
    _must_match(out, read_about(out), about)
    return True


@contextlib.contextmanager
def open_job(out: Path, about: dict[str, Any]) -> Iterator[PartFolder]:
    """The folder of this batch's parts, new or as an interrupted run left it; locked while it is used.

    Raises UsageError where another batch's parts are, or another process works on these, OutputError.
    """
    folder = job_folder(out)
    manifest = folder / _MANIFEST
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("wb")
    with lock:
        if not _locked(lock.fileno()):
            raise UsageError(
                f"{folder}: another edge-retina batch is at work there; wait for it, or choose another OUT"
            )
        if manifest.exists():
            try:
                there = json.loads(manifest.read_bytes())
            except ValueError:
                there = None
            _must_match(folder, there, about)
        else:
            draft = Draft(manifest)
            try:
                draft.fill(json.dumps(about, indent=1).encode())
                draft.publish()
            finally:
                draft.discard()
        yield PartFolder(folder)


def remove(folder: PartFolder) -> None:
    """Remove the parts, once what was made of them is there."""
    shutil.rmtree(folder.path, ignore_errors=True)


def _must_match(path: Path, there: object, about: dict[str, Any]) -> None:
    advice = "choose another OUT, or remove it"
    if not isinstance(there, dict):
        raise UsageError(f"{path}: is there already, and no batch of edge-retina wrote it; {advice}")
    if different := [called for key, called in _SAME.items() if there.get(key) != about[key]]:
        raise UsageError(
            f"{path}: is of another batch, a batch goes on with what is the same only; different: "
            f"{', '.join(different)} ({there.get('files')} files then, {about['files']} now); {advice}"
        )


def _locked(descriptor: int) -> bool:
    """Whether the file is now locked for this process; also where there are no locks."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have none
        return True
    return True
