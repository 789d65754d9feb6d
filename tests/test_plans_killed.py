"""The plan cache when processes die, by real processes and SIGKILL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from plan_cache import KEY, finish, memory_folder, names, python

from edge_retina.plans import building, clear_plans, read_plan, write_plan

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are of POSIX")
__all__ = ["memory_folder"]  # a fixture
KILLS = 52
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def cache(memory_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(memory_folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # the process that forks has one thread
    return memory_folder / "plans"


def test_killed_anywhere_the_old_state_is_usable() -> None:
    command = [sys.executable, str(HERE / "plan_killer.py"), "5", str(KILLS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    seen = json.loads(result.stdout)
    assert seen["kills"] == KILLS
    # Of the 26 writers that stopped at a step, 18 had a draft then (4 or 5 at each step, "draft" to "synced") and 4
    # had just renamed theirs; all 26 held the lock.
    assert seen["drafts"] >= 18
    assert seen["locks"] >= 26
    assert seen["new plans"] >= 4


HOLDER = """
import sys, time
from plan_cache import KEY
from edge_retina.plans import building
with building(KEY):
    print("building", flush=True)
    time.sleep(600)
"""
WAITER = """
from plan_cache import KEY
from edge_retina.plans import building
with building(KEY, on_note=lambda note: print("waiting", flush=True)):
    print("mine", flush=True)
"""


def test_who_waits_for_one_that_is_killed_goes_on(cache: Path) -> None:
    holder = python(HOLDER)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "building\n"
    waiter = python(WAITER)
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == "waiting\n"
    holder.kill()
    assert finish(waiter) == ["mine\n"]
    holder.communicate()
    assert names(cache) == []


def test_a_waiter_can_be_interrupted(cache: Path) -> None:
    with building(KEY):
        waiter = python(WAITER)
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "waiting\n"
        waiter.send_signal(2)
        _, stderr = waiter.communicate(timeout=300)
    assert "KeyboardInterrupt" in stderr
    assert waiter.returncode != 0
    assert names(cache) == []


def test_clear_leaves_alone_what_others_are_at(cache: Path) -> None:
    holder = python(HOLDER)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "building\n"
    (cache / ".dead.tmp").write_bytes(b"half")
    assert clear_plans(everything=True).others == 1
    assert names(cache) == [f"{KEY.digest}.lock"]
    holder.kill()
    holder.communicate()
    assert clear_plans(everything=True).others == 1
    assert names(cache) == []


def test_an_error_in_the_building_frees_the_lock(cache: Path) -> None:
    with pytest.raises(ZeroDivisionError), building(KEY):
        raise ZeroDivisionError
    with building(KEY, on_note=pytest.fail):
        write_plan(KEY, b"plan", host_code=False, about={})
    assert read_plan(KEY) is not None
    assert names(cache) == [f"{KEY.digest}.plan"]
