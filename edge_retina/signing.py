"""Signatures of bundles and plans: ed25519, in FILE.sig beside FILE, checked before anything of the file is read.

A bundle or a plan from elsewhere is executable content: it decides what runs on the GPU, and a plan may run code of its
own on the CPU. The digests inside find accidents; that nobody else made or changed a file only a signature can say, by
a key whose public half came to this machine on another road.

FILE.sig is text of three lines: the format, the signature in hex, what is signed as JSON. What is signed begins with
the kind, so that a signature of a bundle is none of a plan. `facts` is the sha256 of what describes the file: of a
bundle's manifest.json, which is the bundle's digest, or of the plan.json beside a plan.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_retina.bundle import read_bundle
from edge_retina.drafts import Draft, as_output_error
from edge_retina.errors import BundleCorrupt, BundleError, InputError, MissingPackage, UsageError
from edge_retina.planfile import HEADER_MOST, beside

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from edge_retina.bundle import Bundle

__all__ = [
    "KINDS",
    "Statement",
    "make_key",
    "public_path",
    "read_signed_bundle",
    "sign",
    "signature_path",
    "statement",
    "verify",
]

KINDS = ("bundle", "plan")
_TITLE = b"edge-retina signature 1"
_SIGNATURE_MOST, _KEY_MOST, _BLOCK = 1 << 12, 1 << 14, 1 << 20
_FILE = re.compile(rb"edge-retina signature 1\n([0-9a-f]{128})\n(\{[ -~]*\})\n")


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed. sha256: of the whole file, hex; size: its bytes. facts: sha256 of what describes it."""

    kind: str
    sha256: str
    size: int
    facts: str

    def message(self) -> tuple[bytes, bytes]:
        """The statement as JSON, and the bytes that are signed."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        return text, _context(self.kind) + text


def _context(kind: str) -> bytes:
    return _TITLE + b", " + kind.encode() + b"\0"


def signature_path(path: Path) -> Path:
    """Where the signature of a file lies: FILE.sig."""
    return path.with_name(f"{path.name}.sig")


def public_path(key: Path) -> Path:
    """Where the public half of a private key lies: key.pem has key.pub."""
    return key.with_suffix(".pub")


def make_key(path: Path) -> Path:
    """Make a private key in a new file, PEM of mode 0600, and its public half beside it; the latter's path.

    Raises UsageError where there is such a file, OutputError, MissingPackage.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    public = public_path(path)
    for file in (path, public):
        if file.exists() or path == public:
            raise UsageError(
                f"{file}: is there already, and keys are not replaced; choose another name, such as new.pem"
            )
    key = Ed25519PrivateKey.generate()
    with as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with open(descriptor, "wb") as out:
            out.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            out.flush()
            os.fsync(descriptor)
    _write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def statement(path: Path) -> Statement:
    """What sign would sign. Raises BundleError for a file that is no whole bundle, nor a plan with its .json."""
    digest, size = _digest(path)
    if next(_blocks(path), b"").startswith(b"PK"):
        return Statement("bundle", digest, size, read_bundle(path).digest)
    if (facts := _small(beside(path), HEADER_MOST)) is not None:
        return Statement("plan", digest, size, hashlib.sha256(facts).hexdigest())
    kinds = f"a bundle, or a plan with its {beside(path).name} beside it"
    raise BundleError(f"{path}: wants {kinds}; make one: edge-retina build MODEL.onnx")


def sign(path: Path, key: Path) -> Path:
    """Sign a bundle, or a plan with its .json beside it; the path of the signature.

    key: PEM of an ed25519 private key. Raises BundleError for a file that is no whole bundle or plan, InputError for a
    key that is none or that others may read, OutputError, MissingPackage.
    """
    text, message = statement(path).message()
    private = _private_key(key)
    target = signature_path(path)
    _write(target, b"%s\n%s\n%s\n" % (_TITLE, private.sign(message).hex().encode(), text))
    return target


def verify(
    file: Path | bytes,
    public: Path | bytes,
    *,
    kind: str,
    signature: bytes | None = None,
    facts: str | None = None,
    where: str = "data",
) -> Statement:
    """See that the holder of a key signed exactly this, and nothing else is looked at before.

    file: a path, or all its bytes. public: PEM, or its path. kind: one of KINDS. signature: the content of FILE.sig;
    without, it is read from beside the path. facts: sha256 that the statement must name; of a path to a plan the .json
    beside it is hashed. where: names bytes in messages.
    Raises BundleCorrupt, with one message whatever is wrong; BundleError where there is no such file, InputError for a
    public key that is none, UsageError, MissingPackage.
    """
    if kind not in KINDS or (signature is None and isinstance(file, bytes)):
        raise UsageError(f"verify wants a kind of {', '.join(KINDS)}, found {kind!r}, and with bytes their signature")
    trusted = _public_key(public)
    where = where if isinstance(file, bytes) else str(file)
    digest, size = _digest(file)
    if signature is None and not isinstance(file, bytes):
        signature = _small(signature_path(file), _SIGNATURE_MOST)
    if facts is None and kind == "plan" and not isinstance(file, bytes):
        facts = hashlib.sha256(_small(beside(file), HEADER_MOST) or b"").hexdigest()
    found = _signed(signature or b"", trusted, kind)
    if found is None or (found.kind, found.sha256, found.size) != (kind, digest, size):
        raise _refused(where)
    if facts is not None and facts != found.facts:
        raise _refused(where)
    return found


def read_signed_bundle(path: str | os.PathLike[str], public: Path | bytes) -> Bundle:
    """Open a bundle of which the holder of a key signed all bytes. Raises BundleCorrupt and all else of verify."""
    file = Path(os.path.abspath(path))
    signed = verify(file, public, kind="bundle")
    bundle = read_bundle(file)
    if bundle.digest != signed.facts:  # replaced since; what is read later is held against this digest
        raise _refused(str(file))
    return bundle


def _signed(signature: bytes, public: Ed25519PublicKey, kind: str) -> Statement | None:
    """The statement in a signature, parsed only when it is the key's own."""
    from cryptography.exceptions import InvalidSignature

    parts = _FILE.fullmatch(signature)
    if parts is None:
        return None
    try:
        public.verify(bytes.fromhex(parts[1].decode()), _context(kind) + parts[2])
        return Statement(**json.loads(parts[2]))
    except (InvalidSignature, TypeError, ValueError, RecursionError):
        return None


def _refused(where: str) -> BundleCorrupt:
    wanted = "not signed by the trusted key, or changed since"
    return BundleCorrupt(f"{where}: {wanted}; get file and .sig again from who signed them, on a road you trust")


def _digest(file: Path | bytes) -> tuple[str, int]:
    """sha256, hex, and size of a file, a block at a time. Raises BundleError."""
    if isinstance(file, bytes):
        return hashlib.sha256(file).hexdigest(), len(file)
    digest, size = hashlib.sha256(), 0
    try:
        for block in _blocks(file):
            digest.update(block)
            size += len(block)
    except FileNotFoundError as exc:
        raise BundleError(f"{file}: no such file; check the path") from exc
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        raise BundleError(f"{file}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    return digest.hexdigest(), size


def _blocks(path: Path) -> Iterator[bytes]:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
        raise BundleError(f"{path}: wants a bundle or plan, found a folder or a device")
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _small(path: Path, most: int) -> bytes | None:
    """A file of at most so many bytes; None where there is none."""
    try:
        data = b""
        for block in _blocks(path):
            data += block
            if len(data) > most:
                return None
    except (OSError, ValueError, BundleError):
        return None
    return data


def _private_key(path: Path) -> Ed25519PrivateKey:
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _small(path, _KEY_MOST)
    if data is None:
        raise InputError(
            f"{path}: no private key can be read there; make one: edge-retina sign FILE --key {path} --new-key"
        )
    if sys.platform != "win32" and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise InputError(f"{path}: others may read this private key (mode {mode:04o}); run: chmod 600 {path}")
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: it wants a password
        raise InputError(f"{path}: wants an ed25519 private key as PEM without a password, found {exc}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: wants an ed25519 private key, found {type(key).__name__}")
    return key


def _public_key(public: Path | bytes) -> Ed25519PublicKey:
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    where = "public key" if isinstance(public, bytes) else str(public)
    data = public if isinstance(public, bytes) else _small(public, _KEY_MOST)
    try:
        key = load_pem_public_key(data or b"")
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise InputError(
            f"{where}: wants an ed25519 public key as PEM, as `edge-retina sign` puts beside the key"
        ) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{where}: wants an ed25519 public key, found {type(key).__name__}")
    return key


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as exc:
        raise MissingPackage("signatures need cryptography; run: pip install 'edge-retina[sign]'") from exc


def _write(path: Path, data: bytes) -> None:
    draft = Draft(path)
    try:
        draft.fill(data)
        draft.publish()
    finally:
        draft.discard()
