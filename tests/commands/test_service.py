"""`edge-retina service` as it is typed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from models import tiny_model
from service.machine import Machine

from edge_retina import build
from edge_retina.cli import cli
from edge_retina.commands import service
from edge_retina.errors import BundleError, EdgeRetinaError, RuntimeFailure, UsageError
from edge_retina.service import environment
from edge_retina.service.environment import make_environment
from edge_retina.service.install import check_program, power_advice
from edge_retina.service.place import Place

pytestmark = pytest.mark.skipif(os.name != "posix", reason="services are systemd's")

CONFIG = 'source = ["front=rtsp://user:hunter2@10.0.0.5/1"]\nout = "d.jsonl?rotate=1MB"\n'


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    tiny_model(folder / "m.onnx")
    return build(folder / "m.onnx").path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "service.toml").write_text(CONFIG)
    return tmp_path / "service.toml"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "image").mkdir()
    return tmp_path / "image"


def typed(*words: object) -> Result:
    return CliRunner().invoke(cli, ["service", *map(str, words)])


def failure(*words: object) -> EdgeRetinaError:
    error = typed(*words).exception
    assert isinstance(error, EdgeRetinaError), error
    return error


def everything(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_an_image_is_filled_changed_and_emptied(bundle, config, image):
    done = typed("install", bundle, "--config", config, "--root", image)
    assert done.exit_code == 0, done.output
    assert (image / "etc/systemd/system/multi-user.target.wants/edge-retina.service").is_symlink()
    release = image / "var/lib/edge-retina/current"
    assert (release / "run.toml").read_text() == CONFIG
    assert "hunter2" not in everything(image / "etc")
    assert typed("upgrade", bundle, "--root", image).exit_code == 0
    assert typed("rollback", "--root", image).exit_code == 0
    facts = json.loads(typed("status", "--root", image, "--json").stdout)
    assert (facts["current"], facts["previous"], len(facts["releases"])) == (1, 2, 2)
    results = image / "var/lib/edge-retina/data/d.jsonl"
    results.parent.mkdir()
    results.write_text("{}")
    done = typed("uninstall", "--root", image)
    assert str(results.parent) in done.stdout
    assert results.exists()
    assert (image / "var/lib/edge-retina/run.toml").read_text() == CONFIG
    assert "edge-retina" not in "".join(os.listdir(image / "etc/systemd/system"))
    assert typed("uninstall", "--root", image, "--purge").exit_code == 0
    assert not (image / "var/lib/edge-retina").exists()
    assert isinstance(failure("uninstall", "--root", image), UsageError)


def test_a_dry_run_shows_all_but_the_secret_and_changes_nothing(bundle, config, image):
    done = typed("install", bundle, "--config", config, "--root", image, "--dry-run")
    assert done.exit_code == 0
    for wanted in ("WatchdogSec=60", "u edge-retina", "releases/N", "systemd-sysusers"):
        assert wanted in done.stdout
    assert "hunter2" not in done.output
    assert list(image.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('source = "a.mp4"\nout = "x.jsonl"', "wants a camera or stream"),
        ('out = "x.jsonl"', "found none"),
        ("source = 0", "wants an out"),
        ('source = 0\nout = "-"', "the journal"),
        ('source = 0\nout = "display://"', "the journal"),
        ('source = 0\nout = "/etc/x.jsonl"', "may write in"),
        ('source = 0\nout = "../x.jsonl"', "may write in"),
        ('source = 0\nout = "x.jsonl"\ntrust = "k.pub"', "absolute path"),
        ('source = 0\nout = "x.jsonl"\n[service]\nkeep = 0', "keep"),
        ('sauce = 0\nout = "x.jsonl"', "unknown key 'sauce'"),
    ],
)
def test_a_configuration_that_would_not_do_is_refused_before_anything_is_written(bundle, config, image, text, wanted):
    config.write_text(text)
    error = failure("install", bundle, "--config", config, "--root", image)
    assert isinstance(error, UsageError)
    assert wanted in str(error)
    assert list(image.iterdir()) == []


def test_what_else_is_refused(bundle, config, image, tmp_path):
    (tmp_path / "x.edge").write_text("no bundle")
    assert isinstance(failure("install", tmp_path / "x.edge", "--config", config, "--root", image), BundleError)
    assert "wants --config" in str(failure("install", bundle, "--root", image))
    assert "upgrade to what" in str(failure("upgrade", "--root", image))
    assert "service install" in str(failure("upgrade", bundle, "--root", image))
    assert "small letters" in str(failure("status", "--name", "A B", "--root", image))
    assert "--program" in str(
        failure("install", bundle, "--config", config, "--root", image, "--package", "==1", "--name", "b")
    )
    assert not (image / "var").exists() or not list((image / "var/lib/edge-retina").glob("*"))


def test_without_root_or_systemd_nothing_is_tried(bundle, config, monkeypatch):
    monkeypatch.setattr(service, "_uid", lambda: 1000)
    assert "sudo" in str(failure("install", bundle, "--config", config))
    monkeypatch.setattr(service, "_uid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "systemd does not run here" in str(failure("uninstall"))


def test_a_live_machine_upgrades_and_goes_back(bundle, config, tmp_path, monkeypatch):
    machine = Machine.make(tmp_path, monkeypatch)
    monkeypatch.setattr(service, "_place", lambda name, root: machine.place)
    monkeypatch.setattr("edge_retina.service.systemd.need_root_and_systemd", lambda place, uid: None)
    monkeypatch.setattr("edge_retina.service.install.check_program", lambda program, place: None)
    assert typed("install", bundle, "--config", config, "--settle", 0).exit_code == 0
    assert "enable edge-retina.service" in machine.told
    done = typed("status")
    assert (done.exit_code, "front live; 12 frames" in done.stdout) == (0, True)
    config.write_text(CONFIG + "#fails\n")
    error = failure("upgrade", "--config", config, "--settle", 0)
    assert isinstance(error, RuntimeFailure)
    assert "release 1 runs again" in str(error)
    assert [release.number for release in machine.releases.all()] == [1]
    assert typed("uninstall").exit_code == 0
    assert isinstance(typed("status").exception, UsageError)


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of its own on which services may be changed."""
    machine = Machine.make(tmp_path, monkeypatch)
    monkeypatch.setattr(service, "_place", lambda name, root: machine.place)
    monkeypatch.setattr("edge_retina.service.systemd.need_root_and_systemd", lambda place, uid: None)
    monkeypatch.setattr("edge_retina.service.install.check_program", lambda program, place: None)
    return machine


def test_a_first_install_that_does_not_prepare_leaves_no_unit(bundle, config, live):
    config.write_text(CONFIG + "#unfit\n")
    assert "nothing was changed" in str(failure("install", bundle, "--config", config, "--settle", 0))
    assert not [line for line in live.told if line.startswith("enable")]
    assert live.told[-1] == "daemon-reload"
    assert [path for path in live.place.at("/etc").rglob("*") if path.is_file()] == []
    assert live.releases.all() == []


def test_units_are_what_they_were_where_a_second_install_does_not_prepare(bundle, config, live):
    assert typed("install", bundle, "--config", config, "--settle", 0).exit_code == 0
    before = everything(live.place.at("/etc"))
    limits = '[service]\nmemory = "1G"\n[service.cameras]\nyard = "a"\n'
    config.write_text(f"{CONFIG}{limits}#unfit\n")
    assert "nothing was changed" in str(failure("install", bundle, "--config", config, "--settle", 0))
    assert everything(live.place.at("/etc")) == before
    config.write_text(f"{CONFIG}{limits}")
    assert typed("install", bundle, "--config", config, "--settle", 0).exit_code == 0
    assert "MemoryMax=1G" in everything(live.place.at("/etc"))


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_roots_umask_changes_nothing(bundle, config, image, umask):
    before = os.umask(umask)
    try:
        assert typed("install", bundle, "--config", config, "--root", image).exit_code == 0
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    paths = [path for top in ("etc", "var") for path in (image / top, *(image / top).rglob("*"))]
    modes = {path.name: path.lstat().st_mode & 0o777 for path in paths if not path.is_symlink()}
    assert modes.pop("run.toml") == 0o600
    assert modes["model.edge"] == 0o644
    assert modes["releases"] == modes["1"] == modes["bin"] == 0o755
    hidden = {"passwd", "shadow", "group", "gshadow"}  # systemd-sysusers' own
    wrong = {name: oct(mode) for name, mode in modes.items() if mode not in (0o755, 0o644)}
    assert {name for name in wrong if name.strip(".-") not in hidden and ".pwd.lock" not in name} == set(), wrong


@pytest.mark.parametrize("taken", ["etc/systemd/system/front.service", "usr/lib/systemd/system/front.service"])
def test_another_programs_unit_is_neither_replaced_nor_removed(bundle, config, image, taken):
    (image / taken).parent.mkdir(parents=True)
    (image / taken).write_text("[Service]\nExecStart=/usr/sbin/sshd\n")
    (image / "var/lib/front/data").mkdir(parents=True)
    for words in (("install", bundle, "--config", config), ("uninstall", "--purge")):
        error = failure(*words, "--root", image, "--name", "front")
        assert isinstance(error, UsageError)
        assert "front.service is not edge-retina's" in str(error)
    assert "sshd" in (image / taken).read_text()
    assert (image / "var/lib/front/data").exists()


def test_it_runs_as_no_user_that_others_have(bundle, config, image):
    (image / "etc").mkdir()
    (image / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nfront:x:9:9::/var/lib/front/data:/bin/sh\n")
    words = ("install", bundle, "--config", config, "--root", image, "--name")
    assert "the user root is not edge-retina's" in str(failure(*words, "root"))
    assert typed(*words, "front").exit_code == 0


def test_an_image_that_is_not_there_or_leads_to_this_machine(bundle, config, image, tmp_path):
    (tmp_path / "host").mkdir()
    (image / "var").symlink_to(tmp_path / "host")
    words = ("install", bundle, "--config", config, "--root")
    assert "leads out of the image" in str(failure(*words, image))
    assert list((tmp_path / "host").iterdir()) == []
    assert "no such folder" in str(failure(*words, tmp_path / "imgae"))
    assert not (tmp_path / "imgae").exists()


def test_a_program_that_the_service_could_not_see(tmp_path):
    program = tmp_path / "edge-retina"
    place = Place()
    with pytest.raises(UsageError, match="no such program"):
        check_program(program, place)
    program.write_text("#!/usr/bin/python3\n")
    with pytest.raises(UsageError, match="/opt/edge-retina"):  # tmp_path is in /tmp
        check_program(program, place)


def test_advice_on_power_is_for_jetsons(image):
    place = Place(root=image, image=True)
    assert power_advice(place) is None
    (image / "etc").mkdir()
    (image / "etc/nv_tegra_release").write_text("# R36")
    assert "nvpmodel" in str(power_advice(place))


def test_a_release_gets_an_environment_of_its_own(tmp_path, monkeypatch):
    """pip itself takes a minute on a busy machine; that it is asked for the right things takes none."""
    calls: list[list[str]] = []
    folder = tmp_path / "env"

    def call(words: list[str], **_: float) -> str:
        calls.append([str(word) for word in words])
        if "install" in words and "--no-deps" in words and words[-3] != "nothing":
            (folder / "bin").mkdir(parents=True)
            (folder / "bin" / "edge-retina").write_text("")
        return ""

    monkeypatch.setattr(environment, "call", call)
    assert make_environment(folder, "==9.9", tmp_path) == folder / "bin" / "edge-retina"
    assert calls[0] == [sys.executable, "-m", "venv", "--system-site-packages", str(folder)]
    assert calls[1][-6:] == ["--no-index", "--find-links", str(tmp_path), "edge-retina==9.9", *calls[1][-2:]]
    assert calls[1][-2:] == ["--no-deps", "--ignore-installed"]
    assert calls[2] == calls[1][:-2]
    assert calls[3] == [str(folder / "bin" / "edge-retina"), "--version"]
    folder = tmp_path / "other"
    with pytest.raises(RuntimeFailure, match="brings no command"):
        make_environment(folder, "nothing", None)
    assert not folder.exists()
