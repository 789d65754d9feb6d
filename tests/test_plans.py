from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache as cache_results
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cache import ABOUT, KEY, OTHER, finish, names, python

from edge_retina.errors import OutputError, UsageError
from edge_retina.plans import (
    Cleared,
    Plan,
    PlanKey,
    building,
    cache_bytes,
    clear_plans,
    folder,
    list_plans,
    read_plan,
    read_timing_cache,
    write_plan,
    write_timing_cache,
)

MACHINE = ("Orin", "8.7", "10.3.0", "12060")
LINE = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=40).filter(str.isprintable)
KEYS = st.builds(PlanKey, *[LINE] * len(fields(PlanKey)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | LINE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LINE, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGE_RETINA_CACHE_BYTES", raising=False)
    return tmp_path / "cache" / "plans"


def keep(key: PlanKey = KEY, data: bytes = b"plan", used: float | None = None, **about: Any) -> Plan:
    plan = write_plan(key, data, host_code=False, about=about)
    if used is not None:
        os.utime(plan.path, (used, used))
    return plan


def read(key: PlanKey = KEY) -> tuple[Plan | None, list[str]]:
    notes: list[str] = []
    return read_plan(key, on_note=notes.append), notes


def test_no_folder_is_an_empty_cache(cache: Path) -> None:
    assert read() == (None, [])
    assert list_plans() == []
    assert read_timing_cache(*MACHINE) is None
    assert clear_plans(everything=True) == Cleared(0, 0, 0)
    assert not cache.exists()


def test_a_plan_is_read_as_it_was_written(cache: Path) -> None:
    plan = write_plan(KEY, b"\0plan", host_code=True, about=ABOUT)
    assert (plan.key, plan.data, plan.host_code, plan.about) == (KEY, b"\0plan", True, ABOUT)
    assert plan.path == cache / f"{KEY.digest}.plan"
    assert read() == (plan, [])
    assert names(cache) == [plan.path.name]


def test_an_empty_plan_is_one_too() -> None:
    plan = keep(data=b"")
    assert read() == (plan, [])


def test_the_folder_and_the_files_are_their_users_alone(cache: Path) -> None:
    plan = keep()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert plan.path.stat().st_mode & 0o777 == 0o600


def test_a_second_plan_of_a_key_replaces_the_first() -> None:
    keep(data=b"old")
    keep(data=b"new")
    plan, _ = read()
    assert plan is not None
    assert plan.data == b"new"
    assert len(list_plans()) == 1


def test_keys_that_differ_anywhere_are_others() -> None:
    digests = {replace(KEY, **{field.name: "x"}).digest for field in fields(KEY)} | {KEY.digest}
    assert len(digests) == len(fields(KEY)) + 1
    assert replace(KEY, gpu="ab", driver="c").digest != replace(KEY, gpu="a", driver="bc").digest


def test_the_digest_of_a_key_stays() -> None:
    assert PlanKey(*"abcdefghi").digest == "8851562fc14f4ba0d23fba7e50868d24f502216b78d693e76bb4af7cc9b1a25e"


@pytest.mark.parametrize("value", ["two\nlines", "\x1b[31m", "\ud800", 8.7, None])
def test_a_key_is_lines_of_text(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^plan key: gpu wants one line of text, found "):
        replace(KEY, gpu=value)


@pytest.mark.parametrize("about", [{"a": float("nan")}, {"a": b""}, {"a": 1j}, {"a": {1: 2, "b": 3}}])
def test_about_is_plain_json(cache: Path, about: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^about a plan: wants plain JSON"):
        keep(**about)
    assert not cache.exists()


def test_endless_facts_are_refused(cache: Path) -> None:
    about: dict[str, Any] = {}
    about["self"] = about
    with pytest.raises(UsageError, match=r"^about a plan: wants plain JSON"):
        write_plan(KEY, b"", host_code=False, about=about)
    with pytest.raises(
        UsageError, match=r"^a plan wants at most 4294967296 bytes with a header of 4194304, found 4 and 5"
    ):
        keep(text="x" * 5_000_000)
    assert not cache.exists()


@settings(deadline=None, max_examples=30)
@given(KEYS, st.binary(max_size=300), st.booleans(), st.dictionaries(LINE, JSON, max_size=4))
def test_what_is_written_is_read(key: PlanKey, data: bytes, host_code: bool, about: dict[str, Any]) -> None:
    plan = write_plan(key, data, host_code=host_code, about=about)
    assert read(key) == (plan, [])
    assert plan.about == about
    assert [facts.key for facts in list_plans() if facts.path == plan.path] == [key]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """A folder for examples of hypothesis, which do not get one each."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@cache_results
def whole(_: Path) -> tuple[Path, bytes]:
    """A good file of the cache, written once: fsync takes its time."""
    plan = keep(data=bytes(range(200)), **ABOUT)
    return plan.path, plan.path.read_bytes()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_changed_byte_goes_unseen(elsewhere: Path, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_RETINA_CACHE", str(elsewhere))
        path, good = whole(elsewhere)
        at = data.draw(st.integers(0, len(good) - 1))
        path.write_bytes(good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :])
        path.chmod(0o600)
        found, notes = read()
        assert found is None
        assert len(notes) == 1
        assert notes[0].endswith("; not used, the plan is compiled anew")
        assert not path.exists()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_missing_or_added_byte_goes_unseen(elsewhere: Path, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_RETINA_CACHE", str(elsewhere))
        path, good = whole(elsewhere)
        shorter = st.integers(0, len(good) - 1).map(lambda size: good[:size])
        longer = st.binary(min_size=1, max_size=50).map(lambda more: good + more)
        path.write_bytes(data.draw(shorter | longer))
        path.chmod(0o600)
        found, notes = read()
        assert found is None
        assert len(notes) == 1
        assert not path.exists()


def test_a_plan_under_anothers_name_is_not_used(cache: Path) -> None:
    plan = keep()
    plan.path.rename(cache / f"{OTHER.digest}.plan")
    found, notes = read(OTHER)
    assert found is None
    assert "it is of another bundle, GPU or TensorRT than its name says" in notes[0]
    assert names(cache) == []


def test_a_folder_in_a_plans_place_is_no_plan(cache: Path) -> None:
    (cache / f"{KEY.digest}.plan").mkdir(parents=True)
    found, notes = read()
    assert found is None
    assert "it is no plain file" in notes[0]
    with pytest.raises(OutputError, match="cannot write"):
        keep()
    assert names(cache) == [f"{KEY.digest}.plan"]


def test_what_is_replaced_while_it_is_refused_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_retina import plans

    good = keep().path.read_bytes()
    path = cache / f"{KEY.digest}.plan"
    path.write_bytes(b"damaged")
    read_content = plans.read_content

    def replaced_meanwhile(*arguments: Any) -> Any:
        try:
            return read_content(*arguments)
        finally:
            (cache / "new").write_bytes(good)
            (cache / "new").replace(path)

    with monkeypatch.context() as patch:
        patch.setattr(plans, "read_content", replaced_meanwhile)
        assert read()[0] is None
    assert path.read_bytes() == good


def test_what_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [replace(KEY, driver=str(number)) for number in range(4)]
    size = keep(keys[0], bytes(1000), used=1000).path.stat().st_size
    keep(keys[1], bytes(1000), used=2000)
    keep(keys[2], bytes(1000), used=3000)
    read(keys[0])  # now the one used last
    monkeypatch.setenv("EDGE_RETINA_CACHE_BYTES", str(3 * size))
    keep(keys[3], bytes(1000))
    assert [facts.key for facts in list_plans()] == [keys[3], keys[0], keys[2]]


def test_the_one_just_written_stays_whatever_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RETINA_CACHE_BYTES", "0")
    keep(OTHER)
    keep(KEY)
    assert [facts.key for facts in list_plans()] == [KEY]


def test_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_bytes() == 8 * 1024**3
    monkeypatch.setenv("EDGE_RETINA_CACHE_BYTES", "123")
    assert cache_bytes() == 123
    for text in ["-1", "8G", "1.5", "9" * 30, "\u0661"]:
        monkeypatch.setenv("EDGE_RETINA_CACHE_BYTES", text)
        with pytest.raises(UsageError, match=r"^EDGE_RETINA_CACHE_BYTES wants a whole number of bytes, found"):
            cache_bytes()
        with pytest.raises(UsageError, match="EDGE_RETINA_CACHE_BYTES"), building(KEY):  # before minutes of work
            raise AssertionError


def test_list_tells_all_but_the_data() -> None:
    keep(OTHER, b"abc", used=1_000_000_000.5)
    plan = keep(KEY, b"abcdef", used=1_000_000_001, **ABOUT)
    first, second = list_plans()
    assert (first.key, first.about, first.host_code, first.path) == (KEY, ABOUT, False, plan.path)
    assert (first.size, first.used) == (plan.path.stat().st_size, 1_000_000_001)
    assert (second.key, second.used) == (OTHER, 1_000_000_000.5)


def test_list_says_what_it_leaves_out(cache: Path) -> None:
    plan = keep()
    (cache / "bad.plan").write_bytes(b"EDGEPLAN")
    (cache / "bad.plan").chmod(0o600)
    (cache / "unrelated").write_bytes(b"")
    notes: list[str] = []
    assert [facts.path for facts in list_plans(on_note=notes.append)] == [plan.path]
    assert notes == [f"{cache / 'bad.plan'}: it is truncated; remove it: edge-retina plans clear --all"]


def test_clear_by_age_and_bundle() -> None:
    day, now = 24 * 3600, 1_000_000_000
    keys = [replace(KEY, bundle=bundle, driver=str(n)) for n, bundle in enumerate(["ab" * 32, "ab" * 32, "cd" * 32])]
    sizes = [keep(key, used=now - age * day).path.stat().st_size for key, age in zip(keys, (1, 9, 9), strict=True)]
    assert clear_plans(older_than=9.5, now=now) == Cleared(0, 0, 0)
    assert clear_plans(older_than=8, bundle="abab", now=now) == Cleared(1, 0, sizes[1])
    assert {facts.key for facts in list_plans()} == {keys[0], keys[2]}
    assert clear_plans(bundle="cd" * 32) == Cleared(1, 0, sizes[2])
    assert clear_plans(older_than=0) == Cleared(1, 0, sizes[0])
    assert list_plans() == []


def test_clear_everything(cache: Path) -> None:
    sizes = keep().path.stat().st_size + keep(OTHER).path.stat().st_size
    write_timing_cache(*MACHINE, b"timings")
    (cache / "bad.plan").write_bytes(b"bad")
    (cache / ".half.tmp").write_bytes(b"ha")
    (cache / "notes.txt").write_bytes(b"of somebody")
    cleared = clear_plans(everything=True)
    assert (cleared.plans, cleared.others) == (2, 3)
    assert cleared.bytes > sizes
    assert names(cache) == ["notes.txt"]


@pytest.mark.parametrize(
    "wanted", [{}, {"everything": True, "older_than": 1}, {"everything": True, "bundle": "ab" * 9}]
)
def test_clear_wants_to_know_what(wanted: dict[str, Any]) -> None:
    keep()
    with pytest.raises(UsageError, match=r"^plans clear wants --older-than DAYS, --bundle X, or --all alone$"):
        clear_plans(**wanted)
    for bundle in ["", "abc", "model.edge", "AB" * 8, "a" * 65]:
        with pytest.raises(UsageError, match=r"^a bundle wants its digest or 4 to 64 digits"):
            clear_plans(bundle=bundle)
    assert len(list_plans()) == 1


def test_timing_caches(cache: Path) -> None:
    assert write_timing_cache(*MACHINE, b"first")
    assert write_timing_cache(*MACHINE, b"timings")
    assert write_timing_cache(*MACHINE[:3], "12080", b"of another driver")
    assert read_timing_cache(*MACHINE) == b"timings"
    assert len(names(cache)) == 2
    assert list_plans() == []


def test_a_damaged_timing_cache_is_none(cache: Path) -> None:
    write_timing_cache(*MACHINE, b"timings")
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"S")
    assert read_timing_cache(*MACHINE) is None
    assert names(cache) == []


def test_a_timing_cache_that_cannot_be_kept_costs_time_only(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"a file in the way")
    assert not write_timing_cache(*MACHINE, b"timings")
    assert read_timing_cache(*MACHINE) is None
    with pytest.raises(OutputError, match=r"^cannot write .*plans"):
        keep()
    with pytest.raises(OutputError, match=r"^cannot write .*plans"), building(KEY):
        raise AssertionError


READER = """
import sys
from plan_cache import KEY
from edge_retina.plans import read_plan
notes, seen = [], set()
print("ready", flush=True)
sys.stdin.readline()
for _ in range(25):
    plan = read_plan(KEY, on_note=notes.append)
    assert len(plan.data) == 1_000_000 and len(set(plan.data)) == 1, "torn"
    assert plan.about == {"writer": plan.data[0]}
    seen.add(plan.data[0])
assert notes == []
print(len(seen))
"""
WRITER = """
import sys
from plan_cache import KEY
from edge_retina.plans import write_plan
number = int(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    write_plan(KEY, bytes([number]) * 1_000_000, host_code=False, about={"writer": number})
"""


def test_readers_and_writers_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    keep(data=bytes(1_000_000), writer=0)
    processes = [python(WRITER, 1), python(WRITER, 2), python(READER), python(READER)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    finish(*processes)
    assert names(cache) == [f"{KEY.digest}.plan"]


BUILDER = """
import sys, time
from plan_cache import KEY
from edge_retina.plans import building, read_plan, write_plan
notes = []
print("ready", flush=True)
sys.stdin.readline()
with building(KEY, on_note=notes.append):
    built = read_plan(KEY) is None
    if built:
        time.sleep(0.3)
        write_plan(KEY, b"plan", host_code=False, about={})
assert read_plan(KEY).data == b"plan"
print(built, notes)
"""


def test_of_many_processes_one_compiles(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    processes = [python(BUILDER) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    # One that comes when the plan is there already, on a busy machine, has nobody to wait for.
    waited = "False ['another process compiles the plan for Orin: waiting for it']\n"
    told = finish(*processes)
    assert told.count("True []\n") == 1
    assert set(told) <= {"True []\n", waited, "False []\n"}
    assert names(cache) == [f"{KEY.digest}.plan"]


def test_different_keys_do_not_wait_for_each_other() -> None:
    with building(KEY), building(OTHER, on_note=pytest.fail):
        assert list_plans() == []


def test_the_folder_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    monkeypatch.setenv("EDGE_RETINA_CACHE", "here")
    assert folder() == tmp_path / "here" / "plans"
    monkeypatch.setenv("EDGE_RETINA_CACHE", "")
    assert folder() == Path("/var/x/edge-retina/plans")
    for ignored in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert folder() == Path("/home/u/.cache/edge-retina/plans")
