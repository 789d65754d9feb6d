"""model.edge, the file that build makes and run takes: write, read and verify it.

A bundle is a zip that any zip tool opens, yet for its members only one sequence of bytes is right: manifest.json, then
MEMBERS in their order, all stored, end to end, dated 1980-01-01, no comments, no extra fields. The same inputs give the
same file, and no stranger's zip is interpreted: the manifest says which headers must be where, any other byte is an error.

In every format version manifest.json is first, stored, under that same header, and has an integer "format".
Raise FORMAT with every new field of Manifest or DetectorSpec and every new name in MEMBERS.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from edge_retina.errors import BundleCorrupt, BundleError, BundleVersion, OutputError, SpecError, UsageError
from edge_retina.spec import DetectorSpec

__all__ = ["FORMAT", "MEMBERS", "PRECISIONS", "Bundle", "Manifest", "Member", "read_bundle", "write_bundle"]

FORMAT = 1
PRECISIONS = ("fp32", "fp16", "int8")
_MIB = 1 << 20
# Member to the most bytes it may have, in file order. Protobuf stays under 2 GiB.
MEMBERS = {"model.onnx": (1 << 31) - 1, "labels.txt": _MIB, "ranges.json": 64 * _MIB, "report.html": 64 * _MIB}
_OPTIONAL = {"ranges.json", "report.html"}
_MANIFEST, _MANIFEST_LIMIT = "manifest.json", 4 * _MIB
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
    """What the manifest pins of one member: sha256 in lower-case hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says about itself; it pins every other member.

    format: version of the file layout. edge_retina: version that wrote it. members: name to Member.
    precision: one of PRECISIONS. frame_size: (H, W) of the frame input, pixels; None when dynamic.
    batch_max: largest batch; None when dynamic. model_digest: sha256 of the ONNX given to build.
    calibration_digest: sha256; None without calibration. accuracy: a JSON object; None when not measured.
    tools: package name to version.

    Raises UsageError when a value is malformed.
    """

    format: int = FORMAT
    edge_retina: str
    members: Mapping[str, Member] = field(hash=False)
    spec: DetectorSpec
    precision: str
    frame_size: tuple[int, int] | None
    batch_max: int | None
    model_digest: str
    calibration_digest: str | None
    accuracy: Mapping[str, Any] | None = field(hash=False)
    tools: Mapping[str, str] = field(hash=False)

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
        hooks: dict[str, Any] = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), _number)
        try:
            data = json.loads(text.decode(), object_pairs_hook=_object, **hooks)
        except (ValueError, RecursionError) as exc:
            raise _corrupt(source, f"manifest.json is not JSON: {exc}") from exc
        found = data.get("format") if isinstance(data, dict) else None
        if type(found) is int and found > FORMAT:
            raise BundleVersion(
                f"{source}: this bundle has format {found}, this edge-retina reads up to {FORMAT}; "
                "upgrade: pip install -U edge-retina"
            )
        known = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != known:
            raise _corrupt(source, f"manifest.json wants an object with exactly the fields {', '.join(sorted(known))}")
        try:
            data["members"] = {name: Member(**member) for name, member in data["members"].items()}
            data["frame_size"] = data["frame_size"] and tuple(data["frame_size"])
        except (AttributeError, TypeError) as exc:
            raise _corrupt(source, f"manifest.json: members or frame_size has a wrong shape: {exc}") from exc
        try:
            return cls(**{**data, "spec": DetectorSpec.from_dict(data["spec"])})
        except (UsageError, SpecError, RecursionError) as exc:
            raise _corrupt(source, str(exc)) from exc


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened model.edge: its manifest in memory, its members on disk.

    path: absolute. digest: sha256 of manifest.json in hex, and so the identity of the whole content.
    """

    path: Path
    manifest: Manifest
    digest: str
    _spans: Mapping[str, tuple[int, int]] = field(repr=False, compare=False)

    @property
    def spec(self) -> DetectorSpec:
        """The numbers that give the model's outputs their meaning."""
        return self.manifest.spec

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per class."""
        return self.manifest.spec.labels

    def model(self) -> bytes:
        """The rewritten ONNX: read("model.onnx")."""
        return self.read("model.onnx")

    def read(self, name: str) -> bytes:
        """One member, read from disk and checked against its sha256 at every call.

        Raises BundleError when the bundle has no such member, BundleCorrupt when the file has changed."""
        if name not in self._spans:
            raise BundleError(f"{self.path}: no member {name!r}; it has {', '.join(self._spans)}")
        with _opened(self.path) as file:
            data = _read(file, self.path, *self._spans[name])
        wanted = self.digest if name == _MANIFEST else self.manifest.members[name].sha256
        if hashlib.sha256(data).hexdigest() != wanted:
            raise _corrupt(self.path, f"{name} does not have the sha256 it had, {wanted}")
        return data


def read_bundle(path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Open a bundle and check it: all headers, all sizes and, unless verify=False, each member's sha256.

    With verify=False a member is still checked when it is read. Holds the manifest and 1 MiB in memory.
    Raises BundleError when there is no such file, BundleCorrupt, BundleVersion."""
    where = Path(os.path.abspath(path))
    with _opened(where) as file:
        text = _read_manifest(file, where)
        manifest = Manifest.from_json(text, where)
        sizes = {_MANIFEST: len(text), **{n: manifest.members[n].size for n in MEMBERS if n in manifest.members}}
        heads, end, spans = _layout({name: (size, 0) for name, size in sizes.items()})
        wanted, found = sum(sizes.values()) + sum(map(len, heads.values())) + len(end), _size(file)
        if found != wanted:
            raise _corrupt(
                where, f"{'truncated' if found < wanted else 'added to'}: wants {wanted} bytes, found {found}"
            )
        # Only the CRC-32s are not determined by the manifest: taken from the headers here, checked below.
        starts = {name: _read(file, where, spans[name][0] - len(head), len(head)) for name, head in heads.items()}
        sums = {name: _LOCAL.unpack_from(start)[6] for name, start in starts.items()}
        heads, end, spans = _layout({name: (size, sums[name]) for name, size in sizes.items()})
        for name in sizes:
            if starts[name] != heads[name]:
                raise _corrupt(where, f"the zip header of {name} is not ours: renamed, compressed, encrypted or edited")
        if _read(file, where, wanted - len(end), len(end)) != end:
            raise _corrupt(where, "the zip directory is not ours: repacked or edited")
        for name, member in manifest.members.items() if verify else ():
            if _digests(file, *spans[name]) != (member.sha256, sums[name]):
                raise _corrupt(where, f"{name} does not have the sha256 and CRC-32 that the manifest and the zip name")
    return Bundle(where, manifest, hashlib.sha256(text).hexdigest(), spans)


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
    Raises UsageError or SpecError for values that do not fit a bundle, OutputError when it cannot be written."""
    if odd := sorted(set(extra or {}) - _OPTIONAL):
        raise UsageError(f"extra wants names from {sorted(_OPTIONAL)}, found {odd}")
    contents = {"model.onnx": model, "labels.txt": _labels_text(spec), **(extra or {})}
    manifest = Manifest(
        edge_retina=_version(),
        members={name: Member(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()},
        spec=spec,
        precision=precision,
        frame_size=frame_size,
        batch_max=batch_max,
        model_digest=model_digest,
        calibration_digest=calibration_digest,
        accuracy=accuracy,
        tools=tools or {},
    )
    text = manifest.to_json().encode()
    if len(text) > _MANIFEST_LIMIT:
        raise UsageError(f"manifest: wants at most {_MANIFEST_LIMIT} bytes of JSON, found {len(text)}")
    pieces = {_MANIFEST: text, **{name: contents[name] for name in MEMBERS if name in contents}}
    heads, end, spans = _layout({name: (len(data), zlib.crc32(data)) for name, data in pieces.items()})
    target = Path(os.path.abspath(path))
    # Parsed back, so that the caller's dicts are not shared and what cannot be read is never written.
    bundle = Bundle(target, Manifest.from_json(text, target), hashlib.sha256(text).hexdigest(), spans)
    try:
        _write_whole(target, [part for name, data in pieces.items() for part in (heads[name], data)] + [end])
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        advice = _ADVICE.get(getattr(exc, "errno", None) or 0, "choose another path with -o")
        raise OutputError(f"{target}: cannot be written: {getattr(exc, 'strerror', None) or exc}; {advice}") from exc
    return bundle


def _write_whole(path: Path, pieces: list[bytes]) -> None:
    """Make the file appear at `path` all at once; on a failure what was there stays and nothing is left over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # /dev/null must not turn into a file
        raise OSError(errno.EINVAL, "there is a folder or a device of that name")
    temp = path.with_name(f".{path.name[:48]}.{secrets.token_hex(8)}.tmp")
    # 0o666 less the umask, as open() has it. O_EXCL follows no link that somebody may have put there.
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(descriptor, rest[:_MIB]) :]
            os.fsync(file)
        os.replace(temp, path)
    except BaseException:
        with suppress(OSError):
            temp.unlink()
        raise


def _layout(members: Mapping[str, tuple[int, int]]) -> tuple[dict[str, bytes], bytes, dict[str, tuple[int, int]]]:
    """The zip around its members, from name to (size, CRC-32) in file order.

    Returns the header before each member, the directory after the last, and each member's (offset, size)."""
    heads: dict[str, bytes] = {}
    spans: dict[str, tuple[int, int]] = {}
    directory, offset = b"", 0
    for name, (size, crc) in members.items():
        common = (_NEEDS, 0, 0, 0, _DATE, crc, size, size, len(name), 0)
        heads[name] = _LOCAL.pack(b"PK\3\4", *common) + name.encode()
        directory += _CENTRAL.pack(b"PK\1\2", _MADE_BY, *common, 0, 0, 0, _MODE, offset) + name.encode()
        spans[name] = (offset + len(heads[name]), size)
        offset = sum(spans[name])
    end = _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(directory), offset, 0)
    return heads, directory + end, spans


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file for reading; what the system refuses, then or later, is a BundleError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise BundleError(f"{path}: wants a bundle file, found a folder or a device")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError as exc:
        raise BundleError(f"{path}: no such file; make it: edge-retina build MODEL.onnx -o {path}") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        raise BundleError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _read(file: BinaryIO, path: Path, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size) if offset + size <= _size(file) else b""  # a false size must not allocate
    if len(data) != size:
        raise _corrupt(path, f"truncated: wants at least {offset + size} bytes, found {_size(file)}")
    return data


def _read_manifest(file: BinaryIO, path: Path) -> bytes:
    """The bytes of manifest.json, from the front of the file alone."""
    head = file.read(_LOCAL.size + len(_MANIFEST))
    if not head.startswith(b"PK\3\4"):
        # A ModelProto starts with ir_version, field 1, and another field of low number follows.
        if path.suffix == ".onnx" or re.match(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]", head):
            build = f"edge-retina build {path} -o {path.with_suffix('.edge')}"
            raise BundleCorrupt(f"{path}: this is an ONNX model, not a bundle; build it first: {build}")
        raise _corrupt(path, "not a bundle" if head else "the file is empty")
    crc, size = _LOCAL.unpack_from(head.ljust(_LOCAL.size))[6:8]
    if head != _layout({_MANIFEST: (size, crc)})[0][_MANIFEST] or size > _MANIFEST_LIMIT:
        raise _corrupt(path, f"wants manifest.json first, stored, at most {_MANIFEST_LIMIT} bytes: repacked or edited")
    text = _read(file, path, len(head), size)
    if zlib.crc32(text) != crc:
        raise _corrupt(path, "manifest.json does not have the CRC-32 of its zip header")
    return text


def _digests(file: BinaryIO, offset: int, size: int) -> tuple[str, int]:
    """sha256 and CRC-32 of a part of the file, 1 MiB at a time."""
    sha256, crc = hashlib.sha256(), 0
    file.seek(offset)
    while size > 0 and (chunk := file.read(min(size, _MIB))):
        sha256.update(chunk)
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return sha256.hexdigest(), crc


def _corrupt(source: str | Path, why: str) -> BundleCorrupt:
    return BundleCorrupt(f"{source}: {why[:600]}; copy it again, or: edge-retina build MODEL.onnx -o {source}")


def _version() -> str:
    with suppress(PackageNotFoundError):
        return version("edge-retina")
    return "unknown"


def _labels_text(spec: DetectorSpec) -> bytes:
    """The content of labels.txt: one name a line. Raises SpecError for a name that is not one line of UTF-8."""
    try:
        if any(len(label.splitlines()) > 1 or label.splitlines() not in ([], [label]) for label in spec.labels):
            raise SpecError("DetectorSpec: labels wants names without line breaks")
        return "".join(f"{label}\n" for label in spec.labels).encode()
    except UnicodeEncodeError as exc:
        raise SpecError(f"DetectorSpec: labels wants Unicode text: {exc}") from exc


def _number(text: str) -> float:
    """A finite number; a stranger's JSON may spell NaN, 1e999 or an integer of a million digits."""
    if len(text) > 32 or not math.isfinite(float(text)):
        raise ValueError(f"wants a finite number, found {text[:32]}")
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key twice in one object")
    return found


def _json(value: Any, depth: int = 16) -> bool:
    """True for plain JSON values with finite numbers, at most `depth` containers deep."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and _json(v, depth - 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_json(v, depth - 1) for v in value)
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < 2**63)


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": (str(FORMAT), lambda v: type(v) is int and v == FORMAT),
    "edge_retina": ("a version", lambda v: isinstance(v, str)),
    "members": (
        f"sha256 and size (1 to {MEMBERS} bytes)",
        lambda v: (
            set(MEMBERS) - _OPTIONAL <= set(v) <= set(MEMBERS)
            and all(_sha256(m.sha256) and _whole(m.size, MEMBERS[name]) for name, m in v.items())
        ),
    ),
    "precision": (f"one of {', '.join(PRECISIONS)}", lambda v: v in PRECISIONS),
    "frame_size": (
        "(H, W) in 1..16384 or None",
        lambda v: v is None or (isinstance(v, tuple) and len(v) == 2 and all(_whole(side, 16384) for side in v)),
    ),
    "batch_max": ("1 to 4096 or None", lambda v: v is None or _whole(v, 4096)),
    "model_digest": ("64 lower-case hex digits", _sha256),
    "calibration_digest": ("64 lower-case hex digits or None", lambda v: v is None or _sha256(v)),
    "accuracy": ("a JSON object or None", lambda v: v is None or (isinstance(v, dict) and _json(v))),
    "tools": ("an object of text", lambda v: _json(v, 1) and all(isinstance(text, str) for text in v.values())),
}
