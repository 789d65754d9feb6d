"""`edge-retina run`: a bundle on a camera, a video or pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from edge_retina import errors, project
from edge_retina.commands.runtime import Chosen, runtime_options

__all__ = ["run_command"]


@click.command("run")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--camera", metavar="N", help="Camera number or device, such as 0 or /dev/video2.")
@click.option("--source", metavar="URI", help="Video file, image, folder, glob, camera, stream or test://.")
@click.option("--out", "outs", metavar="URI", multiple=True, help="out.mp4, out.jsonl, folder/, display:// or -.")
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Leave out detections below this score; 0 keeps all that the bundle gives.",
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout, one per frame.")
def run_command(
    bundle: Path | None,
    camera: str | None,
    source: str | None,
    outs: tuple[str, ...],
    min_score: float,
    max_frames: int | None,
    threads: int | None,
    as_json: bool,
    chosen: Chosen,
) -> None:
    """Detect on a camera, a video or pictures.

    Without BUNDLE: the one that edge-retina.toml names, else the only *.edge in this folder. Without --out: a window
    where there is a display, else a line per frame.
    """
    from edge_retina.stream import frames_at_once, run

    if (camera is None) == (source is None):
        raise errors.UsageError("run wants one of --camera N and --source URI, such as --camera 0 or --source ride.mp4")
    folder = Path.cwd()
    path = bundle or project.find_bundle(folder, project.read_project(folder))
    uri = camera if camera is not None else source
    assert uri is not None
    targets = [*outs, *(["-"] if as_json and "-" not in outs else [])]
    lines = False
    if not targets:
        lines = not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        targets = [] if lines else ["display://"]
    on_frame = _line if lines else lambda *_: None
    with chosen.open(path, threads=threads, parallel=frames_at_once(uri)) as detector:
        summary = run(detector, uri, targets, max_frames=max_frames, min_score=min_score, on_frame=on_frame)
    latency = summary.to_json()["latency_ms_p50"] or 0
    counts = f"{summary.frames} frames, {summary.detections} detections"
    click.echo(f"{counts}, {summary.fps:.1f} fps, {latency} ms a frame (median)", err=True)


def _line(frame: Any, detections: Any) -> None:
    """One frame as a line of text."""
    what = ", ".join(f"{d.name} {d.score:.2f} at {d.xyxy[0]:.0f},{d.xyxy[1]:.0f}" for d in detections) or "nothing"
    click.echo(f"{frame.name or frame.index}: {what}")
