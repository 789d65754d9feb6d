"""`edge-retina service`: run a bundle as a systemd service, change its release, and change it back."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_retina.commands.serviceconfig import environment_maker, read_settings, read_wanted
from edge_retina.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_retina.service.place import Place
    from edge_retina.service.releases import Release, Releases
    from edge_retina.service.settings import Settings
    from edge_retina.service.upgrade import Patience

__all__ = ["service_command"]

_PATH = click.Path(path_type=Path)
_name = click.option("--name", default="edge-retina", show_default=True, help="Of the service, its user and folders.")
_root = click.option("--root", type=_PATH, default=Path("/"), metavar="DIR", help="Fill an image of a machine.")
_config = click.option("--config", type=_PATH, metavar="FILE.toml", help="Options of run, and [service].")
_package = click.option("--package", metavar="WHEEL", help="Install edge-retina for this release: a wheel or ==0.2.0.")
_wheels = click.option("--wheels", type=_PATH, metavar="DIR", help="Take all packages from this folder, no network.")
_settle = click.option(
    "--settle", type=click.FloatRange(min=0), default=20, show_default=True, help="Seconds it must stay up once ready."
)


@click.group("service")
def service_command() -> None:
    """Install a bundle as a systemd service that starts at boot, and upgrade it so that there is a way back."""


@service_command.command("install")
@click.argument("bundle", type=_PATH)
@_config
@_package
@_wheels
@click.option("--program", type=_PATH, help="The edge-retina that the service runs [this one].")
@click.option("--dry-run", is_flag=True, help="Show every file and command, and change nothing.")
@_settle
@_name
@_root
def install_command(
    bundle: Path,
    config: Path | None,
    package: str | None,
    wheels: Path | None,
    program: Path | None,
    dry_run: bool,
    settle: float,
    name: str,
    root: Path,
) -> None:
    """Write the units for BUNDLE and --config, start the service and have it started at every boot.

    Again over an installation: new units, and an upgrade to what is given.
    """
    from edge_retina.service import install, systemd

    place = _place(name, root)
    if config is None:
        raise UsageError("a service wants --config FILE.toml with its sources and outs; docs/device.md shows one")
    wanted = read_wanted(place, bundle, config)
    program = program or (Path(sys.executable).parent / "edge-retina" if not place.image else Path(_IN_IMAGES))
    install.check_place(place)
    texts = install.unit_files(place, wanted.settings, csi=wanted.csi)
    if dry_run:
        click.echo("\n".join(install.plan_lines(place, texts, wanted.digest, package or str(program))))
        return
    systemd.need_root_and_systemd(place, uid=_uid())
    if package is None and not place.image:
        install.check_program(program, place)
    with _changing(place, first=True) as releases:
        release = releases.make(bundle, wanted.digest, wanted.text, program, environment_maker(place, package, wheels))
        with install.restoring(place, texts):
            install.write_files(place, texts, on_note=_talk)
            try:
                _switch(place, releases, release, wanted.settings, settle)
            finally:
                if releases.current is not None:
                    install.enable(place)
        if place.image and _uid() != 0:
            _talk(
                f"{place.root}: the files are yours; in the image they have to be root's: chown --recursive root:root"
            )
    if (advice := install.power_advice(place)) is not None:
        _talk(advice)
    click.echo(f"{place.unit}: release {release.number}, results in {place.data}")


@service_command.command("upgrade")
@click.argument("bundle", type=_PATH, required=False)
@_config
@_package
@_wheels
@_settle
@_name
@_root
def upgrade_command(
    bundle: Path | None,
    config: Path | None,
    package: str | None,
    wheels: Path | None,
    settle: float,
    name: str,
    root: Path,
) -> None:
    """Run another BUNDLE, --config or --package; what is not given stays as it is.

    The plan is compiled and one frame worked on while the old release runs. Then the new one has to get ready and stay
    up; where it does not, the old one runs again and the exit code is 7. Units stay: for other limits, install again.
    """
    from edge_retina.service import systemd

    place = _place(name, root)
    systemd.need_root_and_systemd(place, uid=_uid())
    if bundle is None and config is None and package is None:
        raise UsageError("upgrade to what? Give a BUNDLE, --config FILE.toml or --package WHEEL")
    with _changing(place) as releases:
        current = _installed(place, releases)
        folder = releases.path(current)
        wanted = read_wanted(place, bundle or folder / "model.edge", config or folder / "run.toml")
        program, build = Path(current.program), environment_maker(place, package, wheels)
        release = releases.make(bundle or folder / "model.edge", wanted.digest, wanted.text, program, build)
        _switch(place, releases, release, wanted.settings, settle)
    click.echo(f"{place.unit}: release {release.number}, after {current.number}")


@service_command.command("rollback")
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--if-unproven", is_flag=True, help="Only from a release whose upgrade was cut off; systemd calls it so.")
@_settle
@_name
@_root
def rollback_command(number: int | None, if_unproven: bool, settle: float, name: str, root: Path) -> None:
    """Run the release before again, or release NUMBER; its bundle, configuration and package."""
    from edge_retina.service import systemd
    from edge_retina.service.upgrade import roll_back

    place = _place(name, root)
    systemd.need_root_and_systemd(place, uid=_uid())
    with _changing(place) as releases:
        current = _installed(place, releases)
        settings = read_settings(releases.path(current) / "run.toml")
        patience = _patience(settings, settle)
        release = roll_back(place, number, patience, if_unproven=if_unproven, on_note=_talk)
    if release is not None:
        click.echo(f"{place.unit}: release {release.number}")


@service_command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@_name
@_root
def status_command(as_json: bool, name: str, root: Path) -> None:
    """How the service is, what it says of its cameras, and its releases. Exit code 7: it is not running."""
    from edge_retina.service import systemd
    from edge_retina.service.releases import Releases

    place = _place(name, root)
    releases = Releases(place)
    current, previous, unproven = releases.current, releases.previous, releases.unproven
    names = ("ActiveState", "SubState", "StatusText", "NRestarts", "ActiveEnterTimestamp", "Result")
    unit = systemd.show(place.unit, names) if not place.image else dict.fromkeys(names, "")
    everything = releases.all()
    if as_json:
        facts = {"current": current and current.number, "previous": previous and previous.number, "unproven": unproven}
        rows = [release.to_json() for release in everything]
        click.echo(json.dumps({"unit": place.unit, **unit, **facts, "releases": rows}, indent=1))
    else:
        if current is None:
            raise UsageError(f"there is no service {name} in {place.state}; run: edge-retina service install")
        if not place.image:
            since = f" since {unit['ActiveEnterTimestamp']}" if unit["ActiveState"] == "active" else ""
            click.echo(f"{place.unit}: {unit['ActiveState']} ({unit['SubState']}){since}, restarts {unit['NRestarts']}")
        if unit["StatusText"]:
            click.echo(f"  {unit['StatusText']}")
        for release in everything:
            marks = [mark for mark, one in (("current", current), ("previous", previous)) if one == release]
            marks += ["on trial"] if release.number == unproven else []
            what = f"release {release.number}: bundle {release.bundle[:12]}, {release.program}"
            click.echo(what + (f" ({', '.join(marks)})" if marks else ""))
    if not place.image and unit["ActiveState"] != "active":
        raise RuntimeFailure(f"{place.unit} is {unit['ActiveState'] or 'not there'}; see: edge-retina service logs")


@service_command.command("logs")
@click.option("-n", "--lines", type=click.IntRange(min=1), default=100, show_default=True, help="The last so many.")
@click.option("-f", "--follow", is_flag=True, help="Go on as they come.")
@click.option("--since", metavar="TIME", help="Such as '1 hour ago' or today.")
@_name
def logs_command(lines: int, follow: bool, since: str | None, name: str) -> None:
    """What the service said, its compilations too, from the journal."""
    import shutil

    place = _place(name, Path("/"))
    if shutil.which("journalctl") is None:
        raise UsageError("journalctl is not here, so there is no journal; in a container: docker logs NAME")
    words = ["journalctl", "--unit", place.unit, "--unit", f"{name}-prepare@*", "--lines", str(lines)]
    words += (["--follow"] if follow else ["--no-pager"]) + (["--since", since] if since else [])
    sys.stdout.flush()
    os.execvp(words[0], words)


@service_command.command("uninstall")
@click.option("--purge", is_flag=True, help="Its results and configuration as well.")
@_name
@_root
def uninstall_command(purge: bool, name: str, root: Path) -> None:
    """Stop the service and remove it; results and configuration stay, unless --purge."""
    from edge_retina.service import install, systemd

    place = _place(name, root)
    systemd.need_root_and_systemd(place, uid=_uid())
    install.check_place(place)
    removed = install.uninstall(place, purge=purge, on_wait=_wait)
    for path in removed.gone:
        _talk(f"removed {path}")
    for path in removed.left:
        click.echo(f"left {path}")
    _talk(f"the user {name} stays, for files may belong to it; to remove it: userdel {name}")


_IN_IMAGES = "/opt/edge-retina/bin/edge-retina"


def _place(name: str, root: Path) -> Place:
    from edge_retina.service.place import Place

    root = Path(os.path.abspath(root))
    return Place(name, root, image=root != Path("/"))


def _uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else -1


def _talk(text: str) -> None:
    click.echo(text, err=True)


def _wait() -> None:
    _talk("another upgrade is under way: waiting for it")


def _patience(settings: Settings, settle_s: float) -> Patience:
    from edge_retina.service.upgrade import Patience

    # The manager's own limits come first; a minute more, for its answer to arrive.
    return Patience(settings.compile_s + 60, settings.start_s + 60, settle_s)


@contextmanager
def _changing(place: Place, *, first: bool = False) -> Iterator[Releases]:
    """The releases, for this process alone to change; first: there need be none yet."""
    from edge_retina.service.releases import Releases

    releases = Releases(place)
    if not first:
        _installed(place, releases)
    # The service's user reads bundle and program, and only root writes them, whatever root's own umask.
    umask = os.umask(0o022)
    try:
        with releases.locked(_wait):
            yield releases
    finally:
        os.umask(umask)


def _installed(place: Place, releases: Releases) -> Release:
    current = releases.current
    if current is None:
        raise UsageError(f"there is no service in {place.state}; run: edge-retina service install BUNDLE --config FILE")
    return current


def _switch(place: Place, releases: Releases, release: Release, settings: Settings, settle_s: float) -> None:
    """Run it; one that failed, and is not all there is, is removed again."""
    from edge_retina.service.upgrade import switch

    try:
        switch(place, release, _patience(settings, settle_s), on_note=_talk)
    except RuntimeFailure:
        if releases.current != release:
            releases.remove(release)
        raise
    for number in releases.prune(settings.keep):
        _talk(f"release {number} removed")
