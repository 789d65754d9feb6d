from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cache import KEY, names

from edge_retina import signing
from edge_retina.bundle import read_bundle, write_bundle
from edge_retina.errors import BundleCorrupt, BundleError, InputError, MissingPackage, UsageError
from edge_retina.planfile import Plan
from edge_retina.plans import write_bare
from edge_retina.signing import make_key, public_path, read_signed_bundle, sign, signature_path, statement, verify
from edge_retina.spec import DetectorSpec

SPEC = DetectorSpec(
    family="torchvision",
    labels=("cat",),
    input_size=(64, 96),
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    strides=((8, 8),),
    level_shapes=((8, 12),),
    cell_anchors=(((-4.0, -4.0, 4.0, 4.0),),),
    origins={},
)
REFUSED = (
    "{}: not signed by the trusted key, or changed since; get file and .sig again from who signed them, on a road you "
    "trust"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle and a plan, each signed with key.pem; other.pem signed neither. Not to be changed."""
    path = tmp_path_factory.mktemp("signed")
    write_bundle(path / "model.edge", model=bytes(500), spec=SPEC, precision="fp32", model_digest="ab" * 32)
    write_bare(path / "out.plan", Plan(KEY, bytes(range(256)), False, {}, path))
    make_key(path / "key.pem")
    make_key(path / "other.pem")
    sign(path / "model.edge", path / "key.pem")
    sign(path / "out.plan", path / "key.pem")
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / file.name).chmod(file.stat().st_mode)
    return tmp_path


def refused(shown: object, *arguments: Any, **options: Any) -> None:
    """Whatever is wrong, the message is the same."""
    with pytest.raises(BundleCorrupt) as caught:
        verify(*arguments, **options)
    assert str(caught.value) == REFUSED.format(shown)
    assert caught.value.exit_code == 5
    assert caught.value.__cause__ is None


def test_nothing_signed_is_nothing_verified(folder: Path) -> None:
    refused("data", b"", folder / "key.pub", kind="plan", signature=b"")
    with pytest.raises(BundleError, match="none: no such file"):
        verify(folder / "none", folder / "key.pub", kind="bundle")


def test_what_was_signed_is_verified(folder: Path) -> None:
    bundle = verify(folder / "model.edge", folder / "key.pub", kind="bundle")
    data = (folder / "model.edge").read_bytes()
    assert (bundle.kind, bundle.sha256, bundle.size) == ("bundle", hashlib.sha256(data).hexdigest(), len(data))
    assert bundle.facts == read_bundle(folder / "model.edge").digest
    plan = verify(folder / "out.plan", folder / "key.pub", kind="plan")
    facts = hashlib.sha256((folder / "out.plan.json").read_bytes()).hexdigest()
    assert (plan.kind, plan.size, plan.facts) == ("plan", 256, facts)


def test_bytes_are_verified_with_their_signature(folder: Path) -> None:
    data, signature = ((folder / name).read_bytes() for name in ("out.plan", "out.plan.sig"))
    public = (folder / "key.pub").read_bytes()
    found = verify(data, public, kind="plan", signature=signature)
    assert found == statement(folder / "out.plan")
    assert verify(data, public, kind="plan", signature=signature, facts=found.facts) == found
    refused("x", data, public, kind="plan", signature=signature, facts="ab" * 32, where="x")
    with pytest.raises(UsageError, match="with bytes their signature"):
        verify(data, public, kind="plan")
    with pytest.raises(UsageError, match="wants a kind of bundle, plan, found 'model'"):
        verify(data, public, kind="model", signature=signature)


def test_the_signature_file(folder: Path) -> None:
    title, signature, signed, end = (folder / "model.edge.sig").read_bytes().split(b"\n")
    assert (title, end, len(signature)) == (b"edge-retina signature 1", b"", 128)
    assert json.loads(signed).keys() == {"kind", "sha256", "size", "facts"}
    assert (folder / "model.edge.sig").stat().st_size < 512


def test_it_is_plain_ed25519(folder: Path) -> None:
    _, signature, signed, _ = (folder / "model.edge.sig").read_bytes().split(b"\n")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    public: Any = load_pem_public_key((folder / "key.pub").read_bytes())
    public.verify(bytes.fromhex(signature.decode()), b"edge-retina signature 1, bundle\0" + signed)


def test_a_signature_of_one_kind_is_none_of_another(folder: Path) -> None:
    public = folder / "key.pub"
    for name, kind in (("model.edge", "plan"), ("out.plan", "bundle")):
        refused(folder / name, folder / name, public, kind=kind)
        data, signature = (folder / name).read_bytes(), (folder / f"{name}.sig").read_bytes()
        refused("data", data, public, kind=kind, signature=signature)
        found = verify(data, public, kind="bundle" if kind == "plan" else "plan", signature=signature)
        renamed = signature.replace(f'"{found.kind}"'.encode(), f'"{kind}"'.encode())
        assert renamed != signature
        refused("data", data, public, kind=kind, signature=renamed)


def test_a_foreign_key_is_refused(folder: Path) -> None:
    refused(folder / "model.edge", folder / "model.edge", folder / "other.pub", kind="bundle")
    refused(folder / "out.plan", folder / "out.plan", folder / "other.pub", kind="plan")


def test_anothers_signature_is_refused(copy: Path) -> None:
    signature_path(copy / "model.edge").write_bytes((copy / "out.plan.sig").read_bytes())
    refused(copy / "model.edge", copy / "model.edge", copy / "key.pub", kind="bundle")


@pytest.mark.parametrize("change", [None, b"", b"x" * 5000, b"edge-retina signature 1\n", "folder"])
def test_no_signature_or_none_that_is_one(copy: Path, change: Any) -> None:
    file = copy / "model.edge.sig"
    file.unlink()
    if change == "folder":
        file.mkdir()
    elif change is not None:
        file.write_bytes(change)
    refused(copy / "model.edge", copy / "model.edge", copy / "key.pub", kind="bundle")


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_no_changed_byte_is_signed(folder: Path, data: st.DataObject) -> None:
    parts = [(folder / name).read_bytes() for name in ("out.plan", "out.plan.sig")]
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "add"]))
    if change == "flip":
        other = bytes([parts[which][at] ^ data.draw(st.integers(1, 255))])
        parts[which] = parts[which][:at] + other + parts[which][at + 1 :]
    else:
        parts[which] = parts[which][:at] if change == "cut" else parts[which] + data.draw(st.binary(min_size=1))
    refused("data", parts[0], folder / "key.pub", kind="plan", signature=parts[1])


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=600), st.booleans())
def test_garbage_is_no_signature(folder: Path, garbage: bytes, like: bool) -> None:
    signature = b"edge-retina signature 1\n" + b"0" * 128 + b"\n" + garbage if like else garbage
    refused("data", b"plan", folder / "key.pub", kind="plan", signature=signature)


@pytest.mark.parametrize("text", [b"{}", b'{"kind": 1}', b"{" * 1000, b'{"size": ' + b"9" * 9999 + b"}", b"{nonsense}"])
def test_odd_statements_are_refused_though_signed(folder: Path, text: bytes) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private: Any = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    signed = private.sign(b"edge-retina signature 1, plan\0" + text).hex().encode()
    whole = b"edge-retina signature 1\n" + signed + b"\n" + text + b"\n"
    refused("data", b"plan", folder / "key.pub", kind="plan", signature=whole)


def test_a_changed_bundle_and_changed_facts_are_refused(copy: Path) -> None:
    for name, signed, kind in (("model.edge", "model.edge", "bundle"), ("out.plan.json", "out.plan", "plan")):
        file = copy / name
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        refused(copy / signed, copy / signed, copy / "key.pub", kind=kind)
    (copy / "out.plan.json").unlink()
    refused(copy / "out.plan", copy / "out.plan", copy / "key.pub", kind="plan")


def test_a_signed_bundle_is_opened(folder: Path) -> None:
    bundle = read_signed_bundle(folder / "model.edge", folder / "key.pub")
    assert bundle == read_bundle(folder / "model.edge")
    with pytest.raises(BundleCorrupt):
        read_signed_bundle(folder / "model.edge", folder / "other.pub")


def test_nothing_is_parsed_before_the_signature_is_checked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("parsed before the signature was checked")

    monkeypatch.setattr(signing, "read_bundle", parsed)
    monkeypatch.setattr(signing.json, "loads", parsed)
    with pytest.raises(BundleCorrupt):
        read_signed_bundle(copy / "model.edge", copy / "other.pub")


def test_a_bundle_replaced_after_the_check_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def checked_then_replaced(*arguments: Any, **options: Any) -> Any:
        found = verify(*arguments, **options)
        write_bundle(copy / "model.edge", model=b"other", spec=SPEC, precision="fp32", model_digest="ab" * 32)
        return found

    monkeypatch.setattr(signing, "verify", checked_then_replaced)
    with pytest.raises(BundleCorrupt) as caught:
        read_signed_bundle(copy / "model.edge", copy / "key.pub")
    assert str(caught.value) == REFUSED.format(copy / "model.edge")


def test_what_can_be_signed(copy: Path) -> None:
    (copy / "notes.txt").write_bytes(b"text")
    with pytest.raises(BundleError, match=r"notes\.txt: wants a bundle, or a plan with its notes\.txt\.json beside it"):
        sign(copy / "notes.txt", copy / "key.pem")
    (copy / "bad.edge").write_bytes((copy / "model.edge").read_bytes()[:-1])
    with pytest.raises(BundleCorrupt):
        sign(copy / "bad.edge", copy / "key.pem")
    for name in ("none", "."):
        with pytest.raises(BundleError):
            sign(copy / name, copy / "key.pem")
    assert not {name for name in names(copy) if name.endswith(".sig")} - {"model.edge.sig", "out.plan.sig"}


def test_keys_are_new_files_and_the_private_one_is_private(tmp_path: Path) -> None:
    assert make_key(tmp_path / "a" / "key.pem") == public_path(tmp_path / "a" / "key.pem") == tmp_path / "a" / "key.pub"
    assert names(tmp_path / "a") == ["key.pem", "key.pub"]
    if os.name == "posix":
        assert (tmp_path / "a" / "key.pem").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "a" / "key.pem").read_bytes()
    for name in ("key.pem", "key.key", "other.pub"):
        with pytest.raises(UsageError, match="is there already, and keys are not replaced"):
            make_key(tmp_path / "a" / name)
    assert (tmp_path / "a" / "key.pem").read_bytes() == before
    assert make_key(tmp_path / "b.pem").read_bytes() != (tmp_path / "a" / "key.pub").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_private_key_that_others_may_read_is_refused(copy: Path) -> None:
    (copy / "key.pem").chmod(0o640)
    with pytest.raises(InputError, match=r"others may read this private key \(mode 0640\); run: chmod 600 "):
        sign(copy / "out.plan", copy / "key.pem")


def pem(kind: str) -> tuple[bytes, bytes]:
    """A private key in PEM and its public half, of another sort than is wanted."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key: Any = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else ed25519.Ed25519PrivateKey.generate()
    lock = BestAvailableEncryption(b"secret") if kind == "locked" else NoEncryption()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock), public


def test_other_private_keys(copy: Path) -> None:
    cases = {
        "wants an ed25519 private key, found": pem("ec")[0],
        "wants an ed25519 private key as PEM without a password": pem("locked")[0],
        "as PEM without": pem("")[1],
        "without a password": b"",
        "no private key can be read there; make one: edge-retina sign FILE --key": b"x" * 20_000,
    }
    for message, data in cases.items():
        (copy / "key.pem").write_bytes(data)
        with pytest.raises(InputError, match=message):
            sign(copy / "out.plan", copy / "key.pem")
    with pytest.raises(InputError, match="no private key can be read there"):
        sign(copy / "out.plan", copy / "none.pem")


def test_other_public_keys(folder: Path) -> None:
    for public in (b"", b"x" * 20_000, folder / "none.pub", folder, pem("ec")[1], folder / "key.pem"):
        with pytest.raises(InputError, match="wants an ed25519 public key"):
            verify(folder / "out.plan", public, kind="plan")


def test_without_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for call in (
        lambda: sign(folder / "out.plan", folder / "key.pem"),
        lambda: verify(folder / "out.plan", folder / "key.pub", kind="plan"),
        lambda: make_key(folder / "new.pem"),
    ):
        with pytest.raises(
            MissingPackage, match=r"^signatures need cryptography; run: pip install 'edge-retina\[sign\]'$"
        ):
            call()


def test_reading_plans_does_not_load_it() -> None:
    code = "import sys, edge_retina.plans, edge_retina.signing; print('cryptography' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
