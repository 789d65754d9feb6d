from __future__ import annotations

import hashlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cache import ABOUT, KEY

from edge_retina.planfile import PLAN, TIMING, Facts, Unusable, front, parse_facts, parse_key, read_content, to_json

NAMED = asdict(KEY)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planfile") / "x.plan"


def put(path: Path, data: bytes) -> Path:
    path.unlink(missing_ok=True)  # some file systems wait for the disk where a file is cut and written anew
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def refused(path: Path, data: bytes | None = None) -> str:
    if data is not None:
        put(path, data)
    with pytest.raises(Unusable) as caught:
        read_content(path, PLAN)
    return str(caught.value)


def good(content: bytes = b"plan") -> bytes:
    return front(PLAN, to_json(NAMED, content, False, ABOUT)) + content


def with_header(header: object, content: bytes = b"plan") -> bytes:
    """A file whose header has its sha256, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return front(PLAN, text) + content


def facts(**changes: Any) -> dict[str, Any]:
    return json.loads(to_json(NAMED, b"plan", False, ABOUT)) | changes


def test_an_empty_file_is_no_plan(path: Path) -> None:
    assert refused(path, b"") == "it is empty"


def test_no_file_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_content(tmp_path / "none.plan", PLAN)


def test_the_file_byte_by_byte(path: Path) -> None:
    header = (
        b'{"about":{},"host_code":true,"key":{"a":"b"},'
        b'"sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":3}'
    )
    assert to_json({"a": "b"}, b"abc", True, {}) == header
    whole = b"EDGEPLAN\1\0\0\0" + bytes([len(header), 0, 0, 0]) + hashlib.sha256(header).digest() + header + b"abc"
    assert front(PLAN, header) + b"abc" == whole
    found, content, status = read_content(put(path, whole), PLAN)
    assert (found.key, found.size, found.host_code, found.about, content) == ({"a": "b"}, 3, True, {}, b"abc")
    assert (status.st_size, found.used) == (len(whole), status.st_mtime_ns)


def test_header_only_reads_no_content(path: Path) -> None:
    damaged = good()[:-1] + b"!"
    found, content, _ = read_content(put(path, damaged), PLAN, header_only=True)
    assert (found.key, content) == (NAMED, b"")
    assert refused(path) == "it is damaged: the content does not have its sha256"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"EDGEPLAN", "it is truncated"),
        (b"PK\3\4" + bytes(100), "not a file of this cache"),
        (front(TIMING, to_json(NAMED, b"plan", False, {})) + b"plan", "not a file of this cache"),
        (b"EDGEPLAN\2\0\0\0" + good()[12:], "it is of format 2, this edge-retina reads 1"),
        (good()[:60], "it is truncated or damaged: the header does not have its sha256"),
        (good()[:-1], "it is truncated or added to: wants 4 bytes after its header, found 3"),
        (good() + b"!", "it is truncated or added to: wants 4 bytes after its header, found 5"),
    ],
)
def test_why_a_file_is_not_used(path: Path, data: bytes, why: str) -> None:
    assert refused(path, data) == why


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"key": NaN}',
        b'{"size": ' + b"9" * 10_000 + b"}",
        [],
        {},
        facts(more=1),
        facts(used=1),
        facts(key=[]),
        facts(key={"bundle": 1}),
        facts(sha256=None),
        facts(size="4"),
        facts(size=True),
        facts(size=4.0),
        facts(host_code=0),
        facts(about=[]),
    ],
)
def test_facts_of_another_kind(path: Path, header: object) -> None:
    assert refused(path, with_header(header)).startswith("its facts are not those of format 1: ")


@pytest.mark.parametrize("size", [-1, 0, 3, 5, 1 << 31, 1 << 62, 10**30])
def test_a_false_size_of_the_content(path: Path, size: int) -> None:
    assert refused(path, with_header(facts(size=size))).startswith("it is truncated or added to")


@pytest.mark.parametrize("size", [0, 1, 1 << 22, (1 << 32) - 1])
def test_a_false_size_of_the_header_takes_no_memory(path: Path, size: int) -> None:
    whole = good()
    put(path, whole[:12] + struct.pack("<I", size) + whole[16:])
    tracemalloc.start()
    try:
        assert refused(path) == "it is truncated or damaged: the header does not have its sha256"
        assert tracemalloc.get_traced_memory()[1] < (1 << 23) + (1 << 20)
    finally:
        tracemalloc.stop()


def test_a_file_that_is_long_on_paper_only(path: Path) -> None:
    length = (1 << 32) + 1
    header = json.dumps(facts(size=length)).encode()
    put(path, front(PLAN, header))
    os.truncate(path, 48 + len(header) + length)  # sparse: it takes no room
    tracemalloc.start()
    try:
        assert refused(path).startswith("wants at most 4294967296 bytes after its header")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_refused(path: Path, garbage: bytes, magic: bool) -> None:
    assert refused(path, (PLAN + b"\1\0\0\0" if magic else b"") + garbage)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=10,
)
FITS: dict[str, Callable[[Any], bool]] = {
    "key": lambda v: isinstance(v, dict) and all(isinstance(text, str) for text in v.values()),
    "host_code": lambda v: isinstance(v, bool),
    "about": lambda v: isinstance(v, dict),
}


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["key", "sha256", "size", "host_code", "about"]), JSON)
def test_any_json_in_front_is_facts_or_refused(path: Path, name: str, value: object) -> None:
    put(path, with_header(facts(**{name: value})))
    if FITS.get(name, lambda _: False)(value):
        assert getattr(read_content(path, PLAN)[0], name) == value
    else:
        assert refused(path).isprintable()


def test_a_refusal_is_one_printable_line(path: Path) -> None:
    assert refused(path, with_header(facts(**{"\x1b[31m\n": 1}))).isprintable()
    with pytest.raises(Unusable) as caught:
        parse_key(Facts(NAMED | {"gpu": "\x1b[31m"}, "", 0, False, {}))
    assert str(caught.value).isprintable()
    with pytest.raises(Unusable, match="its key is not that of a plan"):
        parse_key(Facts({"gpu": "Orin"}, "", 0, False, {}))


def test_a_key_goes_through_a_header() -> None:
    assert parse_key(parse_facts(to_json(NAMED, b"", False, {}))) == KEY


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are of POSIX")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_what_others_may_write_to_is_refused(path: Path, mode: int) -> None:
    put(path, good()).chmod(mode)
    assert refused(path) == f"others may write to it (mode {mode:04o}), and a plan is executable"


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are of POSIX")
def test_what_others_may_read_is_not(path: Path) -> None:
    put(path, good()).chmod(0o644)
    assert read_content(path, PLAN)[1] == b"plan"


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are of POSIX")
def test_anothers_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, good())
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    wanted = f"it belongs to user {owner}, not to this one ({owner + 1}), and a plan is executable"
    assert refused(path) == wanted


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are of POSIX")
def test_links_folders_and_pipes_are_refused(path: Path, tmp_path: Path) -> None:
    put(path, good())
    (tmp_path / "link").symlink_to(path)
    assert refused(tmp_path / "link").startswith("it cannot be read: ")
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refused(tmp_path / "pipe") == "it is no plain file"  # and nobody waits for a writer
    assert refused(tmp_path) == "it is no plain file"


def test_no_descriptor_is_left_open(path: Path, tmp_path: Path) -> None:
    put(path, good())
    before = os.dup(0)
    os.close(before)
    for _ in range(20):
        read_content(path, PLAN)
        refused(tmp_path)
    after = os.dup(0)
    os.close(after)
    assert after == before
