"""`edge-retina demo`: the main job on the shipped digits model and video, measured against its ground truth."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edge_retina.errors import InputError

if TYPE_CHECKING:
    from edge_retina.stream import Summary
    from edge_retina.types import U8, Detections, Frame

__all__ = ["Tally", "demo_command"]

# Of samples/digits: links in a checkout, the files themselves in an installed wheel.
SAMPLES = Path(__file__).with_name("demo_files")
# A detection is shown, and counted, from this score on.
MIN_SCORE = 0.5
_SHEET = (4, 3)  # columns, rows


@dataclass
class Tally:
    """Detections held against ground truth, by label name: there, found (IoU >= 0.5, right label), false."""

    there: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(default_factory=Counter)

    def add(self, detections: Detections, boxes: Any, names: list[str]) -> None:
        """Count one frame: detections, best first, take the free true box of their name that overlaps most."""
        from edge_retina.boxes import iou

        self.there.update(names)
        free = list(range(len(names)))
        overlap = iou(detections.xyxy, np.asarray(boxes, np.float32).reshape(-1, 4))
        for row, detection in enumerate(detections):
            mine = [i for i in free if names[i] == detection.name and overlap[row, i] >= 0.5]
            if mine:
                free.remove(max(mine, key=lambda i: overlap[row, i]))
                self.found[detection.name] += 1
            else:
                self.false[detection.name] += 1


@click.command("demo")
@click.option("--samples", type=click.Path(path_type=Path), default=SAMPLES, help="Folder of the digits sample.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames.")
def demo_command(samples: Path, out: Path, max_frames: int | None) -> None:
    """Build the shipped digits model, run it on the shipped video, show what it found."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from edge_retina.build import build
    from edge_retina.console import Results
    from edge_retina.detector import Detector
    from edge_retina.draw import draw
    from edge_retina.stream import frames_at_once, run

    model, video, truth = samples / "digits.onnx", samples / "pan.mp4", samples / "pan.json"
    for path in (model, video, truth):
        if not path.is_file():
            raise InputError(f"{path}: not there; install edge-retina anew, or in a clone: --samples samples/digits")
    talk = Console(stderr=True, highlight=False)
    boxes = _ground_truth(truth)
    total = min(len(boxes), max_frames or len(boxes))
    start = time.perf_counter()
    bundle = build(model, out / "digits.edge")
    talk.print(f"built {bundle.path.name} from {model.name} in {time.perf_counter() - start:.1f} s")

    outs = [out / "pan.mp4", out / "pan.jsonl"]
    tally, sheet = Tally(), _pick(total)
    pictures: list[U8] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    parallel = frames_at_once(video)
    opened = Detector.load(bundle.path, target="ort", parallel=parallel)
    with opened as detector, Progress(*columns, console=talk) as bar:
        task = bar.add_task("frames", total=total)

        def look(frame: Frame, detections: Detections) -> None:
            tally.add(detections, *boxes[frame.index])
            if frame.index in sheet:
                pictures.append(draw(frame.image, detections))
            bar.advance(task)

        summary = run(detector, video, outs, max_frames=max_frames, min_score=MIN_SCORE, on_frame=look)
    _write_sheet(pictures, out / "contact-sheet.png")

    title = f"{summary.frames} frames, score >= {MIN_SCORE}"
    table = Table("digit", "in the video", "found", "missed", "false", title=title)
    for name in bundle.labels:
        there, found, false = tally.there[name], tally.found[name], tally.false[name]
        table.add_row(name, str(there), str(found), str(there - found), str(false))
    there, found, false = (sum(counts.values()) for counts in (tally.there, tally.found, tally.false))
    table.add_section()
    table.add_row("all", str(there), str(found), str(there - found), str(false))
    result = Results()
    result.print(table)
    result.print(_speed(summary))
    for name, what in (("pan.mp4", "annotated video"), ("pan.jsonl", "detections"), ("contact-sheet.png", "picture")):
        click.echo(f"{what}: {out / name}")
    click.echo(f"bundle: {bundle.path}   next: edge-retina run {out / 'digits.edge'} --camera 0")


def _ground_truth(path: Path) -> list[tuple[list[list[float]], list[str]]]:
    """Boxes xyxy and names of every frame, by frame index."""
    try:
        frames = json.loads(path.read_bytes())["frames"]
        return [(frame["boxes"], frame["names"]) for frame in frames]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InputError(f"{path}: wanted the ground truth of the video, found: {exc!r}") from exc


def _pick(total: int) -> set[int]:
    """Frames for the contact sheet, evenly spread."""
    columns, rows = _SHEET
    return {int(i) for i in np.linspace(0, max(0, total - 1), columns * rows)}


def _write_sheet(pictures: list[U8], path: Path) -> None:
    from edge_retina.draw import contact_sheet
    from edge_retina.sinks import open_sink
    from edge_retina.types import Detections, Frame

    sheet = contact_sheet(pictures, _SHEET[0])
    with open_sink(path) as sink:
        sink.write(Frame(sheet), Detections.empty(sheet.shape[:2]))


def _speed(summary: Summary) -> str:
    facts = summary.to_json()
    fps, latency = facts["fps"], facts["latency_ms_p50"]
    return f"{fps} frames/s end to end, video written as it went; inference {latency} ms (median)"
