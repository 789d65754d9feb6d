from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_cache import ABOUT, KEY, names

from edge_retina.errors import BundleCorrupt, BundleError, InputError, OutputError, UsageError
from edge_retina.planfile import Plan
from edge_retina.plans import read_bare, write_bare
from edge_retina.signing import make_key, sign

REFUSED = r"^{}: not signed by the trusted key, or changed since; get file and \.sig again from who signed them"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.plan"


def plan(path: Path, data: bytes = b"plan", **about: Any) -> Plan:
    return Plan(KEY, data, False, about, path)


def test_no_file(path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"out\.plan: no such file; .*: edge-retina build MODEL\.onnx --plan OUT\.plan$"
    ):
        read_bare(path)


def test_an_empty_plan_goes_through_a_file(path: Path) -> None:
    write_bare(path, plan(path, b""))
    assert read_bare(path) == plan(path, b"")


def test_the_plan_is_bare_and_the_facts_beside_it(path: Path) -> None:
    written = Plan(KEY, b"\0plan", True, ABOUT, path)
    assert write_bare(path, written) == path.with_name("out.plan.json")
    assert path.read_bytes() == b"\0plan"
    facts = json.loads(path.with_name("out.plan.json").read_text())
    assert facts.keys() == {"key", "sha256", "size", "host_code", "about"}
    assert (facts["key"]["gpu"], facts["size"], facts["host_code"], facts["about"]) == ("Orin", 5, True, ABOUT)
    assert read_bare(path, bundle=KEY.bundle) == written
    assert names(path.parent) == ["out.plan", "out.plan.json"]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans(), st.text(max_size=20))
def test_what_is_written_is_read(path: Path, data: bytes, host_code: bool, text: str) -> None:
    written = Plan(KEY, data, host_code, {"text": text}, path)
    write_bare(path, written)
    assert read_bare(path) == written


def test_a_missing_half(path: Path) -> None:
    write_bare(path, plan(path))
    path.with_name("out.plan.json").unlink()
    with pytest.raises(BundleError, match=r"out\.plan\.json: no such file; a plan is read with the \.json"):
        read_bare(path)


def test_killed_between_the_two_files(path: Path) -> None:
    write_bare(path, plan(path, b"old"))
    path.write_bytes(b"new")
    with pytest.raises(BundleCorrupt, match=r"out\.plan: truncated, changed or not what out\.plan\.json describes"):
        read_bare(path)


def test_of_another_bundle(path: Path) -> None:
    write_bare(path, plan(path))
    with pytest.raises(
        BundleError, match=r"wants a plan of bundle cdcdcdcdcdcd, found one of abababababab; compile it"
    ):
        read_bare(path, bundle="cd" * 32)


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"key": {}}'])
def test_garbage_beside_a_plan(path: Path, text: bytes) -> None:
    write_bare(path, plan(path))
    path.with_name("out.plan.json").write_bytes(text)
    with pytest.raises(BundleCorrupt, match=r"out\.plan\.json: its facts are not those of format 1"):
        read_bare(path)


def test_facts_of_a_plan_without_a_plans_key(path: Path) -> None:
    beside = write_bare(path, plan(path))
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"key": {"gpu": "Orin"}}))
    with pytest.raises(BundleCorrupt, match="its key is not that of a plan"):
        read_bare(path)


def test_long_facts_are_not_read(path: Path) -> None:
    beside = write_bare(path, plan(path))
    os.truncate(beside, 1 << 40)
    with pytest.raises(BundleError, match="wants at most 4194304 bytes, found 1099511627776"):
        read_bare(path)


@pytest.mark.skipif(os.name != "posix", reason="modes and pipes are of POSIX")
def test_what_anybody_may_write_to_is_refused(path: Path) -> None:
    beside = write_bare(path, plan(path))
    for file in (path, beside):
        file.chmod(0o646)
        with pytest.raises(BundleError, match=rf"{file.name}: anybody may write to it, .* run: chmod o-w "):
            read_bare(path)
        file.chmod(0o664)  # the group of a user is often that user alone
    assert read_bare(path) == plan(path)
    public = make_key(path.with_name("key.pem"))
    sign(path, path.with_name("key.pem"))
    path.chmod(0o666)
    assert read_bare(path, trusted=public) == plan(path)  # the signature says that nobody did


@pytest.mark.skipif(os.name != "posix", reason="modes and pipes are of POSIX")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(BundleError, match="wants a file, found a folder or a device"):
        read_bare(path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_bare(tmp_path / "file" / "out.plan", plan(tmp_path))
    with pytest.raises(UsageError, match="wants plain JSON"):
        write_bare(tmp_path / "out.plan", plan(tmp_path, odd=float("inf")))
    assert names(tmp_path) == ["file"]


def test_a_signed_plan_is_read_with_its_key(path: Path) -> None:
    written = Plan(KEY, b"plan", True, ABOUT, path)
    write_bare(path, written)
    public = make_key(path.with_name("key.pem"))
    assert sign(path, path.with_name("key.pem")).name == "out.plan.sig"
    assert read_bare(path, bundle=KEY.bundle, trusted=public) == written
    assert read_bare(path, trusted=public.read_bytes()) == written


@pytest.mark.parametrize("name", ["out.plan", "out.plan.json", "out.plan.sig"])
def test_a_change_in_any_of_the_three_is_refused(path: Path, name: str) -> None:
    write_bare(path, plan(path))
    public = make_key(path.with_name("key.pem"))
    sign(path, path.with_name("key.pem"))
    file = path.with_name(name)
    file.write_bytes(file.read_bytes().replace(b"p", b"q") + b" ")
    with pytest.raises(BundleCorrupt, match=REFUSED.format(path)):
        read_bare(path, trusted=public)


def test_an_unsigned_plan_is_refused_where_a_signature_is_wanted(path: Path) -> None:
    write_bare(path, plan(path))
    public = make_key(path.with_name("key.pem"))
    with pytest.raises(BundleCorrupt, match=REFUSED.format(path)):
        read_bare(path, trusted=public)
    with pytest.raises(InputError, match="wants an ed25519 public key"):
        read_bare(path, trusted=path.with_name("none.pub"))


def test_the_signature_is_checked_before_anything_is_parsed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_retina import bareplan, planfile

    write_bare(path, plan(path))
    public = make_key(path.with_name("key.pem"))

    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("parsed before the signature was checked")

    monkeypatch.setattr(bareplan, "parse_facts", parsed)
    monkeypatch.setattr(planfile.json, "loads", parsed)
    with pytest.raises(BundleCorrupt, match=REFUSED.format(path)):
        read_bare(path, trusted=public)
