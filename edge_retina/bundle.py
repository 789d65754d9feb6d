"""model.edge, the file that build makes and run takes: write, read and verify it.

A bundle is a zip that any zip tool opens, yet the manifest determines every byte around the members: manifest.json,
then MEMBERS in their order, all stored, end to end, dated 1980-01-01, no comments, no extra fields. So the same inputs
give the same file, and no stranger's zip is interpreted: where a byte is not the expected one, that is the error.
Every later FORMAT, one for each new field or member, keeps manifest.json first and stored, with an integer "format".
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_retina.errors import BundleCorrupt, BundleError, BundleVersion, OutputError, SpecError, UsageError
from edge_retina.spec import DetectorSpec

__all__ = ["FORMAT", "MEMBERS", "PRECISIONS", "Bundle", "Manifest", "Member", "read_bundle", "write_bundle"]

FORMAT = 2
PRECISIONS = ("fp32", "fp16", "int8")
# Member to the most bytes it may have, in file order; the last two are optional. Protobuf stays under 2 GiB.
MEMBERS = {"model.onnx": (1 << 31) - 1, "labels.txt": 1 << 20, "ranges.json": 1 << 26, "report.html": 1 << 26}
_REQUIRED = {"model.onnx", "labels.txt"}
_MANIFEST, _MANIFEST_LIMIT = "manifest.json", 1 << 22
# APPNOTE.TXT 4.3.7, 4.3.12, 4.3.16. Stored files need zip 1.0; 0x0314 is Unix, zip 2.0; 0x21 is 1980-01-01.
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_NEEDS, _MADE_BY, _DATE, _MODE = 10, 0x0314, 0x21, (stat.S_IFREG | 0o644) << 16
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "the disk or quota is full: free some space or write elsewhere, -o"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder you may write to with -o"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "part of the path is a file, not a folder: choose another with -o"),
}


@dataclass(frozen=True, slots=True)
class Member:
    """What the manifest pins of one member: sha256 in lower-case hex, CRC-32 as zip has it, size in bytes."""

    sha256: str
    crc32: int
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says about itself; it pins every other member.

    edge_retina: version that wrote it. members: name to Member. precision: one of PRECISIONS.
    model_digest: sha256 of the ONNX given to build. frame_size: (H, W) of the frame input, pixels; None when dynamic.
    batch_max: largest batch; None when dynamic. calibration_digest: sha256; None without calibration.
    accuracy: JSON object; None when not measured. tools: package to version. format: of the file. Raises UsageError.
    """

    edge_retina: str
    members: Mapping[str, Member] = field(hash=False)
    spec: DetectorSpec
    precision: str
    model_digest: str
    frame_size: tuple[int, int] | None
    batch_max: int | None
    calibration_digest: str | None
    accuracy: Mapping[str, Any] | None = field(hash=False)
    tools: Mapping[str, str] = field(hash=False)
    format: int = FORMAT

    def __post_init__(self) -> None:
        for name, (wanted, holds) in _RULES.items():
            if not holds(value := getattr(self, name)):
                raise UsageError(f"manifest: {name} wants {wanted}, found {repr(value)[:200]}")
        if self.members["labels.txt"].sha256 != hashlib.sha256(_labels_text(self.spec)).hexdigest():
            raise UsageError("manifest: labels.txt is not the labels of the spec, one a line")

    def to_json(self) -> str:
        """The text of manifest.json, keys sorted; from_json gives an equal manifest back."""
        data = {f.name: getattr(self, f.name) for f in fields(self)} | {"spec": self.spec.to_dict()}
        return json.dumps(data, indent=1, sort_keys=True, allow_nan=False, default=asdict) + "\n"

    @classmethod
    def from_json(cls, text: bytes, source: str | Path = _MANIFEST) -> Manifest:
        """Read what to_json wrote; `source` starts the messages. Raises BundleVersion, BundleCorrupt."""
        try:
            data = json.loads(text.decode(), parse_int=_number, parse_float=_number, parse_constant=_number)
            if data["format"] > FORMAT:
                have = f"bundle of format {data['format']}, this edge-retina reads up to {FORMAT}"
                raise BundleVersion(f"{source}: {have}; upgrade: pip install -U edge-retina")
            data["members"] = {name: Member(**member) for name, member in data["members"].items()}
            data["frame_size"] = data["frame_size"] and tuple(data["frame_size"])
            floor = data["format"] == 1 and data["spec"]["resize"] == "shortest_side"  # it knew no other way to round
            data["spec"] = DetectorSpec.from_dict(data["spec"] | ({"rounding": "floor"} if floor else {}))
            return cls(**data)
        except (LookupError, AttributeError, TypeError, ValueError, RecursionError, SpecError, UsageError) as exc:
            raise _corrupt(source, f"manifest.json does not fit format {FORMAT}: {type(exc).__name__}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened model.edge. path: absolute. digest: sha256 of manifest.json in hex, the identity of all content."""

    path: Path
    manifest: Manifest
    spec: DetectorSpec
    digest: str
    _spans: Mapping[str, tuple[int, int]] = field(repr=False, compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per class."""
        return self.spec.labels

    def model(self) -> bytes:
        """The rewritten ONNX: read("model.onnx")."""
        return self.read("model.onnx")

    def read(self, name: str) -> bytes:
        """One member, read and checked against its sha256 at every call. Raises BundleError, BundleCorrupt."""
        if name not in self._spans:
            raise BundleError(f"{self.path}: no member {name!r}; it has {', '.join(self._spans)}")
        data, _ = _read(self.path, *self._spans[name])
        wanted = self.digest if name == _MANIFEST else self.manifest.members[name].sha256
        if (found := hashlib.sha256(data).hexdigest()) != wanted:
            raise _corrupt(self.path, f"{name} wants sha256 {wanted}, found {found}")
        return data


def read_bundle(path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Open a bundle and check it: all headers, all sizes and, unless verify=False, each member's sha256.

    With verify=False a member is still checked when it is read. Memory: one member at a time.
    Raises BundleError when there is no such file, BundleCorrupt, BundleVersion.
    """
    where = Path(os.path.abspath(path))
    head, found = _read(where, 0, _LOCAL.size + len(_MANIFEST))
    # A ModelProto starts with ir_version, field 1, and another field of low number follows.
    if re.match(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]", head) or (
        where.suffix == ".onnx" and head[:2] != b"PK"
    ):
        raise BundleCorrupt(f"{where}: this is an ONNX; build it first: edge-retina build {where} -o {where.stem}.edge")
    if not re.fullmatch(rb"PK\x03\x04.{4}\x00\x00.{20}manifest\.json", head, re.DOTALL):
        raise _corrupt(where, "wants a zip that starts with manifest.json, stored" if head else "the file is empty")
    crc, size = _LOCAL.unpack_from(head)[6:8]
    text, found = _read(where, len(head), min(size, _MANIFEST_LIMIT))
    if zlib.crc32(text) != crc:
        raise _corrupt(where, "manifest.json is truncated, edited or too large: its CRC-32 is not that of its header")
    manifest = Manifest.from_json(text, where)
    around, spans = _layout(text, manifest)
    wanted = around[-1][0] + len(around[-1][1])
    if found != wanted:
        raise _corrupt(where, f"{'truncated' if found < wanted else 'added to'}: wants {wanted} bytes, found {found}")
    for offset, expected in around:
        if _read(where, offset, len(expected))[0] != expected:
            raise _corrupt(where, f"zip header at byte {offset}: edited, renamed, compressed or encrypted")
    bundle = Bundle(where, manifest, manifest.spec, hashlib.sha256(text).hexdigest(), spans)
    for name in manifest.members if verify else ():
        bundle.read(name)
    return bundle


def write_bundle(
    path: str | os.PathLike[str],
    *,
    model: bytes,
    spec: DetectorSpec,
    precision: str,
    model_digest: str,
    frame_size: tuple[int, int] | None = None,
    batch_max: int | None = None,
    calibration_digest: str | None = None,
    accuracy: Mapping[str, Any] | None = None,
    tools: Mapping[str, str] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle, whole or not at all, and return it opened; the same inputs give the same bytes.

    extra: ranges.json, report.html. The rest: see Manifest. A file at `path` is replaced once the new one is complete
    and on disk; until then it lies beside it as .NAME.<random>.tmp. Missing folders are made.
    Raises UsageError or SpecError for values that do not fit a bundle, OutputError when it cannot be written.
    """
    if odd := _REQUIRED & set(extra or {}):
        raise UsageError(f"extra wants names from {sorted(set(MEMBERS) - _REQUIRED)}, found {sorted(odd)}")
    contents = {"model.onnx": model, "labels.txt": _labels_text(spec), **(extra or {})}
    members = {n: Member(hashlib.sha256(data).hexdigest(), zlib.crc32(data), len(data)) for n, data in contents.items()}
    about = (precision, model_digest, frame_size, batch_max, calibration_digest, accuracy, tools or {})
    target = Path(os.path.abspath(path))
    try:  # parsed back, so that the caller's dicts are not shared and what cannot be read is never written
        text = Manifest(version("edge-retina"), members, spec, *about).to_json().encode()
        manifest = Manifest.from_json(text[:_MANIFEST_LIMIT], target)
    except (BundleCorrupt, RecursionError, TypeError, ValueError) as exc:
        raise UsageError(f"manifest: wants plain JSON, finite numbers, at most {_MANIFEST_LIMIT} bytes: {exc}") from exc
    around, spans = _layout(text, manifest)
    parts = [*around, (spans[_MANIFEST][0], text), *((spans[name][0], data) for name, data in contents.items())]
    try:
        _write_whole(target, [data for _, data in sorted(parts)])
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        advice = _ADVICE.get(getattr(exc, "errno", None) or 0, "choose another path with -o")
        raise OutputError(f"{target}: cannot be written: {getattr(exc, 'strerror', None) or exc}; {advice}") from exc
    return Bundle(target, manifest, spec, hashlib.sha256(text).hexdigest(), spans)


def _write_whole(path: Path, pieces: list[bytes]) -> None:
    """Make the file appear at `path` all at once; on a failure what was there stays and nothing is left over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # /dev/null must not turn into a file
        raise OSError(errno.EINVAL, "there is a folder or a device of that name")
    temp = path.with_name(f".{path.name[:48]}.{os.urandom(8).hex()}.tmp")
    # 0o666 less the umask, as open() has it. O_EXCL follows no link that somebody may have put there.
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(descriptor)
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def _layout(text: bytes, manifest: Manifest) -> tuple[list[tuple[int, bytes]], dict[str, tuple[int, int]]]:
    """The zip around the members of a manifest and its text, as (offset, bytes); (offset, size) of each member."""
    members = [(_MANIFEST, zlib.crc32(text), len(text))]
    members += [(name, m.crc32, m.size) for name in MEMBERS if (m := manifest.members.get(name))]
    around: list[tuple[int, bytes]] = []
    spans: dict[str, tuple[int, int]] = {}
    directory, offset = b"", 0
    for name, crc, size in members:
        common = (_NEEDS, 0, 0, 0, _DATE, crc, size, size, len(name), 0)
        around.append((offset, _LOCAL.pack(b"PK\3\4", *common) + name.encode()))
        directory += _CENTRAL.pack(b"PK\1\2", _MADE_BY, *common, 0, 0, 0, _MODE, offset) + name.encode()
        spans[name] = (offset + _LOCAL.size + len(name), size)
        offset = sum(spans[name])
    end = _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(directory), offset, 0)
    return [*around, (offset, directory + end)], spans


def _read(path: Path, offset: int, size: int) -> tuple[bytes, int]:
    """A part of the file, shorter where it ends early, and the file's size. Raises BundleError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise BundleError(f"{path}: wants a bundle file, found a folder or a device")
        with open(path, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            file.seek(offset)
            return file.read(min(size, max(0, found - offset))), found  # a false size must not allocate
    except FileNotFoundError as exc:
        raise BundleError(f"{path}: no such file; make it: edge-retina build MODEL.onnx -o {path}") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        raise BundleError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


def _corrupt(source: str | Path, why: str) -> BundleCorrupt:
    return BundleCorrupt(f"{source}: {why[:600]}; copy it again or: edge-retina build MODEL.onnx -o {source}")


def _labels_text(spec: DetectorSpec) -> bytes:
    """The content of labels.txt, one name a line. Raises SpecError for a name that is not one line of Unicode."""
    text = "".join(f"{label}\n" for label in spec.labels).encode(errors="replace")
    if text.decode().splitlines() != list(spec.labels):
        raise SpecError("DetectorSpec: labels wants names of one line each, in Unicode")
    return text


def _number(text: str) -> float:
    """A finite number; a stranger's JSON may spell NaN, 1e999 or an integer of a million digits."""
    if len(text) > 32 or not abs(float(text)) < float("inf"):
        raise ValueError(f"wants a finite number, found {text[:32]}")
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _whole(value: Any, most: int, least: int = 1) -> bool:
    return type(value) is int and least <= value <= most


def _member(name: str, m: Member) -> bool:
    return bool(_HEX(str(m.sha256))) and _whole(m.crc32, 0xFFFFFFFF, 0) and _whole(m.size, MEMBERS.get(name, 0))


_HEX = re.compile("[0-9a-f]{64}").fullmatch
_RULES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "format": (str(FORMAT), lambda v: _whole(v, FORMAT)),
    "edge_retina": ("a version", lambda v: isinstance(v, str)),
    "members": (f"sizes up to {MEMBERS}", lambda v: set(v) >= _REQUIRED and all(_member(*item) for item in v.items())),
    "precision": (f"one of {', '.join(PRECISIONS)}", lambda v: v in PRECISIONS),
    "frame_size": ("(H, W) or None", lambda v: v is None or (len(v) == 2 and all(_whole(n, 16384) for n in v))),
    "batch_max": ("1 to 4096 or None", lambda v: v is None or _whole(v, 4096)),
    "model_digest": ("64 lower-case hex digits", lambda v: _HEX(str(v))),
    "calibration_digest": ("64 lower-case hex digits or None", lambda v: v is None or _HEX(str(v))),
    "accuracy": ("an object or None", lambda v: v is None or isinstance(v, Mapping)),
    "tools": ("an object of text", lambda v: isinstance(v, Mapping) and all(isinstance(t, str) for t in v.values())),
}
