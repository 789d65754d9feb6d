"""Releases and their links, on a real file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from service.machine import Machine

from edge_retina.errors import OutputError, UsageError
from edge_retina.service.place import Place
from edge_retina.service.releases import Releases

pytestmark = pytest.mark.skipif(os.name != "posix", reason="services are systemd's")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine.make(tmp_path, monkeypatch)


def test_nothing_is_there_yet(tmp_path):
    releases = Releases(Place(root=tmp_path))
    assert (releases.all(), releases.current, releases.previous, releases.unproven) == ([], None, None, None)
    with pytest.raises(UsageError, match="there are: none"):
        releases.get(1)


@pytest.mark.parametrize("name", ["", "Edge", "1x", "a b", "a/b", "a-", "../x", "x" * 32])
def test_names_that_systemd_or_the_users_would_not_take(name):
    with pytest.raises(UsageError, match="small letters"):
        Place(name)


@pytest.mark.parametrize("name", ["front-prepare", "front-return"])
def test_names_of_another_services_own_units(name):
    with pytest.raises(UsageError, match="another --name"):
        Place(name)


def test_a_release_is_whole_and_its_configuration_is_roots_alone(machine):
    first = machine.release()
    folder = machine.releases.path(first)
    assert (first.number, machine.releases.all(), machine.releases.current) == (1, [first], None)
    assert (folder / "run.toml").stat().st_mode & 0o777 == 0o600
    assert (folder / "model.edge").read_bytes() == b"bundle"
    assert os.readlink(folder / "bin" / "edge-retina") == "/opt/x/bin/edge-retina"
    assert machine.release().number == 2


def test_a_signature_travels_with_its_bundle(machine):
    (machine.fake / "m.edge.sig").write_text("signed")
    assert (machine.releases.path(machine.release()) / "model.edge.sig").read_text() == "signed"


def test_links_turn_and_turn_back(machine):
    one, two, three = machine.release(), machine.release(), machine.release()
    releases = machine.releases
    assert releases.try_out(one) is None
    assert (releases.current, releases.previous, releases.unproven) == (one, None, None)
    assert releases.try_out(two) == one
    assert (releases.current, releases.previous, releases.unproven) == (two, one, 2)
    releases.prove()
    assert releases.unproven is None
    releases.try_out(three)
    releases.go_back(two)
    assert (releases.current, releases.previous, releases.unproven) == (two, one, None)
    assert os.readlink(machine.place.state / "current") == "releases/2"


def test_half_made_releases_do_not_count_and_are_swept(machine):
    one = machine.release()
    broken = machine.releases.folder / "2"
    broken.mkdir()
    (broken / "model.edge").write_bytes(b"half")
    assert machine.releases.all() == [one]
    with pytest.raises(UsageError, match="no release 2"):
        machine.releases.get(2)
    assert machine.release().number == 2
    assert (broken / "release.json").exists()


@pytest.mark.parametrize("facts", ["", "[]", "{}", '{"number": 7}', "{", '{"number": 1, "x": 2}'])
def test_damaged_facts_are_no_release(machine, facts):
    one = machine.release()
    machine.releases.try_out(one)
    (machine.releases.path(one) / "release.json").write_text(facts)
    assert (machine.releases.all(), machine.releases.current) == ([], None)


def test_a_link_that_leads_elsewhere_is_no_release(machine, tmp_path):
    machine.release()
    (machine.place.state / "current").symlink_to(tmp_path)
    assert machine.releases.current is None


def test_old_ones_go_but_not_what_is_needed(machine):
    releases = machine.releases
    made = [machine.release() for _ in range(3)]
    env = releases.path(made[0]) / "env" / "bin" / "edge-retina"
    borrowed = releases.make(machine.fake / "m.edge", "d", b"", env)
    assert borrowed.env_of == 1
    releases.try_out(made[1])
    releases.try_out(borrowed)
    newest = machine.release()
    assert releases.prune(1) == [3]
    assert [release.number for release in releases.all()] == [1, 2, 4, newest.number]


def test_a_failed_environment_leaves_no_release(machine):
    def build(folder: Path) -> Path:
        raise OutputError("no wheel")

    one = machine.release()
    with pytest.raises(OutputError, match="no wheel"):
        machine.releases.make(machine.fake / "m.edge", "d", b"", Path("/x"), build)
    assert machine.releases.all() == [one]


def test_a_disk_that_takes_nothing_is_told(machine):
    machine.releases.folder.parent.mkdir(exist_ok=True)
    machine.releases.folder.write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="releases"), machine.releases.locked():
        pass
