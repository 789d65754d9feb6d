"""The cache of compiled plans: what was built once for a bundle, a GPU and a TensorRT is read at every later run.

One file per plan, named by the digest of its key, in one folder that is this user's alone. A plan is executable
content: see edge_retina.planfile for what is checked before one is used, edge_retina.bareplan for plans from elsewhere.

Any number of processes may use the folder. A file appears whole or not at all; a process that dies leaves at most a
hidden *.tmp or an empty *.lock, which the next write or `edge-retina plans clear` takes away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_retina.bareplan import read_bare, write_bare
from edge_retina.cachefolder import LOCK_SUFFIX, files, folder, hold, own_folder, remove, shrink, sweep, write_whole
from edge_retina.errors import OutputError, UsageError
from edge_retina.planfile import (
    PLAN,
    TIMING,
    Plan,
    PlanKey,
    Unusable,
    front,
    parse_facts,
    parse_key,
    read_content,
    to_json,
)

__all__ = [
    "Cleared",
    "Plan",
    "PlanFacts",
    "PlanKey",
    "building",
    "cache_bytes",
    "clear_plans",
    "folder",
    "list_plans",
    "read_bare",
    "read_plan",
    "read_timing_cache",
    "write_bare",
    "write_plan",
    "write_timing_cache",
]

_BYTES = "EDGE_RETINA_CACHE_BYTES"
_DEFAULT_BYTES = 8 << 30
_PLAN_SUFFIX, _TIMING_SUFFIX = ".plan", ".timing"
_DAY_NS = 24 * 3600 * 1_000_000_000
_Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """A plan of the cache without its data. size: of the file, bytes. used: last read or written, s since 1970."""

    key: PlanKey
    size: int
    used: float
    host_code: bool
    about: Mapping[str, Any]
    path: Path


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was removed. plans, others: files; others are timing caches, damaged plans and what dead processes left."""

    plans: int
    others: int
    bytes: int


def cache_bytes() -> int:
    """Most bytes of plans to keep: $EDGE_RETINA_CACHE_BYTES, else 8 GiB. Raises UsageError."""
    text = os.environ.get(_BYTES) or str(_DEFAULT_BYTES)
    if not re.fullmatch("[0-9]{1,18}", text):
        raise UsageError(f"{_BYTES} wants a whole number of bytes, found {text[:40]!r}")
    return int(text)


def read_plan(key: PlanKey, *, on_note: _Note = lambda _: None) -> Plan | None:
    """The plan for a key, whole and this user's own, or None.

    A file that is damaged, or that somebody else may have written, is removed; on_note is told why in one line.
    Reading counts as use: what was used longest ago goes first when the cache is full. Raises UsageError.
    """
    path = _plan_path(key)
    before = _identity(path)
    try:
        facts, data, status = read_content(path, PLAN)
        if facts.key != asdict(key):
            raise Unusable("it is of another bundle, GPU or TensorRT than its name says")  # noqa: TRY301
    except FileNotFoundError:
        return None
    except Unusable as exc:
        on_note(f"{path}: {exc}; not used, the plan is compiled anew")
        _remove_unusable(path, before)
        return None
    with contextlib.suppress(OSError):  # a folder that is mounted read-only serves as well
        os.utime(path, ns=(status.st_atime_ns, time.time_ns()))
    return Plan(key, data, facts.host_code, facts.about, path)


def write_plan(key: PlanKey, data: bytes, *, host_code: bool, about: Mapping[str, Any]) -> Plan:
    """Keep a plan, whole and on the disk when this returns; then the plans used longest ago go, up to the limit.

    about: a JSON object; what is returned holds it as read_plan will. Raises OutputError, UsageError.
    """
    header = to_json(asdict(key), data, host_code, about)
    limit = cache_bytes()
    path = _plan_path(key)
    write_whole(path, [front(PLAN, header), data])
    shrink(_PLAN_SUFFIX, limit, keep=path)
    return Plan(key, data, host_code, parse_facts(header).about, path)


@contextlib.contextmanager
def building(key: PlanKey, *, on_note: _Note = lambda _: None) -> Iterator[None]:
    """Only one process at a time compiles the plan of a key: the others wait here, then find it with read_plan.

    However a process ends, the next goes on. A cache that cannot be written is known here, before minutes of work.
    Raises OutputError, UsageError.
    """
    cache_bytes()
    path = _plan_path(key).with_suffix(LOCK_SUFFIX)
    own_folder(path.parent)
    waiting = f"another process compiles the plan for {key.gpu or key.compute_capability}: waiting for it"
    told = False

    def wait() -> None:
        # The holder may take the lock's file away, and the next one is waited for again.
        nonlocal told
        if not told:
            on_note(waiting)
        told = True

    with hold(path, on_wait=wait):
        yield


def list_plans(*, on_note: _Note = lambda _: None) -> list[PlanFacts]:
    """All usable plans, the one used last first; their headers are checked, their data is not read.

    on_note is told of each that read_plan would refuse for its header. Raises UsageError.
    """
    found = [facts for path in files(_PLAN_SUFFIX) if (facts := _facts(path, on_note)) is not None]
    return sorted(found, key=lambda facts: (-facts.used, facts.path))


def clear_plans(
    *, older_than: float | None = None, bundle: str | None = None, everything: bool = False, now: float | None = None
) -> Cleared:
    """Remove plans: those not used for `older_than` days, those of `bundle`, both where both are given, or all.

    bundle: its digest or at least its first 4 digits. everything: damaged plans and timing caches too. In each case
    what dead processes left goes. now: s since 1970. Raises UsageError, OutputError.
    """
    if everything == (older_than is not None or bundle is not None):
        raise UsageError("plans clear wants --older-than DAYS, --bundle X, or --all alone")
    if bundle is not None and not re.fullmatch("[0-9a-f]{4,64}", bundle):
        raise UsageError(f"a bundle wants its digest or 4 to 64 digits of it in lower-case hex, found {bundle[:80]!r}")
    before = None if older_than is None else int((time.time() if now is None else now) * 1e9 - older_than * _DAY_NS)
    plans = others = size = 0
    for path in files(_PLAN_SUFFIX):
        facts = _facts(path)
        of_bundle = bundle is None or (facts is not None and facts.key.bundle.startswith(bundle))
        old = before is None or _used_ns(path) < before
        if everything or (of_bundle and old):
            size += remove(path)
            plans, others = plans + (facts is not None), others + (facts is None)
    for path in files(_TIMING_SUFFIX) if everything else ():
        size += remove(path)
        others += 1
    return Cleared(plans, others + sweep(folder()), size)


def read_timing_cache(gpu: str, compute_capability: str, version: str, driver: str) -> bytes | None:
    """What write_timing_cache kept for this GPU and TensorRT; None without, or where it is not to be trusted."""
    key = _timing_key(gpu, compute_capability, version, driver)
    path = _timing_path(key)
    before = _identity(path)
    try:
        facts, data, _ = read_content(path, TIMING)
    except FileNotFoundError:
        return None
    except Unusable:
        _remove_unusable(path, before)
        return None
    return data if facts.key == key else None


def write_timing_cache(gpu: str, compute_capability: str, version: str, driver: str, data: bytes) -> bool:
    """Keep TensorRT's timings for later builds; False where they cannot be kept, which costs those builds time only."""
    key = _timing_key(gpu, compute_capability, version, driver)
    try:
        write_whole(_timing_path(key), [front(TIMING, to_json(key, data, False, {})), data])
    except (OutputError, UsageError):
        return False
    return True


def _timing_key(gpu: str, compute_capability: str, version: str, driver: str) -> dict[str, str]:
    return {"gpu": gpu, "compute_capability": compute_capability, "version": version, "driver": driver}


def _timing_path(key: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder() / f"{digest[:32]}{_TIMING_SUFFIX}"


def _plan_path(key: PlanKey) -> Path:
    return folder() / f"{key.digest}{_PLAN_SUFFIX}"


def _facts(path: Path, on_note: _Note = lambda _: None) -> PlanFacts | None:
    try:
        facts, _, status = read_content(path, PLAN, header_only=True)
        return PlanFacts(parse_key(facts), status.st_size, facts.used / 1e9, facts.host_code, facts.about, path)
    except FileNotFoundError:  # another process removed it
        return None
    except Unusable as exc:
        on_note(f"{path}: {exc}; remove it: edge-retina plans clear --all")
        return None


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from another that takes its name; () where there is none."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        return status.st_dev, status.st_ino, status.st_mtime_ns
    return ()


def _remove_unusable(path: Path, before: tuple[int, ...]) -> None:
    """Remove it, unless another process has put a new one in its place since."""
    with contextlib.suppress(OSError):
        if _identity(path) == before:
            path.unlink()


def _used_ns(path: Path) -> int:
    return (_identity(path) or (0,))[-1]
