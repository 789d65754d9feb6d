"""A plan outside the cache, for trtexec, Triton and DeepStream: bare, with a .json beside it that says of what.

A plan from elsewhere is executable content: the digest in the .json finds accidents, not attackers. Take one only from
those whose programs you would run, and best with a signature: edge_retina.signing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import asdict
from pathlib import Path

from edge_retina.drafts import Draft
from edge_retina.errors import BundleCorrupt, BundleError
from edge_retina.planfile import CONTENT_MOST, HEADER_MOST, Plan, Unusable, beside, parse_facts, parse_key, to_json
from edge_retina.signing import signature_path, verify

__all__ = ["read_bare", "write_bare"]

_SIGNATURE_MOST = 1 << 12


def write_bare(path: Path, plan: Plan) -> Path:
    """Write a plan as TensorRT serialised it, and out.plan.json beside out.plan; the path of the latter.

    Each appears whole; between the two a reader finds that they do not fit together. Raises OutputError, UsageError.
    """
    facts = to_json(asdict(plan.key), plan.data, plan.host_code, plan.about, indent=1) + b"\n"
    for target, data in ((path, plan.data), (beside(path), facts)):
        draft = Draft(target)
        try:
            draft.fill(data)
            draft.publish()
        finally:
            draft.discard()
    return beside(path)


def read_bare(path: Path, *, bundle: str | None = None, trusted: Path | bytes | None = None) -> Plan:
    """Read what write_bare wrote, whole and unchanged.

    bundle: digest of the bundle it must be of. trusted: public key, PEM or its path, that must have signed both files:
    that is checked before anything in them is looked at. Without it, files that anybody may write to are refused.
    Raises BundleCorrupt, BundleError; InputError and MissingPackage for the key.
    """
    data = _read(path, CONTENT_MOST, anybody=trusted is not None)
    text = _read(beside(path), HEADER_MOST, anybody=trusted is not None)
    if trusted is not None:
        sidecar = hashlib.sha256(text).hexdigest()
        verify(data, trusted, kind="plan", signature=_signature(path), facts=sidecar, where=str(path))
    again = f"copy both files again or: edge-retina build MODEL.onnx --plan {path}"
    try:
        facts = parse_facts(text)
        key = parse_key(facts)
    except Unusable as exc:
        raise BundleCorrupt(f"{beside(path)}: {exc}; {again}") from exc
    if (facts.size, facts.sha256) != (len(data), hashlib.sha256(data).hexdigest()):
        raise BundleCorrupt(f"{path}: truncated, changed or not what {beside(path).name} describes; {again}")
    if bundle is not None and key.bundle != bundle:
        wanted = f"wants a plan of bundle {bundle[:12]}, found one of {key.bundle[:12]}"
        raise BundleError(f"{path}: {wanted}; compile it: edge-retina build MODEL.onnx --plan {path}")
    return Plan(key, data, facts.host_code, facts.about, path)


def _signature(path: Path) -> bytes:
    try:
        return _read(signature_path(path), _SIGNATURE_MOST, anybody=True)
    except BundleError:  # verify has one message for all that is wrong
        return b""


def _read(path: Path, most: int, *, anybody: bool) -> bytes:
    """A plain file, as large as the system says and no larger than `most`. Raises BundleError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise BundleError(f"{path}: wants a file, found a folder or a device")
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not anybody and os.name == "posix" and status.st_mode & stat.S_IWOTH:
                why = "anybody may write to it, and a plan is executable"
                raise BundleError(f"{path}: {why}; run: chmod o-w {path}, or have it signed: edge-retina sign")
            if status.st_size > most:
                raise BundleError(f"{path}: wants at most {most} bytes, found {status.st_size}")
            return file.read(status.st_size)
    except FileNotFoundError as exc:
        both = "a plan is read with the .json that was written beside it"
        raise BundleError(f"{path}: no such file; {both}: edge-retina build MODEL.onnx --plan OUT.plan") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        raise BundleError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
