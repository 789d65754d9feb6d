"""A file of the plan cache: what it is for in front, and nothing of it used before all of it is checked.

    8 bytes    EDGEPLAN, or EDGETIME for a timing cache
    uint32     format: 1, little endian as the next
    uint32     size of the header, bytes
    32 bytes   sha256 of the header
    header     JSON: key, sha256 and size of the content, host_code, about
    the rest   the content

A plan is executable content, as a bundle is: it decides what runs on the GPU, and one that embeds host code or names
plugin libraries runs on the CPU too, with the rights of the process. The digests find accidents, not attackers, who
compute them anew; so a file of the cache counts only if it belongs to this user and nobody else may write to it. Take
plans and bundles from elsewhere only from those whose programs you would run; see edge_retina.signing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edge_retina.errors import UsageError

__all__ = [
    "CONTENT_MOST",
    "FORMAT",
    "HEADER_MOST",
    "PLAN",
    "TIMING",
    "Facts",
    "Plan",
    "PlanKey",
    "Unusable",
    "beside",
    "front",
    "parse_facts",
    "parse_key",
    "read_content",
    "to_json",
]

FORMAT = 1
PLAN, TIMING = b"EDGEPLAN", b"EDGETIME"
# More than any real one has. A file may claim more than memory holds, and a sparse one even be so long.
HEADER_MOST, CONTENT_MOST = 1 << 22, 1 << 32
_PREAMBLE = struct.Struct("<8sII32s")
# O_NOFOLLOW: a link may lead to anybody's file; O_NONBLOCK: opening a pipe would wait for a writer.
_OPEN = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    _OPEN |= getattr(os, _flag, 0)


class Unusable(Exception):
    """Why a file is not used; the text goes on from "PATH: "."""


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Everything that decides what a plan is, or where it loads; each one line of printable text, "" where none.

    bundle: its digest. target: "tensorrt" or "tensorrt_rtx". version: TensorRT's. gpu: name of the device.
    compute_capability: "8.7", for TensorRT-RTX the list. driver: its version. plugin: sha256 of the plugin library.
    profile, options: text of the Profile and of the compile options. Raises UsageError.
    """

    bundle: str
    target: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    plugin: str
    profile: str
    options: str

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, str) or not value.isprintable():
                raise UsageError(f"plan key: {each.name} wants one line of text, found {repr(value)[:200]}")

    @property
    def digest(self) -> str:
        """sha256, hex, of the key as JSON with sorted names: keys that differ anywhere differ here."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled plan. host_code: it holds code that runs on the CPU. about: a JSON object for people to read."""

    key: PlanKey
    data: bytes = field(repr=False)
    host_code: bool
    about: Mapping[str, Any]
    path: Path


@dataclass(frozen=True, slots=True)
class Facts:
    """What a header says of its content.

    key: what it is for, name to text. sha256: of the content, hex. size: bytes. host_code: runs on the CPU as well.
    about: a JSON object for people to read. used: when it was last read or written, ns since 1970; not in the file.
    """

    key: Mapping[str, str]
    sha256: str
    size: int
    host_code: bool
    about: Mapping[str, Any]
    used: int = field(default=0, compare=False)


def beside(path: Path) -> Path:
    """Where the facts of a plan outside the cache lie: out.plan has out.plan.json."""
    return path.with_name(f"{path.name}.json")


def to_json(
    key: Mapping[str, str], content: bytes, host_code: bool, about: Mapping[str, Any], *, indent: int | None = None
) -> bytes:
    """Facts about some content as JSON that parse_facts reads. Raises UsageError for what is no plain JSON."""
    digest = hashlib.sha256(content).hexdigest()
    facts = {"key": dict(key), "sha256": digest, "size": len(content), "host_code": host_code, "about": dict(about)}
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(facts, sort_keys=True, allow_nan=False, indent=indent, separators=separators).encode()
        parse_facts(text)
    except (TypeError, ValueError, RecursionError, Unusable) as exc:
        raise UsageError(f"about a plan: wants plain JSON with finite numbers, found {exc}") from exc
    if len(text) > HEADER_MOST or len(content) > CONTENT_MOST:
        most = f"{CONTENT_MOST} bytes with a header of {HEADER_MOST}"
        raise UsageError(f"a plan wants at most {most}, found {len(content)} and {len(text)}")
    return text


def parse_facts(text: bytes, used: int = 0) -> Facts:
    """What to_json wrote. Raises Unusable for anything else."""
    try:
        facts = Facts(**json.loads(text.decode(), parse_constant=_no_number), used=used)
        key = facts.key.items()
        holds = all(type(name) is str and type(value) is str for name, value in key)
        holds = holds and type(facts.sha256) is str and type(facts.size) is int and type(facts.host_code) is bool
        if not holds or not isinstance(facts.about, dict):
            raise TypeError("a field of another type")  # noqa: TRY301
    except (AttributeError, TypeError, ValueError, RecursionError) as exc:
        raise Unusable(f"its facts are not those of format {FORMAT}: {str(exc)[:200]!r}") from exc
    return facts


def parse_key(facts: Facts) -> PlanKey:
    """The key of a plan's facts. Raises Unusable."""
    try:
        return PlanKey(**facts.key)
    except (TypeError, UsageError) as exc:
        raise Unusable(f"its key is not that of a plan: {str(exc)[:200]!r}") from exc


def front(magic: bytes, header: bytes) -> bytes:
    """All that stands before the content."""
    return _PREAMBLE.pack(magic, FORMAT, len(header), hashlib.sha256(header).digest()) + header


def read_content(path: Path, magic: bytes, *, header_only: bool = False) -> tuple[Facts, bytes, os.stat_result]:
    """A file of the cache that is whole and this user's own: facts, content (b"" with header_only), what stat says.

    No length in it is trusted: none makes more memory be taken than the file has bytes. With header_only the content
    is not looked at. Raises FileNotFoundError, Unusable.
    """
    try:
        descriptor = os.open(path, _OPEN)
        status = os.fstat(descriptor)
        if reason := _not_ours(status):
            os.close(descriptor)
            raise Unusable(reason)
        with open(descriptor, "rb") as file:
            preamble = file.read(_PREAMBLE.size)
            if preamble[: len(magic)] != magic:
                raise Unusable("not a file of this cache" if preamble else "it is empty")
            if len(preamble) < _PREAMBLE.size:
                raise Unusable("it is truncated")
            _, number, size, digest = _PREAMBLE.unpack(preamble)
            if number != FORMAT:
                raise Unusable(f"it is of format {number}, this edge-retina reads {FORMAT}")
            header = file.read(min(size, HEADER_MOST))
            if hashlib.sha256(header).digest() != digest:
                raise Unusable("it is truncated or damaged: the header does not have its sha256")
            facts = parse_facts(header, status.st_mtime_ns)
            rest = status.st_size - _PREAMBLE.size - len(header)
            if rest > CONTENT_MOST:
                raise Unusable(f"wants at most {CONTENT_MOST} bytes after its header, found {rest}")
            if facts.size != rest:
                raise Unusable(f"it is truncated or added to: wants {facts.size} bytes after its header, found {rest}")
            content = b"" if header_only else file.read(rest)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise Unusable(f"it cannot be read: {exc.strerror}") from exc
    if not header_only and hashlib.sha256(content).hexdigest() != facts.sha256:
        raise Unusable("it is damaged: the content does not have its sha256")
    return facts, content, status


def _not_ours(status: os.stat_result) -> str:
    """Why a file is not to be trusted; "" where it is."""
    if not stat.S_ISREG(status.st_mode):
        return "it is no plain file"
    if sys.platform == "win32":  # the folder of a user is closed to others there, and modes mean little
        return ""
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to this one ({os.geteuid()}), and a plan is executable"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o}), and a plan is executable"
    return ""


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
