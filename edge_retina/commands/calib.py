"""`edge-retina calib`: making a calibration set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["calib_command"]

_ROWS = 12


@click.group("calib")
def calib_command() -> None:
    """Make a calibration set for `build --int8`."""


@calib_command.command("pick")
@click.option("--from", "uri", metavar="URI", required=True, help="Folder, glob, COCO json, video, camera or stream.")
@click.option("-n", "--count", type=click.IntRange(min=1), default=256, show_default=True, help="How many to choose.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("calib"), show_default=True, help="Folder to write."
)
@click.option("--images", type=click.Path(), help="Folder of a COCO json's pictures [images/ beside it, or beside it].")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Watch a camera for so long [60].")
@click.option("--every", metavar="K", type=click.IntRange(min=1), default=1, help="Look at each K-th frame only.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier pick in that folder.")
@click.option("--json", "as_json", is_flag=True, help="What pick.json holds, on stdout.")
def pick_command(
    uri: str,
    count: int,
    out: Path,
    images: str | None,
    seconds: float | None,
    every: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Choose the frames that differ most from each other, and say why these.

    Near duplicates, black and blown-out frames are left out. Pictures are copied as they are, frames of a video or
    camera written as PNG. With them: pick.json, and overview/contact-sheet.png to look at.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from edge_retina.calibrate.store import pick_into

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        listing = pick_into(
            out,
            uri,
            count,
            images=images,
            seconds=seconds,
            every=every,
            overwrite=overwrite,
            on_progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if as_json:
        click.echo(json.dumps(listing, indent=1))
    else:
        _show(listing, out)


def _show(listing: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from edge_retina.calibrate.store import SHEET
    from edge_retina.console import Results

    pictures, chosen = listing["pictures"], listing["chosen"]
    table = Table("file", "why", "distance", "brightness")
    for picture in pictures[:_ROWS]:
        distance = "" if picture["distance"] is None else f"{picture['distance']:.2f}"
        table.add_row(picture["file"], picture["reason"], distance, f"{picture['brightness']:.2f}")
    Results().print(table)
    if chosen > _ROWS:
        click.echo(f"and {chosen - _ROWS} more, in {out / 'pick.json'}")
    dropped = f"{listing['near_duplicates']} nearly the same as an earlier one, {listing['blank']} black or blown out"
    click.echo(f"{listing['seen']} seen, {dropped}, {chosen} chosen")
    if chosen < listing["wanted"]:
        click.echo(f"{listing['wanted']} were wanted; all {chosen} that differ were taken")
    if listing["smallest_distance"] is not None:
        click.echo(f"smallest distance between two of them: {listing['smallest_distance']:.2f}")
    click.echo(f"look at them: {out / SHEET}   next: edge-retina build MODEL.onnx --int8 --calib {out}")
