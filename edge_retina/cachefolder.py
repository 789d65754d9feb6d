"""A folder that many processes keep files in at once: where it is, files that are whole or not there, locks that die.

What is in it is executable (see edge_retina.planfile), so the folder is its user's alone. Each draft is locked while it
is written: a draft that nobody has locked is what a dead process left, and is swept. Where a file system has no locks,
drafts of more than a day are, and two processes may do the same work.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edge_retina.drafts import as_output_error
from edge_retina.errors import OutputError, UsageError

__all__ = ["FOLDER", "files", "folder", "hold", "own_folder", "remove", "shrink", "sweep", "write_whole"]

FOLDER = "EDGE_RETINA_CACHE"
LOCK_SUFFIX, _DRAFT_SUFFIX = ".lock", ".tmp"
_ABANDONED_S = 24 * 3600
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_FLAGS |= getattr(os, "O_BINARY", 0)


def folder() -> Path:
    """Where plans are kept, there or not: $EDGE_RETINA_CACHE/plans, else the user's cache folder. Raises UsageError."""
    if own := os.environ.get(FOLDER):
        return Path(os.path.abspath(own)) / "plans"
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification: a relative one is to be ignored
        try:
            base = os.fspath(Path.home() / ".cache")
        except RuntimeError as exc:
            raise UsageError(f"this user has no home folder; set {FOLDER} to a folder for plans") from exc
    return Path(base) / "edge-retina" / "plans"


def own_folder(path: Path) -> None:
    """Make the folder, or see that it is this user's own and that only they write to it. Raises OutputError."""
    with as_output_error(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if sys.platform == "win32":  # a user's folders are closed to others there, and modes mean little
            return
        status = path.stat()
        if status.st_uid != os.geteuid():
            whose = f"it belongs to user {status.st_uid}, not to this one ({os.geteuid()}), and plans are executable"
            raise OutputError(f"{path}: {whose}; set {FOLDER} to a folder of your own")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            path.chmod(0o700)


def files(suffix: str) -> list[Path]:
    """Files of the folder that have this suffix, drafts left out; none where there is no folder."""
    with contextlib.suppress(OSError):
        return sorted(path for path in folder().iterdir() if path.suffix == suffix and not path.name.startswith("."))
    return []


def write_whole(path: Path, pieces: Sequence[bytes]) -> None:
    """Make a file appear all at once, mode 0600 and on the disk; sweep the folder. Raises OutputError."""
    own_folder(path.parent)
    sweep(path.parent)
    with as_output_error(path):
        draft, descriptor = _new_draft(path)
        try:
            with open(descriptor, "wb") as file:
                file.writelines(pieces)
                file.flush()
                os.utime(draft, ns=(time.time_ns(),) * 2)  # as read stamps it; the system's own stamp is coarser
                os.fsync(descriptor)
                if (
                    sys.platform != "win32"
                ):  # still locked, so that no sweep takes it; Windows renames closed files only
                    os.replace(draft, path)
            if sys.platform == "win32":
                os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def shrink(suffix: str, most: int, keep: Path) -> None:
    """Remove the files used longest ago until those that are left, `keep` always among them, have `most` bytes."""
    known = [(status.st_mtime_ns, status.st_size, path) for path in files(suffix) if (status := _status(path))]
    total = sum(size for _, size, _ in known)
    for _, size, path in sorted(known):
        if total <= most:
            return
        if path != keep:
            remove(path)
            total -= size


def remove(path: Path) -> int:
    """Remove a file; the bytes it had, 0 where another process was faster. Raises OutputError."""
    status = _status(path)
    with as_output_error(path):
        path.unlink(missing_ok=True)
    return status.st_size if status else 0


def sweep(where: Path) -> int:
    """Remove what dead processes left in a folder, drafts and locks; how many. Never raises."""
    swept = 0
    with contextlib.suppress(OSError):
        for path in list(where.iterdir()):
            if path.suffix == LOCK_SUFFIX or (path.suffix == _DRAFT_SUFFIX and path.name.startswith(".")):
                with contextlib.suppress(OSError):
                    swept += _sweep_one(path)
    return swept


@contextlib.contextmanager
def hold(path: Path, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Be the one process that has this lock file; on_wait is called once where that takes waiting. Raises OutputError.

    The system frees the lock however the process ends.
    """
    with as_output_error(path):
        descriptor = _locked(path, on_wait)
    try:
        yield
    finally:
        # Removed while held: who waited on it sees that it is no longer the file of this name, and starts over.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, on_wait: Callable[[], None]) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            if _lock(descriptor) is False:
                on_wait()
                _lock(descriptor, wait=True)
            if _is(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _new_draft(path: Path) -> tuple[Path, int]:
    """A hidden empty file beside `path`, and its descriptor, locked until it is closed."""
    while True:
        draft = path.with_name(f".{path.stem[:16]}.{secrets.token_hex(8)}{_DRAFT_SUFFIX}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        if _lock(descriptor) is not False and _is(draft, descriptor):
            return draft, descriptor
        os.close(descriptor)  # swept between these two lines


def _sweep_one(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | _FLAGS)
    try:
        free = _lock(descriptor)
        if free is None:
            free = time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_S
        if not free or not _is(path, descriptor):
            return False
        path.unlink()
    finally:
        os.close(descriptor)
    return True


def _lock(descriptor: int, *, wait: bool = False) -> bool | None:
    """Whether the file is now locked for this descriptor alone; None where there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


def _is(path: Path, descriptor: int) -> bool:
    """Whether the file of this name is the one that is open."""
    status = _status(path)
    return status is not None and os.path.samestat(status, os.fstat(descriptor))


def _status(path: Path) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return path.lstat()
    return None


def _sync(path: Path) -> None:
    """Put the folder's entries on the disk, so that a rename outlives a power cut."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # not every file system can
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
