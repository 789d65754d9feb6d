"""`edge-retina bench`: how long a frame takes, bundles side by side."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

import click

from edge_retina.commands.build import stages
from edge_retina.commands.runtime import Chosen, runtime_options

__all__ = ["bench_command"]

# Held in memory, so that decoding pictures is not measured; as many as a look at other pictures needs.
_PICTURES = 16
_MIB = 1 << 20


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--source", metavar="URI", default="test://?size=1280x720&frames=16", show_default=True, help="Frames.")
@click.option("--frames", type=click.IntRange(min=1), default=200, show_default=True, help="Frames to time.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds the bundles take.")
@click.option("--warm-up", type=click.IntRange(min=0), default=10, show_default=True, help="Frames before that.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def bench_command(
    bundles: tuple[Path, ...],
    source: str,
    frames: int,
    rounds: int,
    warm_up: int,
    threads: int | None,
    as_json: bool,
    chosen: Chosen,
) -> None:
    """Time frames, one at a time, from memory to detections; several BUNDLES take turns.

    Of TensorRT also: how often a captured graph was launched and how often its pieces, and what is held on the GPU.
    """
    from edge_retina.bench import measure
    from edge_retina.sources import open_source

    with closing(open_source(source, max_frames=_PICTURES)) as opened:
        images = [frame.image for frame in islice(opened, _PICTURES)]
    with ExitStack() as stack:
        detectors = [(str(p), stack.enter_context(chosen.open(p, threads=threads, parallel=1))) for p in bundles]
        with stages("frames") as (on_stage, on_step, _):
            on_stage("time")
            timings = measure(detectors, images, frames=frames, rounds=rounds, warm_up=warm_up, on_step=on_step)
    rows = [timing.to_json() for timing in timings]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    first = rows[0]["p50_ms"]
    for row in rows:
        beside = "" if row is rows[0] else f", {first / row['p50_ms']:.2f} x the first"
        click.echo(
            f"{row['name']} on {row['runtime']}: {row['p50_ms']:.2f} ms (p90 {row['p90_ms']:.2f}, p99 "
            f"{row['p99_ms']:.2f}), {row['fps']:.1f} fps{beside}"
        )
        if counts := row.get("counts"):
            click.echo(
                f"  {counts['captured_launches']} graph launches, {counts['plain_launches']} piece by piece, "
                f"{counts['captures']} captures, {counts['allocations']} allocations, "
                f"{counts['bytes_held'] / _MIB:.1f} MiB of GPU memory held"
            )
        if row["noisy"]:
            click.echo(f"  the rounds' medians vary by {row['variation']:.0%}: the machine does other work", err=True)
