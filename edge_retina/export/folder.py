"""Folders that are whole or not there: filled under a hidden name, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_retina.drafts import as_output_error

__all__ = ["write_folder"]


def write_folder(target: Path, files: Mapping[str, bytes], *, draft_in: Path) -> None:
    """Make a folder with these files appear at once; on a failure nothing is left over.

    files: path inside the folder to content. draft_in: the folder where it is filled, if that is of the target's file
    system and can be written; else it is filled beside the target. Raises OutputError, also when something is there.
    """
    with as_output_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        where = draft_in if _same_device(draft_in, target.parent) and os.access(draft_in, os.W_OK) else target.parent
    with _draft(where, target) as draft, as_output_error(target):
        for name, data in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        draft.rename(target)


@contextlib.contextmanager
def _draft(where: Path, target: Path) -> Iterator[Path]:
    # Not tempfile's: its folders are for this user only, and a server is often another.
    draft = where / f".edge-retina-{secrets.token_hex(6)}"
    with as_output_error(target):
        draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _same_device(a: Path, b: Path) -> bool:
    return a.is_dir() and a.stat().st_dev == b.stat().st_dev
