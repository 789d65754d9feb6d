"""The units, as systemd's own tools see them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from edge_retina.errors import UsageError
from edge_retina.service.place import Place
from edge_retina.service.settings import Settings
from edge_retina.service.units import camera_rules, files

UNITS = Path("/etc/systemd/system")
SYSTEMS_OWN = Path("/usr/lib/systemd/system")
analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or not SYSTEMS_OWN.is_dir(),
    reason="systemd-analyze is not installed (Debian: systemd)",
)


def unit(text: str) -> dict[str, dict[str, list[str]]]:
    """Sections of a unit, each key with all its values."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in text.replace("\\\n", "").splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def written(root: Path, texts: dict[str, str], names: Iterable[str] = ("current", "previous", "i")) -> None:
    """The files below a root, with the programs they call and what systemd itself brings."""
    for path, text in texts.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for name in names:
        program = root / "var/lib/edge-retina" / name / "bin/edge-retina"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    shutil.copytree(SYSTEMS_OWN, root / SYSTEMS_OWN.relative_to("/"), symlinks=True)


def told(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


@pytest.fixture(params=[False, True], ids=["usb", "csi"])
def texts(request: pytest.FixtureRequest) -> dict[str, str]:
    return files(Place(), Settings(cameras={"front": "usb-x"}), csi=request.param, systemd=252)


@analyze
def test_systemd_finds_nothing_wrong_with_them(texts, tmp_path):
    written(tmp_path, texts)
    for name in ("edge-retina.service", "edge-retina-prepare@.service", "edge-retina-return.service"):
        done = told("verify", "--man=no", f"--root={tmp_path}", str(UNITS / name))
        assert (done.returncode, done.stderr) == (0, ""), name


@analyze
def test_the_check_sees_faults(texts, tmp_path):
    """Or the test above could not fail."""
    path = str(UNITS / "edge-retina.service")
    written(tmp_path, {**texts, path: texts[path].replace("MemoryMax=", "MemoryMaxi=")})
    assert "MemoryMaxi" in told("verify", "--man=no", f"--root={tmp_path}", path).stderr


@analyze
@pytest.mark.parametrize("csi", [False, True], ids=["usb", "csi"])
def test_how_exposed_the_service_is(tmp_path, csi):
    """systemd 252 says 1.6, and 1.8 with CSI cameras; others weigh otherwise. Below 3 is its "OK"."""
    texts = files(Place(), Settings(), csi=csi, systemd=252)
    for name in ("edge-retina.service", "edge-retina-prepare@.service"):
        path = tmp_path / name.replace("@", "@x")
        path.write_text(texts[str(UNITS / name)])
        done = told("security", "--offline=true", "--no-pager", "--threshold=20", str(path))
        assert done.returncode == 0, done.stdout
        assert "Overall exposure level" in done.stdout


def test_everything_in_a_unit_is_about_this_service(texts):
    for path, text in texts.items():
        assert "{" not in text.replace("${CREDENTIALS_DIRECTORY}", "").replace("ATTR{index}", "").replace(
            "ENV{ID_SERIAL}", ""
        ).replace("ENV{ID_PATH}", ""), path
    other = files(Place("yard-2"), Settings())
    assert set(other) == {
        "/etc/systemd/system/yard-2.service",
        "/etc/systemd/system/yard-2-prepare@.service",
        "/etc/systemd/system/yard-2-return.service",
        "/etc/sysusers.d/yard-2.conf",
    }
    for text in other.values():
        assert "edge-retina" not in re.sub(r"bin/edge-retina|by edge-retina", "", text)


def test_settings_reach_the_units():
    settings = Settings(memory="2G", watchdog_s=33, start_s=44, compile_s=55, give_up="reboot")
    texts = files(Place(), settings, systemd=255)
    main = unit(texts[str(UNITS / "edge-retina.service")])
    assert main["Service"]["MemoryMax"] == ["2G"]
    assert main["Service"]["WatchdogSec"] == ["33"]
    assert main["Service"]["TimeoutStartSec"] == ["44"]
    assert main["Service"]["RestartSteps"] == ["5"]
    assert main["Unit"]["StartLimitAction"] == ["reboot"]
    prepare = unit(texts[str(UNITS / "edge-retina-prepare@.service")])
    assert prepare["Service"]["TimeoutStartSec"] == ["55"]
    assert not {"MemoryMax", "WatchdogSec"} & set(prepare["Service"])


def test_an_older_systemd_gets_no_keys_it_does_not_know():
    for version in (None, 249, 253):
        assert "RestartSteps" not in files(Place(), Settings(), systemd=version)[str(UNITS / "edge-retina.service")]


def test_both_units_have_one_sandbox():
    texts = files(Place(), Settings())
    main, prepare = (
        unit(texts[str(UNITS / name)])["Service"] for name in ("edge-retina.service", "edge-retina-prepare@.service")
    )
    differ = {key for key in {*main, *prepare} if main.get(key) != prepare.get(key)}
    assert differ == {
        "ExecStart", "LoadCredential", "MemoryMax", "Nice", "NotifyAccess", "OOMPolicy", "RemainAfterExit", "Restart",
        "RestartPreventExitStatus", "RestartSec", "RuntimeDirectory", "Environment", "SuccessExitStatus", "TasksMax",
        "LogRateLimitBurst", "LogRateLimitIntervalSec", "TimeoutStartSec", "TimeoutStopSec", "Type", "WatchdogSec",
    }  # fmt: skip


def test_csi_cameras_come_through_the_tmp_of_all(texts):
    csi = files(Place(), Settings(), csi=True)[str(UNITS / "edge-retina.service")]
    assert unit(csi)["Service"]["PrivateTmp"] == ["no"]
    assert "nvargus-daemon.service" in unit(csi)["Unit"]["After"][0]


def test_camera_rules_name_each_camera_by_number_or_place():
    assert camera_rules({}).splitlines()[1:] == []
    rules = camera_rules({"yard": "usb-1:2", "front": "usb-x"}).splitlines()[1:]
    assert rules[0] == (
        'SUBSYSTEM=="video4linux", KERNEL=="video*", ATTR{index}=="0", ENV{ID_SERIAL}=="usb-x", SYMLINK+="video-front"'
    )
    assert [rule.split(", ")[-1] for rule in rules] == ['SYMLINK+="video-front"'] * 2 + ['SYMLINK+="video-yard"'] * 2


def test_no_settings_are_the_usual_ones():
    assert Settings.parse({}) == Settings()


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ([], "wants a table"),
        ({"memori": "1G"}, "unknown key memori"),
        ({"memory": 5}, "memory wants"),
        ({"memory": "2G\nExecStartPre=/bin/sh"}, "memory wants"),
        ({"memory": "0%"}, "memory wants"),
        ({"watchdog": 4}, "from 5 to 3600"),
        ({"watchdog": True}, "from 5 to 3600"),
        ({"watchdog": "60s"}, "from 5 to 3600"),
        ({"give-up": "panic"}, "none, reboot"),
        ({"keep": 0}, "from 1 to 100"),
        ({"cameras": "front"}, "wants NAME"),
        ({"cameras": {"Front": "x"}}, "small letters"),
        ({"cameras": {"front": 'x", RUN+="/bin/sh'}}, "ID_SERIAL"),
        ({"cameras": {"front": "*"}}, "ID_SERIAL"),
    ],
)
def test_settings_that_make_no_sense(table, wanted):
    with pytest.raises(UsageError, match=wanted):
        Settings.parse(table)


def test_all_settings():
    table = {"memory": "50%", "watchdog": 30, "start": 100, "compile": 200, "give-up": "reboot", "keep": 5}
    assert Settings.parse({**table, "cameras": {"front": "usb-1"}}) == Settings(
        "50%", 30, 100, 200, "reboot", 5, {"front": "usb-1"}
    )
