"""Switching releases: real folders and links, a systemctl that plays, and processes that are killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from service.machine import Machine

from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.service.place import Place
from edge_retina.service.releases import Release
from edge_retina.service.upgrade import Patience, roll_back, switch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="services are systemd's")

SOON = Patience(settle_s=0.6)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine.make(tmp_path, monkeypatch)


@pytest.fixture
def running(machine: Machine) -> Machine:
    """Release 1 runs, and the log is empty."""
    switch(machine.place, machine.release(), Patience(settle_s=0))
    (machine.fake / "log").unlink()
    return machine


def state(machine: Machine) -> tuple[int | None, int | None, int | None]:
    """Numbers of current and previous, and what is on trial."""
    releases = machine.releases
    numbers = (release and release.number for release in (releases.current, releases.previous))
    return (*numbers, releases.unproven)


def test_the_first_release_is_prepared_then_started(machine):
    switch(machine.place, machine.release(), Patience(settle_s=0))
    assert machine.told == [
        "restart edge-retina-prepare@releases-1.service",
        "reset-failed edge-retina.service",
        "restart edge-retina.service",
    ]
    assert state(machine) == (1, None, None)


def test_a_first_release_that_fails_stays_for_there_is_no_other(machine):
    with pytest.raises(RuntimeFailure, match=r"release 1 failed: systemctl restart .* failed\.; see: edge-retina"):
        switch(machine.place, machine.release("#fails"), SOON)
    assert state(machine) == (1, None, None)


def test_an_upgrade_that_works(running):
    notes: list[str] = []
    switch(running.place, running.release(), SOON, on_note=notes.append)
    assert state(running) == (2, 1, None)
    assert notes[-1] == "release 2 runs"


def test_what_does_not_prepare_never_touches_the_old_one(running):
    before = running.unit
    with pytest.raises(RuntimeFailure, match="nothing was changed"):
        switch(running.place, running.release("#unfit"), SOON)
    assert state(running) == (1, None, None)
    assert running.told == ["restart edge-retina-prepare@releases-2.service"]
    assert running.unit == before


@pytest.mark.parametrize(
    ("how", "why", "patience"),
    [
        ("#fails", "Job for edge-retina.service failed", SOON),
        ("#falls", "did not stay up", SOON),
        ("#slow", "not done after 1 s", Patience(ready_s=1, settle_s=0)),
    ],
)
def test_what_fails_is_followed_by_the_old_one(running, how, why, patience):
    with pytest.raises(RuntimeFailure, match=f"release 2 failed: .*{why}.*; release 1 runs again"):
        switch(running.place, running.release(how), patience)
    assert state(running) == (1, 1, None) or state(running) == (1, None, None)
    assert running.unit["ActiveState"] == "active"
    assert running.told[-1] == "restart edge-retina.service"


def test_where_the_old_one_fails_as_well_both_are_told(running):
    (running.releases.path(running.releases.get(1)) / "run.toml").write_text("#fails")
    with pytest.raises(RuntimeFailure, match="release 1 is current again, and failed as well"):
        switch(running.place, running.release("#fails"), SOON)
    assert running.releases.current.number == 1


def test_back_by_number_and_by_itself(running):
    quick = Patience(settle_s=0)
    for _ in range(2):
        switch(running.place, running.release(), quick)
    assert roll_back(running.place, None, quick).number == 2
    assert state(running) == (2, 3, None)
    assert roll_back(running.place, 1, quick).number == 1
    with pytest.raises(UsageError, match="no release 9"):
        roll_back(running.place, 9, quick)
    with pytest.raises(UsageError, match="release 1 is current"):
        roll_back(running.place, 1, quick)


def test_there_has_to_be_one_before(running):
    with pytest.raises(UsageError, match="none before it"):
        roll_back(running.place, None, SOON)


def test_an_image_has_only_links(tmp_path, machine):
    place = Place(root=machine.place.root, image=True)
    switch(place, machine.release(), SOON)
    switch(place, machine.release(), SOON)
    assert machine.told == []
    assert state(machine) == (2, 1, None)


# What systemd does when an upgrade was cut off and its release fails for good.


def test_what_was_never_proved_is_left(running):
    two = running.release("#fails")
    running.releases.try_out(two)  # and here the power went
    assert roll_back(running.place, None, SOON, if_unproven=True).number == 1
    assert state(running)[0] == 1
    assert running.releases.unproven is None
    assert running.unit["ActiveState"] == "active"


def test_what_was_proved_is_not_left(running):
    switch(running.place, running.release(), SOON)
    assert roll_back(running.place, None, SOON, if_unproven=True) is None
    assert state(running) == (2, 1, None)


def test_what_never_became_current_is_forgotten(running):
    running.release()
    (running.place.state / "unproven").write_text("2")
    assert roll_back(running.place, None, SOON, if_unproven=True) is None
    assert state(running) == (1, None, None)


# Killed in the middle: at every call that changes a file, one run that ends there with SIGKILL.

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from edge_retina.service.place import Place
from edge_retina.service.releases import Releases
from edge_retina.service.upgrade import Patience, switch

at, count = int(sys.argv[3]), 0
def counted(event, arguments):
    global count
    changes = event in ("os.rename", "os.symlink", "os.mkdir", "os.remove", "shutil.copyfile", "subprocess.Popen")
    if event == "open" and isinstance(arguments[2], int):
        changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)) and sys.argv[1] in str(arguments[0])
    if changes:
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

place = Place(root=Path(sys.argv[1]))
releases = Releases(place)
sys.addaudithook(counted)
with releases.locked():
    release = releases.make(Path(sys.argv[2]), "d" * 64, b"new", Path("/opt/x/bin/edge-retina"))
    switch(place, release, Patience(settle_s=0))
    releases.prune(2)
print("through")
"""


def killed_at(machine: Machine, point: int) -> bool:
    """Upgrade in a process that dies at its change number `point`; True where it lived to the end."""
    words = [sys.executable, "-S", "-c", KILLED, str(machine.place.root), str(machine.fake / "m.edge"), str(point)]
    root = Path(__file__).resolve().parents[2]
    site = [path for path in sys.path if path.endswith("site-packages")]
    done = subprocess.run(
        [*words, str(root)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *site])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


def whole(machine: Machine, release: Release) -> None:
    """Everything that the units use is there."""
    folder = machine.releases.path(release)
    assert (folder / "model.edge").read_bytes() == b"bundle"
    assert (folder / "run.toml").stat().st_mode & 0o777 == 0o600
    assert (folder / "bin" / "edge-retina").is_symlink()


def test_whenever_it_is_killed_there_is_one_whole_current_release_and_a_way_on(running):
    seen, point = set(), 0
    while True:
        before = running.releases.current
        assert before is not None
        through = killed_at(running, point)
        now = running.releases.current
        assert now is not None, f"killed at {point}"
        whole(running, now)
        if now != before and not through:
            # New and not proved: what systemd would call if it failed leads to the one before.
            if running.releases.unproven is not None:
                assert running.releases.unproven == now.number
                assert running.releases.previous == before
            seen.add("switched")
        elif now == before:
            seen.add("not switched")
        if through:
            break
        point += 1
    assert seen == {"switched", "not switched"}
    assert point > 10
    # Nothing stays behind that the next upgrade does not take away.
    switch(running.place, running.release(), Patience(settle_s=0))
    running.releases.prune(2)
    assert len(running.releases.all()) <= 3
    names = {path.name for path in running.place.state.iterdir()} - {".lock"}
    assert names == {"current", "previous", "releases"}


def test_killed_while_systemd_restarts_the_service(running):
    (running.fake / "m.edge").write_bytes(b"bundle")
    words = KILLED.replace('b"new"', 'b"#killer"')
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", words, str(running.place.root), str(running.fake / "m.edge"), "-1", str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert state(running) == (2, 1, 2)
    assert roll_back(running.place, None, SOON, if_unproven=True).number == 1
    assert state(running)[0] == 1
