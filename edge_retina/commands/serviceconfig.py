"""The configuration of a service, checked before anything is changed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_retina.commands.runfile import read_config
from edge_retina.errors import UsageError

if TYPE_CHECKING:
    from edge_retina.service.place import Place
    from edge_retina.service.settings import Settings

__all__ = ["Wanted", "environment_maker", "read_settings", "read_wanted"]


@dataclass(frozen=True)
class Wanted:
    """A configuration and the bundle it is for. text: the file as it is. csi: CSI cameras are among the sources."""

    text: bytes
    digest: str
    settings: Settings
    csi: bool


def read_settings(config: Path) -> Settings:
    """The table [service] of a configuration. Raises UsageError."""
    from edge_retina.service.settings import Settings

    return Settings.parse(read_config(config).get("service", {}))


def read_wanted(place: Place, bundle: Path, config: Path) -> Wanted:
    """Check all that can be checked before anything is changed. Raises UsageError, BundleError."""
    from edge_retina.bundle import read_bundle
    from edge_retina.commands.run import run_command
    from edge_retina.feeds import named
    from edge_retina.sources import is_live, redact

    settings = read_settings(config)
    with run_command.make_context("run", ["--config", str(config), str(bundle)]) as context:
        given = context.params
    uris = [named(text).uri for text in (*given["cameras"], *given["sources"])]
    if not any(is_live(uri) for uri in uris):
        found = ", ".join(map(redact, uris)) or "none"
        raise UsageError(f"{config}: a service wants a camera or stream in source, found {found}")
    if not given["outs"]:
        hint = 'such as out = "detections.jsonl?rotate=100MB&keep=10"'
        raise UsageError(f"{config}: nobody would see the results; it wants an out, {hint}")
    for out in given["outs"]:
        _check_out(place, config, out)
    for key in ("trust", "plan"):
        if given[key] is not None and not given[key].is_absolute():
            raise UsageError(f"{config}: {key} wants an absolute path, for the service runs in {place.data}")
    text = config.read_bytes()
    return Wanted(text, read_bundle(bundle).digest, settings, any(str(uri).startswith("csi://") for uri in uris))


def _check_out(place: Place, config: Path, out: str) -> None:
    from edge_retina.sources import redact

    scheme, separator, location = out.partition("://")
    path = Path(location if separator and scheme == "file" else out)
    data = Path(f"/var/lib/{place.name}/data")
    if out == "-" or (separator and scheme == "display"):
        raise UsageError(f"{config}: a service has no display and its stdout is the journal; {redact(out)} cannot be")
    if (not separator or scheme == "file") and not Path(os.path.normpath(data / path)).is_relative_to(data):
        raise UsageError(f"{config}: the service may write in {data} only, found out {redact(out)}; give a bare name")
    if path.suffix == ".jsonl" and "?" not in out:
        click.echo(f"{config}: {redact(out)} grows until the disk is full; give it ?rotate=100MB&keep=10", err=True)


def environment_maker(place: Place, package: str | None, wheels: Path | None) -> Callable[[Path], Path] | None:
    """What makes the Python environment of a release; None where it is to run in one that is there."""
    if package is None:
        if wheels is not None:
            raise UsageError("--wheels is for --package, found none")
        return None
    if place.image:
        raise UsageError("--package makes an environment where it will run, which --root cannot; use --program")

    from edge_retina.service.environment import make_environment

    return functools.partial(make_environment, package=package, wheels=wheels)
