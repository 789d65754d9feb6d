"""`edge-retina bench`: how long a frame takes and where that time goes, configurations side by side."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_retina.commands.against import against, against_rows, peer_cases
from edge_retina.commands.build import stages
from edge_retina.commands.runtime import Chosen, runtime_options_without_batch
from edge_retina.drafts import Draft
from edge_retina.errors import InputError, UsageError

if TYPE_CHECKING:
    from edge_retina.bench.benchmark import Benchmark
    from edge_retina.bench.ends import Ends
    from edge_retina.bench.models import Model

__all__ = ["bench_command"]

# Held in memory, so that decoding pictures is not measured; as many as a look at other pictures needs.
_PICTURES = 16
# Read, written and profiled: enough for their percentiles, and soon done.
_MOST_READ, _MOST_PROFILED = 200, 50
_MOST_BATCH = 64
_PATTERN = "test://?size={width}x{height}&frames=200"
_SIZE = (720, 1280)


def _batches(_: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= _MOST_BATCH for part in parts):
        raise click.BadParameter(f"wants numbers from 1 to {_MOST_BATCH}, such as 1,4, found {value!r}", param=option)
    return tuple(dict.fromkeys(map(int, parts)))


def _listed(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return () if value is None else tuple(part.strip().lower() for part in value.split(","))


def _file(_: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A file to write; a bare --json is "-", stdout. Behind that may stand a bundle, which must not be replaced."""
    suffix = ".json" if option.name == "json_to" else ".html"
    if value is None or (value, suffix) == ("-", ".json"):
        return value
    if not value.endswith(suffix) or Path(value).is_dir():
        what = "FILE.json, or nothing for stdout" if suffix == ".json" else "FILE.html"
        found = f"the folder {value}" if Path(value).is_dir() else repr(value)
        raise click.BadParameter(f"wants {what}, found {found}", param=option)
    return value


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE|ONNX...")
@click.option("--source", metavar="URI", help="Frames [a test pattern].")
@click.option("--out", "outs", metavar="URI", multiple=True, help="Sinks to time, which are overwritten [JSON lines].")
@click.option("--precision", "precisions", callback=_listed, help="Of an ONNX, such as fp32,fp16,int8 [fp32].")
@click.option("--calib", metavar="SRC", help="Calibration pictures, for an ONNX in int8.")
@click.option("--batch", "batch_sizes", default="1", callback=_batches, help="Frames in one call, such as 1,4 [1].")
@click.option("--frames", type=click.IntRange(min=1), default=200, show_default=True, help="Calls to time.")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Rounds they take turns in.")
@click.option("--warm-up", type=click.IntRange(min=0), default=10, show_default=True, help="Calls before that.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads [all cores].")
@click.option("--profile/--no-profile", default=True, help="Also look where the time goes, in a pass of its own.")
@click.option("--against", "with_peers", is_flag=True, help="Also time the runtimes that are installed beside ours.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="torchvision state_dict, for --against.")
@click.option("--layers", is_flag=True, help="Print the slowest layers.")
@runtime_options_without_batch
@click.option("--json", "json_to", metavar="[FILE]", is_flag=False, flag_value="-", callback=_file, help="JSON.")
@click.option("--report", metavar="FILE", callback=_file, help="Also write a page with plots, such as bench.html.")
def bench_command(
    models: tuple[Path, ...],
    source: str | None,
    outs: tuple[str, ...],
    precisions: tuple[str, ...],
    calib: str | None,
    batch_sizes: tuple[int, ...],
    frames: int,
    rounds: int,
    warm_up: int,
    threads: int | None,
    profile: bool,
    with_peers: bool,
    checkpoint: Path | None,
    layers: bool,
    json_to: str | None,
    report: str | None,
    chosen: Chosen,
) -> None:
    """Time frames, one call at a time, from memory to detections; several configurations take turns.

    Then, in passes of their own: what the stages inside take, reading the source, and writing to sinks. Of TensorRT
    also: how often a captured graph was launched and how often its pieces, and what is held on the GPU. --against: the
    same trunk in ONNX Runtime, OpenVINO, OpenCV and PyTorch, where they are installed, with NumPy around it.
    """
    from edge_retina.bench.benchmark import LAYERS, benchmark
    from edge_retina.bench.cases import cases, open_model
    from edge_retina.bench.ends import read_frames, time_ends, try_outs
    from edge_retina.bench.models import find_models
    from edge_retina.sources import is_live, redact

    if json_to == "-" and "-" in outs:
        raise UsageError("--json and --out - both go to stdout; give one of them a file: --json bench.json")
    chosen = dataclasses.replace(chosen, batch=max(batch_sizes))
    with ExitStack() as stack:
        # Places that cannot be written are known before the work.
        drafts = {path: Draft(Path(path)) for path in (json_to, report) if path not in (None, "-")}
        for draft in drafts.values():
            stack.callback(draft.discard)
        try_outs(outs)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-retina-bench-")))
        with stages("models") as (on_stage, on_step, on_note):
            found = find_models(
                models, precisions, folder, calib=calib, on_stage=on_stage, on_step=on_step, on_note=on_note
            )
        with stages("frames") as (on_stage, on_step, _):
            on_stage("read")
            source = _pattern(found[0]) if source is None else source
            # Of a camera only those to hold: how long they take is seen in a run.
            most = _PICTURES if is_live(source) else _MOST_READ
            read = read_frames(source, most=min(frames, most), held=_PICTURES)
            images = [frame.image for frame in read.frames]
            if not images:
                raise InputError(f"{redact(source)}: wanted frames to measure on, found none; give another --source")
        opened = []
        for model in found:
            again = partial(chosen.open, model.bundle, threads=threads, parallel=1)
            opened.append(open_model(model, again, images[0]))
            stack.callback(opened[-1].detector.close)
        looks = min(frames, _MOST_PROFILED) if profile else 0
        ready = [c for each in opened for c in cases(each, batch_sizes, images, looks=looks, threads=threads)]
        if with_peers:
            with stages("peers") as (on_stage, _, on_note):
                on_stage("open")
                ready += peer_cases(opened, images, threads=threads, checkpoint=checkpoint, on_note=on_note)
        with stages("frames") as (on_stage, on_step, _):
            result = benchmark(
                ready, images, frames=frames, rounds=rounds, warm_up=warm_up, on_stage=on_stage, on_step=on_step
            )
            on_stage("ends of")
            ends = time_ends(opened[0].detector, source, outs, read, frames=min(frames, _MOST_READ))
        if json_to is not None:
            told = result.to_json(None if layers else LAYERS) | {"ends": ends.to_json()}
            told |= {"against": against(result)} if with_peers else {}
            _hand_out(json.dumps(told, indent=1) + "\n", drafts.get(json_to))
        if report is not None:
            from edge_retina.bench.page import render_page

            _hand_out(render_page(result, ends), drafts[report])
    if json_to != "-":
        _print(result, ends, layers)
        _print_peers(against(result) if with_peers else [])
    for warning in result.warnings:
        click.echo(f"  {warning}", err=True)


def _print_peers(found: list[dict[str, Any]]) -> None:
    from rich.table import Column, Table

    from edge_retina.console import Results

    if not found:
        return
    right, left = ("ms", "ours ms"), ("peer", "version", "bundle")
    columns = {name: Column(name, justify="right") for name in right} | {n: Column(n, overflow="fold") for n in left}
    order = ("peer", "version", "ms", "bundle", "ours ms")
    table = Table(*(columns[name] for name in order), "ours is so many times as fast")
    for row in against_rows(found):
        table.add_row(*row)
    Results().print(table)


def _pattern(model: Model) -> str:
    """Frames of a size that the bundle takes."""
    from edge_retina.bundle import read_bundle

    height, width = read_bundle(model.bundle, verify=False).manifest.frame_size or _SIZE
    return _PATTERN.format(height=height, width=width)


def _hand_out(content: str | bytes, draft: Draft | None) -> None:
    """Into its file, or to stdout."""
    if draft is None:
        click.echo(content, nl=False)
        return
    draft.fill(content.encode() if isinstance(content, str) else content)
    draft.publish()
    click.echo(f"wrote {draft.target}", err=True)


def _print(result: Benchmark, ends: Ends, layers: bool) -> None:
    from rich.table import Column, Table

    from edge_retina.bench.text import headline, layer_rows, machine_lines, stage_rows, trailer
    from edge_retina.console import Results

    console = Results()
    for number, measured in enumerate(result.measured):
        click.echo(headline(measured))
        for line in trailer(measured):
            click.echo(f"  {line}")
        table = Table("stage", *(Column(name, justify="right") for name in ("p50 ms", "p90", "p99", "p99.9", "share")))
        first = number == 0
        for row in stage_rows(measured, ends.capture_ms if first else (), ends.sinks_ms if first else ()):
            table.add_row(*row)
        console.print(table)
        if layers and (rows := layer_rows(measured)):
            name = Column("layer", overflow="fold")
            table = Table(name, "kind", "stage", Column("ms", justify="right"), Column("share", justify="right"))
            for row in rows:
                table.add_row(*row)
            console.print(table)
    for line in machine_lines(result, ends.loop):
        click.echo(line)
