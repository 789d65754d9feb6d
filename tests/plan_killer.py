"""Kills writers of the plan cache and sees what is left: one process that forks, kills with SIGKILL and looks.

    python plan_killer.py SEED ROUNDS

In odd rounds the writer runs freely and is killed at a random time; in even ones it stops at a chosen step and is
killed there. Prints what it saw as JSON; an assertion ends it with code 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from plan_cache import KEY, OTHER

from edge_retina import cachefolder, plans

# More than any buffer, so that a kill finds half of it written.
MEGABYTES = 3
STEPS = ("compiling", "draft", "half", "written", "synced", "renamed")


def content(number: int) -> bytes:
    """A plan that says whether it is whole: nothing but its number."""
    return number.to_bytes(4, "little") * (MEGABYTES << 18)


def number_of(plan: plans.Plan | None) -> int:
    """The number of a plan. No plan, and one that is not whole, ends the process."""
    assert plan is not None, "no plan"
    number = int.from_bytes(plan.data[:4], "little")
    assert plan.data == content(number), "half a plan"
    assert plan.about == {"number": number}, "facts of another plan"
    return number


def write(number: int, key: plans.PlanKey = KEY) -> None:
    plans.write_plan(key, content(number), host_code=False, about={"number": number})


def writer(step: str, reached: Callable[[], None], first: int) -> None:
    """Build and write plans until killed; at `step` say so and stop."""

    def stop(name: str) -> None:
        if name == step:
            reached()
            time.sleep(600)

    _stop_at(stop)
    for number in range(first, first + 1000):
        with plans.building(KEY):
            stop("compiling")
            write(number)
            stop("renamed")


def _stop_at(stop: Callable[[str], None]) -> None:
    """Put calls of `stop` between the steps of cachefolder.write_whole, which are otherwise its own."""
    new_draft, fsync, replace = cachefolder._new_draft, os.fsync, os.replace

    class Half:
        """A file that stops with half of the content in it."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def writelines(self, pieces: list[bytes]) -> None:
            whole = b"".join(pieces)
            self.file.write(whole[: len(whole) // 2])
            self.file.flush()
            stop("half")
            self.file.write(whole[len(whole) // 2 :])

        def flush(self) -> None:
            self.file.flush()

    @contextlib.contextmanager
    def opened(*arguments: Any) -> Iterator[Half]:
        with open(*arguments) as file:
            yield Half(file)

    def drafted(*arguments: Any) -> Any:
        draft = new_draft(*arguments)
        stop("draft")
        return draft

    def synced(descriptor: int) -> None:
        stop("written")
        fsync(descriptor)

    def replaced(*arguments: Any) -> None:
        stop("synced")
        replace(*arguments)

    cachefolder.open = opened  # type: ignore[attr-defined]
    cachefolder._new_draft = drafted
    os.fsync, os.replace = synced, replaced


def kill_one(step: str, delay: float, first: int) -> None:
    """A writer from fork to SIGKILL."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            writer(step, lambda: os.write(write_end, b"!") and None, first)
        finally:
            os._exit(1)
    os.close(write_end)
    if step:
        assert os.read(read_end, 1) == b"!", f"the writer ended before {step}"
    else:
        time.sleep(delay)
    os.close(read_end)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"


def main(seed: int, rounds: int) -> dict[str, Any]:
    chance = random.Random(seed)
    folder, seen = plans.folder(), Counter[str]()
    write(7, OTHER)
    write(0)
    last = 0
    for each in range(rounds):
        step = STEPS[each // 2 % len(STEPS)] if each % 2 == 0 else ""
        kill_one(step, chance.uniform(0, 0.06), first=last + 1)
        left = [path.suffix for path in folder.iterdir()]
        seen.update({"kills": 1, "drafts": left.count(".tmp"), "locks": left.count(".lock")})
        notes: list[str] = []
        number = number_of(plans.read_plan(KEY, on_note=notes.append))
        assert number >= last, "an older plan than before"
        seen["new plans"] += number - last
        last = number
        assert number_of(plans.read_plan(OTHER, on_note=notes.append)) == 7
        assert len(plans.list_plans(on_note=notes.append)) == 2
        with plans.building(KEY, on_note=notes.append):  # nobody waits for the dead
            assert not notes, notes
    write(last + 1)
    assert sorted(path.suffix for path in folder.iterdir()) == [".plan", ".plan"], "something was not swept"
    return dict(seen)


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:]))))
