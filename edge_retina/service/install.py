"""Everything of a service onto a machine or into an image, and off it again."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_retina.drafts import Draft, as_output_error
from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.service import systemd, units
from edge_retina.service.place import Place
from edge_retina.service.releases import Releases
from edge_retina.service.settings import Settings

__all__ = [
    "Removed",
    "check_place",
    "check_program",
    "enable",
    "plan_lines",
    "power_advice",
    "restoring",
    "uninstall",
    "unit_files",
    "write_files",
]

_WANTS = "/etc/systemd/system/multi-user.target.wants"
# Where packages have their units.
_VENDORS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/usr/local/lib/systemd/system")
# The sandbox hides these, or empties them.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/run")


def unit_files(place: Place, settings: Settings, *, csi: bool) -> dict[str, str]:
    """What is written, text by path of the machine."""
    return units.files(place, settings, csi=csi, systemd=systemd.version(place))


def check_place(place: Place) -> None:
    """Raise UsageError for a root that is no folder or leads out of itself, and for names that others have already.

    What an absolute link of an image leads to is this machine's. A unit, a user and a state folder of that name may be
    another program's, which would be replaced, run under, or removed.
    """
    if not place.root.is_dir():
        raise UsageError(f"{place.root}: no such folder; --root wants the one in which an image of a machine lies")
    ours = list(unit_files(place, Settings(cameras={"a": "b"}), csi=False))
    root = os.path.realpath(place.root)
    for path in (place.state, place.cache, place.at(f"{_WANTS}/x"), *map(place.at, ours)):
        if not Path(real := os.path.realpath(path.parent)).is_relative_to(root):
            raise UsageError(f"{path.parent} leads out of the image, to {real}; make the link a relative one")
    other = "is not edge-retina's; choose another --name"
    for path in map(place.at, ours):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if not file.read(len(units.MARK)) == units.MARK.encode():
                raise UsageError(f"{path} {other}")
    for path in (place.at(f"{folder}/{place.unit}") for folder in _VENDORS):
        if path.exists():
            raise UsageError(f"{path} {other}")
    with contextlib.suppress(FileNotFoundError):
        for line in place.at("/etc/passwd").read_text(encoding="utf-8", errors="replace").splitlines():
            user = line.split(":")
            if user[0] == place.name and user[5:6] != [f"/var/lib/{place.name}/data"]:
                raise UsageError(f"the user {place.name} {other}")


@contextlib.contextmanager
def restoring(place: Place, texts: Mapping[str, str]) -> Iterator[None]:
    """Where what is done inside fails and no new release runs, the units are what they were: the old ones, or none."""
    releases = Releases(place)
    paths = [place.at(path) for path in (*texts, f"/etc/udev/rules.d/70-{place.name}.rules")]
    old = {path: path.read_bytes() if path.exists() else None for path in paths}
    before = releases.current
    try:
        yield
    except BaseException:
        if releases.current == before:
            for path, text in old.items():
                if text is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(text)
            if not place.image:
                systemd.call(["systemctl", "daemon-reload"], check=False)
        raise


def check_program(program: Path, place: Place) -> None:
    """Raise UsageError for an edge-retina that the service's user will not see: in a home, or closed to others."""
    if place.image:
        return
    if not program.is_file():
        raise UsageError(f"{program}: no such program; give the edge-retina of an environment with --program")
    python = _interpreter(program)
    real = list(dict.fromkeys([program, python, *(Path(os.path.realpath(path)) for path in (program, python))]))
    if hidden := [path for path in real for top in _HIDDEN if path.is_relative_to(top)]:
        raise UsageError(
            f"{hidden[0]} is where a service cannot see it; install edge-retina in /opt: sudo python3 -m venv "
            "--system-site-packages /opt/edge-retina && sudo /opt/edge-retina/bin/pip install edge-retina"
        )
    for path in real:
        if closed := [folder for folder in path.parents if not folder.stat().st_mode & 0o001]:
            raise UsageError(f"{closed[0]} is closed to other users, so the service cannot run {path}; chmod o+x it")


def _interpreter(program: Path) -> Path:
    """The Python that a command's first line names; the command itself where it names none."""
    with program.open("rb") as file:
        first = file.readline(1024)
    return Path(os.fsdecode(first[2:].split()[0])) if first.startswith(b"#!/") else program


def plan_lines(place: Place, texts: Mapping[str, str], digest: str, program: str) -> list[str]:
    """All that an installation would write and call, line by line; of the configuration only that it is."""
    lines = [line for path, text in texts.items() for line in (f"# {place.at(path)} (0644)", text)]
    lines += [
        f"# {place.state}/releases/N: model.edge (bundle {digest[:12]}), run.toml (0600, the --config),",
        f"#   bin/edge-retina -> {program}, release.json; then {place.state}/current -> releases/N",
        f"# systemd-sysusers --root={place.root} {place.name}.conf",
    ]
    if not place.image:
        prepare = f"{place.name}-prepare@releases-N.service"
        words = ("daemon-reload", f"enable {place.unit}", f"restart {prepare}", f"restart {place.unit}")
        lines += [f"# systemctl {word}" for word in words]
    return lines


def write_files(place: Place, texts: Mapping[str, str], *, on_note: Callable[[str], None]) -> None:
    """Write the units, have systemd read them and make the user; in an image as far as that can be done there.

    Raises OutputError, RuntimeFailure.
    """
    for path, text in texts.items():
        draft = Draft(place.at(path))
        try:
            draft.fill(text.encode())
            with as_output_error(place.at(path)):
                draft.path.chmod(0o644)
            draft.publish()
        finally:
            draft.discard()
    rules = place.at(f"/etc/udev/rules.d/70-{place.name}.rules")
    if f"/etc/udev/rules.d/70-{place.name}.rules" not in texts:
        rules.unlink(missing_ok=True)
    sysusers = ["systemd-sysusers", f"--root={place.root}", f"{place.name}.conf"]
    try:
        systemd.call(sysusers)
    except RuntimeFailure as exc:
        if not place.image:
            raise
        on_note(f"{exc}; the image makes the user {place.name} when systemd-sysusers runs in it")
    if not place.image:
        systemd.call(["systemctl", "daemon-reload"])
        if rules.exists():
            systemd.call(["udevadm", "control", "--reload"], check=False)
            systemd.call(["udevadm", "trigger", "--subsystem-match=video4linux"], check=False)


def enable(place: Place) -> None:
    """Have it started at boot."""
    if not place.image:
        systemd.call(["systemctl", "enable", place.unit])
        return
    link = place.at(f"{_WANTS}/{place.unit}")
    with as_output_error(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"/etc/systemd/system/{place.unit}")


@dataclass(frozen=True, slots=True)
class Removed:
    """What uninstall took away, and what it left because it is the user's."""

    gone: tuple[Path, ...]
    left: tuple[Path, ...]


def uninstall(place: Place, *, purge: bool, on_wait: Callable[[], None] = lambda: None) -> Removed:
    """Stop the service and remove it. Results and the last configuration stay, unless purge; the user stays as well.

    The configuration that ran is kept as /var/lib/NAME/run.toml, root's alone. An upgrade under way is waited for,
    after a call of on_wait. Raises UsageError where there is none, OutputError.
    """
    releases = Releases(place)
    kept = place.state / "run.toml"
    paths = [place.at(path) for path in unit_files(place, Settings(cameras={"a": "b"}), csi=False)]
    if not any(map(os.path.lexists, (*paths, releases.folder, place.data, kept))):
        raise UsageError(f"there is no service {place.name} here; see: systemctl list-unit-files '*retina*'")
    with releases.locked(on_wait):
        gone = [path for path in (*paths, releases.folder, place.cache) if path.exists()]
        if not place.image:
            for words in (["disable", "--now", place.unit], ["stop", f"{place.name}-prepare@*.service"]):
                systemd.call(["systemctl", *words], timeout_s=120, check=False)
        with as_output_error(place.state):
            for path in (*paths, place.at(f"{_WANTS}/{place.unit}")):
                path.unlink(missing_ok=True)
            current = releases.current
            if purge:
                kept.unlink(missing_ok=True)
            elif current is not None:
                os.replace(releases.path(current) / "run.toml", kept)
            for name in ("current", "previous", "unproven"):
                (place.state / name).unlink(missing_ok=True)
            for folder in (releases.folder, place.cache, *((place.data,) if purge else ())):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(folder)
    with contextlib.suppress(OSError):
        place.state.rmdir()
    if not place.image:
        systemd.call(["systemctl", "daemon-reload"])
        systemd.call(["systemctl", "reset-failed", place.unit], check=False)
    return Removed(tuple(gone), tuple(path for path in (place.data, kept) if path.exists()))


def power_advice(place: Place) -> str | None:
    """What to type for a Jetson's full speed; None on other machines. Nothing of it is ever done here."""
    if not place.at("/etc/nv_tegra_release").exists():
        return None
    return (
        "power mode, as you decide it: sudo nvpmodel -q shows it, sudo nvpmodel -p --verbose lists them, "
        "sudo nvpmodel -m N sets one and is kept over a reboot; sudo jetson_clocks holds the clocks up until the next. "
        "Set it before a plan is compiled: kernels are chosen by their time"
    )
