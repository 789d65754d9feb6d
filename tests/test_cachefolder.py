from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from plan_cache import names

from edge_retina import cachefolder
from edge_retina.cachefolder import files, folder, hold, own_folder, remove, shrink, sweep, write_whole
from edge_retina.errors import OutputError, UsageError

posix = pytest.mark.skipif(os.name != "posix", reason="owners, modes and flock are of POSIX")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path))
    return tmp_path / "plans"


def test_no_folder(cache: Path) -> None:
    assert files(".plan") == []
    assert sweep(cache) == 0
    shrink(".plan", 0, cache / "a.plan")
    assert remove(cache / "a.plan") == 0
    assert not cache.exists()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    for name in ("EDGE_RETINA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(
        UsageError, match=r"^this user has no home folder; set EDGE_RETINA_CACHE to a folder for plans$"
    ):
        folder()


def test_nothing_and_something_are_written_whole(cache: Path) -> None:
    write_whole(cache / "a.plan", [])
    write_whole(cache / "b.plan", [b"ab", b"", b"c"])
    write_whole(cache / "a.plan", [b"x"])
    assert {path.name: path.read_bytes() for path in files(".plan")} == {"a.plan": b"x", "b.plan": b"abc"}
    assert names(cache) == ["a.plan", "b.plan"]


@posix
def test_the_folder_is_its_users_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_folder(cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    own_folder(cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o755)  # read by others, at the user's own wish
    own_folder(cache)
    assert cache.stat().st_mode & 0o777 == 0o755
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    wanted = (
        rf"plans: it belongs to user {owner}, not to this one \({owner + 1}\), .* set EDGE_RETINA_CACHE to a folder"
    )
    with pytest.raises(OutputError, match=wanted):
        own_folder(cache)
    with pytest.raises(OutputError, match=wanted):
        write_whole(cache / "a.plan", [b"a"])
    assert names(cache) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_state(cache: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(cache / "a.plan", [b"old"])
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(
            OutputError, match=r"^cannot write .*a\.plan: No space left on device; check .* disk space$"
        ):
            write_whole(cache / "a.plan", [b"new"])
    assert names(cache) == ["a.plan"]
    assert (cache / "a.plan").read_bytes() == b"old"


def test_ctrl_c_while_writing_leaves_the_old_state(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    write_whole(cache / "a.plan", [b"old"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_whole(cache / "a.plan", [b"new"])
    assert names(cache) == ["a.plan"]
    assert (cache / "a.plan").read_bytes() == b"old"


@posix
def test_a_link_in_a_files_place_is_replaced_not_followed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    own_folder(cache)
    (cache / "a.plan").symlink_to(tmp_path / "precious")
    write_whole(cache / "a.plan", [b"plan"])
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (cache / "a.plan").is_symlink()
    (cache / "a.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"a\.lock"), hold(cache / "a.lock", on_wait=pytest.fail):
        raise AssertionError


@posix
def test_sweep_takes_what_nobody_has_locked(cache: Path) -> None:
    own_folder(cache)
    for name in (".dead.tmp", "dead.lock", "kept.tmp", ".kept", "kept.plan"):
        (cache / name).write_bytes(b"")
    draft, descriptor = cachefolder._new_draft(cache / "alive.plan")
    try:
        with hold(cache / "alive.lock", on_wait=pytest.fail):
            assert sweep(cache) == 2
            assert names(cache) == sorted([".kept", draft.name, "alive.lock", "kept.plan", "kept.tmp"])
    finally:
        os.close(descriptor)
    assert sweep(cache) == 1
    assert names(cache) == [".kept", "kept.plan", "kept.tmp"]


def test_sweep_by_age_where_there_are_no_locks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachefolder, "_lock", lambda *_, **__: None)
    own_folder(cache)
    for name, hours in ((".young.tmp", 23), (".old.tmp", 25)):
        (cache / name).write_bytes(b"half")
        os.utime(cache / name, (time.time() - hours * 3600,) * 2)
    write_whole(cache / "a.plan", [b"plan"])
    with hold(cache / "a.lock", on_wait=pytest.fail):
        assert names(cache) == [".young.tmp", "a.lock", "a.plan"]
    assert names(cache) == [".young.tmp", "a.plan"]


def test_a_draft_swept_at_birth_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, born = cachefolder._lock, []

    def swept_once(descriptor: int, *, wait: bool = False) -> bool | None:
        if not born:
            born.extend(cache.glob(".*.tmp"))
            born[0].unlink()
        return lock(descriptor, wait=wait)

    own_folder(cache)
    monkeypatch.setattr(cachefolder, "_lock", swept_once)
    write_whole(cache / "a.plan", [b"plan"])
    assert len(born) == 1
    assert names(cache) == ["a.plan"]


@posix
def test_a_lock_removed_while_it_is_waited_for_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, waits = cachefolder._lock, []

    def released_meanwhile(descriptor: int, *, wait: bool = False) -> bool | None:
        if not waits:  # the holder ends, removes its file, and another takes the name
            (cache / "a.lock").unlink()
            (cache / "a.lock").write_bytes(b"")
            waits.append(descriptor)
        return lock(descriptor, wait=wait)

    own_folder(cache)
    monkeypatch.setattr(cachefolder, "_lock", released_meanwhile)
    with hold(cache / "a.lock", on_wait=pytest.fail), open(cache / "a.lock", "rb") as file:
        assert lock(file.fileno()) is False
    assert names(cache) == []


def test_shrink_goes_by_last_use(cache: Path) -> None:
    own_folder(cache)
    for name, size, used in (("a.plan", 10, 300), ("b.plan", 20, 100), ("c.plan", 30, 200), ("d.timing", 99, 1)):
        (cache / name).write_bytes(bytes(size))
        os.utime(cache / name, (used, used))
    shrink(".plan", 60, keep=cache / "a.plan")
    assert len(names(cache)) == 4
    shrink(".plan", 59, keep=cache / "a.plan")
    assert names(cache) == ["a.plan", "c.plan", "d.timing"]
    shrink(".plan", 39, keep=cache / "c.plan")  # the oldest is the one to keep
    assert names(cache) == ["c.plan", "d.timing"]
    shrink(".plan", 0, keep=cache / "c.plan")
    assert names(cache) == ["c.plan", "d.timing"]
    assert remove(cache / "c.plan") == 30
