"""`edge-retina report`: the report of a build, out of its bundle."""

from __future__ import annotations

from pathlib import Path

import click

from edge_retina.drafts import Draft
from edge_retina.errors import BundleError

__all__ = ["report_command"]

_MEMBER = "report.html"


@click.command("report")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The page to write [bundle name with .html].")
def report_command(bundle: Path, out: Path | None) -> None:
    """Take the report out of BUNDLE: accuracy, layers and pictures, as one page for any browser."""
    from edge_retina.bundle import read_bundle

    opened = read_bundle(bundle)
    if _MEMBER not in opened.manifest.members:
        raise BundleError(
            f"{bundle}: holds no report; build makes one with --int8, with --fp16 --calib, or with --eval ann.json"
        )
    target = out or bundle.with_suffix(".html")
    draft = Draft(target)
    try:
        draft.fill(opened.read(_MEMBER))
        draft.publish()
    finally:
        draft.discard()
    click.echo(str(target))
