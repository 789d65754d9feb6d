"""`edge-retina report`: the report of a build, out of its bundle."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from edge_retina.drafts import Draft
from edge_retina.errors import BundleError, UsageError

__all__ = ["report_command"]

_MEMBER = "report.html"
# What a page starts with, in any case.
_PAGE_HEAD = b"<!doctype html"


@click.command("report")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(), help="The page to write, or its folder/ [bundle name with .html].")
def report_command(bundle: Path, out: str | None) -> None:
    """Take the report out of BUNDLE: accuracy, layers and pictures, as one page for any browser.

    Of plans that were compiled of it here the page also shows every layer with its types.
    """
    from edge_retina.bundle import read_bundle
    from edge_retina.plans import list_plans
    from edge_retina.report.engines import add_engines

    opened = read_bundle(bundle)
    if _MEMBER not in opened.manifest.members:
        raise BundleError(
            f"{bundle}: holds no report; build makes one with --int8, with --fp16 --calib, or with --eval ann.json"
        )
    target = _page_path(bundle, out)
    ours = (known for known in list_plans() if known.key.bundle == opened.digest)
    plans = [
        (f"{known.key.target} {known.key.version}, {known.key.gpu or known.key.compute_capability}", known.about)
        for known in ours
    ]
    draft = Draft(target)
    try:
        draft.fill(add_engines(opened.read(_MEMBER), plans))
        draft.publish()
    finally:
        draft.discard()
    click.echo(str(target))


def _page_path(bundle: Path, out: str | None) -> Path:
    """Where the page goes. Raises UsageError where it would replace something that is not an older page."""
    default = bundle.with_suffix(".html")
    target = default if out is None else Path(out)
    if target.is_dir() or (out or "").endswith(("/", os.sep)):
        target = target / default.name
    if target.resolve() == bundle.resolve():
        raise UsageError(f"{target}: the page would replace the bundle; choose another name with -o")
    if target.exists() and not _is_page(target):
        raise UsageError(f"{target}: is there and is no HTML page; choose another name with -o")
    return target


def _is_page(path: Path) -> bool:
    """By its first bytes; an empty file will do, a device, a pipe or what cannot be read will not."""
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(len(_PAGE_HEAD))
            return not head or head.lower() == _PAGE_HEAD
    return False
