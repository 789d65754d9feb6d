"""`edge-retina run`: a bundle on a camera, a video or pictures."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_retina import errors, project
from edge_retina.commands.completion import complete_sink, complete_source
from edge_retina.commands.options import min_score_option
from edge_retina.commands.runfile import config_option
from edge_retina.commands.runtime import Chosen, runtime_options
from edge_retina.commands.tracking import Watched, summary_lines, tracking_options
from edge_retina.events import Event

if TYPE_CHECKING:
    from edge_retina.detector import Detector
    from edge_retina.types import Detections, Frame

__all__ = ["run_command"]

# To the next sign of progress of a plan's compilation; the slowest steps on the smallest Jetson take minutes.
_COMPILING_S = 1200.0
_FRAME = (480, 640)


@click.command("run")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--camera",
    "cameras",
    metavar="N",
    multiple=True,
    shell_complete=complete_source,
    help="Camera: 0, /dev/video2 or csi://0; repeatable.",
)
@click.option(
    "--source",
    "sources",
    metavar="[NAME=]URI",
    multiple=True,
    shell_complete=complete_source,
    help="Video file, image, folder, glob, camera, stream or test://; repeatable.",
)
@click.option(
    "--out",
    "outs",
    metavar="URI",
    multiple=True,
    shell_complete=complete_sink,
    help="out.mp4, out.jsonl, folder/, display:// or -.",
)
@min_score_option
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames, of all sources.")
@click.option("--max-age", type=click.FloatRange(min=0, min_open=True), metavar="MS", help="Skip older live frames.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Work on so many frames a second of a source.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads [all cores].")
@tracking_options
@runtime_options
@click.option("--keep-trying", is_flag=True, help="Go on though no camera gave a frame at first, as a service does.")
@click.option("--prepare", is_flag=True, help="Compile what is to be compiled, work on one blank frame, and end.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout, one per frame.")
def run_command(
    bundle: Path | None,
    cameras: tuple[str, ...],
    sources: tuple[str, ...],
    outs: tuple[str, ...],
    min_score: float,
    max_frames: int | None,
    max_age: float | None,
    fps: float | None,
    threads: int | None,
    keep_trying: bool,
    prepare: bool,
    as_json: bool,
    chosen: Chosen,
    watched: Watched,
) -> None:
    """Detect on cameras, videos or pictures.

    Without BUNDLE: the one that edge-retina.toml names, else the only *.edge in this folder. Without --out: a window
    where there is a display, else a line per frame. A camera that stops is connected again. Under systemd it says when
    it is ready, how its cameras are, and that it is not stuck (docs/device.md).
    """
    import numpy as np

    from edge_retina.feeds import named
    from edge_retina.newest import Limits
    from edge_retina.sources import is_live, redact
    from edge_retina.stream import frames_at_once, run
    from edge_retina.watchdog import Notifier, Pulse

    if not cameras + sources:
        raise errors.UsageError("run wants one of --camera N and --source URI, such as --camera 0 or --source ride.mp4")
    if math.isnan(min_score):
        raise errors.UsageError("--min-score wants a number 0..1, found nan")
    feeds = [named(text) for text in cameras + sources]
    folder = Path.cwd()
    path = bundle or project.find_bundle(folder, project.read_project(folder))
    targets = [*outs, *(["-"] if as_json and "-" not in outs else [])]
    lines = False
    if not targets:
        lines = not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        targets = [] if lines else ["display://"]
    names = [feed.name or redact(feed.uri) for feed in feeds if feed.name or len(feeds) > 1 or is_live(feed.uri)]
    watch = watched.open(min_score, names)
    parallel = frames_at_once(feeds[0].uri) if len(feeds) == 1 else 1
    notifier = Notifier.from_environment()
    pulse, told = Pulse(notifier), _Told(alone=len(feeds) == 1, live=any(is_live(feed.uri) for feed in feeds))

    def on_frame(frame: Frame, detections: Detections) -> None:
        pulse.frame()
        if lines:
            _line(frame, detections)

    def on_event(event: Event) -> None:
        pulse.event(event)
        told(event)

    def open_detector() -> Detector:
        many = {"parallel": parallel, "sources": len(feeds)}
        return chosen.open(path, threads=threads, on_progress=lambda: notifier.extend(_COMPILING_S), **many)

    with _stopping() as stop, open_detector() as detector:
        if prepare or notifier.active:
            # Before anybody hears "ready": that a bundle loads does not mean that it runs.
            detector(np.zeros((*(detector.bundle.manifest.frame_size or _FRAME), 3), np.uint8))
        if prepare:
            _talk(f"{path}: ready to run on {detector.runtime.name}")
            return
        summary = run(
            detector,
            feeds,
            targets,
            max_frames=max_frames,
            min_score=min_score,
            limits=Limits(fps=fps, max_age_ms=max_age),
            batch=chosen.batch,
            steps=[watch] if watch else [],
            on_frame=on_frame,
            on_event=on_event,
            stop=stop,
            keep_trying=keep_trying,
            on_turn=pulse.turn,
        )
    latency = summary.to_json()["latency_ms_p50"] or 0
    counts = f"{summary.frames} frames, {summary.detections} detections"
    _talk(f"{counts}, {summary.fps:.1f} fps, {latency} ms a frame (median)")
    for name, camera in summary.cameras.items():
        _talk(f"{name}: {camera.captured} captured, {camera.processed} worked on, {camera.dropped} skipped")
    for line in summary_lines(watch) if watch else ():
        _talk(line)
    for sink, lost in summary.lost.items():
        _talk(f"{sink}: too slow for {lost} results")
    if stop.is_set():
        raise KeyboardInterrupt
    if summary.failures:
        raise summary.failures[0]


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; a second one interrupts at once. Signals are as before afterwards.

    SIGHUP comes when the terminal or the SSH connection goes; nohup has it ignored, and so it stays.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _talk(text: str) -> None:
    click.echo(text, err=True)


class _Told:
    """Tells what happens to cameras and sinks, a line each on stderr; what is seen in a picture is for the sinks.

    Not what the run is about to end by: the first failure of a source that is alone, a sink's over files.
    """

    def __init__(self, *, alone: bool, live: bool) -> None:
        self._quiet, self._live = alone, live

    def __call__(self, event: Event) -> None:
        self._quiet = self._quiet and event.kind != "live"
        first = event.kind == "connecting" and event.data.get("attempt") == 1
        if event.kind == "sink":
            if self._live:
                self._tell(event, str(event.data.get("sink", "")))
        elif event.kind in ("connecting", "live", "stale", "down", "size") and not (self._quiet or first):
            self._tell(event, event.camera)

    @staticmethod
    def _tell(event: Event, who: str) -> None:
        facts = [event.reason] if event.reason else []
        if "retry_s" in event.data:
            facts.append(f"next attempt in {event.data['retry_s']:.1f} s")
        if "width" in event.data:
            facts.append(f"{event.data['width']}x{event.data['height']}")
        if "lost" in event.data:
            facts.append(f"{event.data['lost']} results lost to it so far")
        _talk(f"{who}: {event.kind}" + (f" ({'; '.join(facts)})" if facts else ""))


def _line(frame: Any, detections: Any) -> None:
    """One frame as a line of text."""
    what = ", ".join(f"{d.name} {d.score:.2f} at {d.xyxy[0]:.0f},{d.xyxy[1]:.0f}" for d in detections) or "nothing"
    where = f"{frame.camera} {frame.index}" if frame.camera and frame.camera != frame.source else frame.index
    click.echo(f"{frame.name or where}: {what}")
