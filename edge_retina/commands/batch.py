"""`edge-retina batch`: a bundle on a great many files."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_retina.commands.options import min_score_option

if TYPE_CHECKING:
    from edge_retina.batch import Progress

__all__ = ["batch_command"]

# Without a terminal, a line that often.
_TELL_S = 10.0


@click.command("batch")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("sources", metavar="SRC...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="OUT.parquet, or OUT.json for COCO.")
@min_score_option
@click.option("--concurrency", type=click.IntRange(min=1), help="Workers [one per GPU, else one per core].")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="CPU threads of a worker.")
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    metavar="N",
    help="GPUs of a worker, or a share such as 0.5 [1 where Ray finds any; 0: CPU].",
)
@click.option(
    "--target",
    type=click.Choice(("auto", "tensorrt", "tensorrt_rtx", "ort")),
    default="auto",
    show_default=True,
    help="Where to run; auto takes the first that works.",
)
@click.option("--batch", "batch_size", type=click.IntRange(1, 64), help="Most frames in one run [8 on a GPU, else 1].")
@click.option("--ray-address", metavar="HOST:PORT", help="A Ray cluster that this machine is part of [this machine].")
@click.option("--json", "as_json", is_flag=True, help="What was done, as one JSON object on stdout.")
def batch_command(
    bundle: Path,
    sources: tuple[str, ...],
    out: Path,
    min_score: float,
    concurrency: int | None,
    threads: int,
    gpus_per_worker: float | None,
    target: str,
    batch_size: int | None,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Detect in folders, patterns, pictures, videos and lists of them (.txt), with Ray, on one machine or many.

    SRC may be a URI, such as s3://bucket/frames. Interrupted, the same command goes on where it was; a file that cannot
    be read is a row of OUT.errors.parquet.
    """
    from edge_retina.batch import Workers, batch

    workers = Workers(concurrency, threads, gpus_per_worker, target, batch_size, ray_address)
    with _progress() as tell:
        done = batch(bundle, sources, out, min_score=min_score, workers=workers, on_progress=tell)
    fresh = f"{done.frames} frames, {done.detections} detections"
    rate = f", {done.frames / done.seconds:.1f} frames/s" if done.seconds else ""
    before = f"; {done.resumed} of {done.files} files were done before" if done.resumed else ""
    click.echo(f"{out}: {fresh}{rate}{before}", err=True)
    if done.repeated:
        click.echo(f"{done.repeated} units were done again, for their workers died", err=True)
    if done.failed:
        click.echo(f"{done.failed} of {done.files} files failed: see {done.errors_table}", err=True)
    if as_json:
        facts = {
            "out": str(out),
            "errors": str(done.errors_table),
            "files": done.files,
            "files_resumed": done.resumed,
            "files_failed": done.failed,
            "frames": done.frames,
            "detections": done.detections,
            "units_repeated": done.repeated,
            "seconds": round(done.seconds, 3),
        }
        click.echo(json.dumps(facts))


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr, with the time that is left; where that is no terminal, a line now and then."""
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (TextColumn("files"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    frames = TextColumn("{task.description}", markup=False)
    started = told = time.monotonic()
    with rich_progress.Progress(
        *columns, frames, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting Ray", total=None)

        def tell(now: Progress) -> None:
            nonlocal told
            seconds = time.monotonic() - started
            text = f"{now.frames} frames, {now.frames / seconds:.1f}/s" if now.frames else "starting Ray"
            bar.update(task, completed=now.files, total=now.total, description=text)
            if not console.is_terminal and time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                click.echo(f"{now.files} of {now.total} files, {text}", err=True)

        yield tell
