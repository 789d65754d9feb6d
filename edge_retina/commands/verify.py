"""`edge-retina verify`: whether a model as edge-retina runs it gives the trainer's own detections."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_retina.commands.options import read_spec
from edge_retina.drafts import Draft
from edge_retina.errors import Mismatch, UsageError
from edge_retina.matching import PX, SCORE

if TYPE_CHECKING:
    from edge_retina.verify import Verdict

__all__ = ["verify_command"]

_DEFAULT_NAME = "verify.png"
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Of more pictures those with most differences are shown.
_MOST_ROWS = 30


@click.command("verify")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--images", metavar="DIR", required=True, help="Pictures: a folder, glob, picture or video.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="Detections recorded with the trainer's code: .npz or .json, see below.",
)
@click.option("--heads", is_flag=True, help="Compare the heads, though the ONNX has post-processing of its own.")
@click.option("-o", "--out", type=click.Path(), help=f"Picture of the worst frame [{_DEFAULT_NAME} if any differ].")
@click.option(
    "--px",
    type=click.FloatRange(min=0, min_open=True),
    default=PX,
    show_default=True,
    help="Coordinates of one detection differ by less than this.",
)
@click.option(
    "--score",
    type=click.FloatRange(min=0, min_open=True),
    default=SCORE,
    show_default=True,
    help="Scores of one detection differ by at most this.",
)
@click.option("--family", help="Exporter family, when it is not recognised.")
@click.option("--spec", "spec_path", type=click.Path(), help="JSON with DetectorSpec fields to replace.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def verify_command(
    model: Path,
    images: str,
    reference: Path | None,
    heads: bool,
    out: str | None,
    px: float,
    score: float,
    family: str | None,
    spec_path: str | None,
    as_json: bool,
) -> None:
    """Does MODEL, as edge-retina runs it, give its trainer's own detections?

    Held against, in this order: detections recorded in --reference; the post-processing in the ONNX, run as it is; the
    ONNX's own heads, decoded in NumPy, which proves the rewriting but not the spec. MODEL is an ONNX, or a bundle with
    --reference. Ends with exit code 10 when something differs.

    \b
    Recorded detections, boxes in pixels of the picture:
    .npz   dog.boxes (N, 4) x1 y1 x2 y2, dog.scores (N,), dog.labels (N,)
    .json  {"dog.jpg": [{"bbox": [x1, y1, x2, y2], "score": 0.9, "label": 17}]}
    .json  COCO results: [{"image_id": 139, "category_id": 17,
                           "bbox": [x, y, w, h], "score": 0.9}]

    A label is a class index (or, in the second form, a name), an image_id the picture's name or the number it is.
    """  # noqa: D301  click's mark for lines that stay as they are
    from rich.console import Console

    from edge_retina.verify import verify

    target = _target(out, images)
    talk = Console(stderr=True, highlight=False, markup=False)
    status = talk.status(f"reading {model.name}") if talk.is_terminal else None

    def step(done: int, total: int | None) -> None:
        if status is not None:
            status.update(f"{done} of {total} pictures" if total else f"{done} pictures")

    with status or contextlib.nullcontext():
        verdict = verify(
            model,
            images,
            reference=reference,
            heads=heads,
            px=px,
            score=score,
            family=family,
            overrides=read_spec(spec_path),
            on_picture=step,
        )
    drawn = target if out is not None or not verdict.ok else None
    if drawn is not None:
        _draw(drawn, verdict)
    if as_json:
        facts = {"model": str(model), **verdict.to_json(), "overlay": None if drawn is None else str(drawn)}
        click.echo(json.dumps(facts, indent=1))
    else:
        _print(model, verdict, drawn)
    if not verdict.ok:
        raise Mismatch(_sentence(model, verdict, drawn))


def _target(out: str | None, images: str) -> Path:
    """Where the picture goes. Raises UsageError for what is no picture, or one of those to look at."""
    from edge_retina.sources import probe

    target = Path(_DEFAULT_NAME if out is None else out)
    if target.is_dir() or (out or "").endswith(("/", os.sep)):
        target = target / _DEFAULT_NAME
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"-o wants a picture ({', '.join(_SUFFIXES)}), found {target}")
    if target.resolve() in [Path(path).resolve() for path in probe(images).paths]:
        raise UsageError(f"{target}: is one of the pictures to look at; choose another name with -o")
    return target


def _draw(target: Path, verdict: Verdict) -> None:
    import cv2

    from edge_retina.verify.overlay import overlay

    worst = verdict.worst
    image = overlay(worst.image, worst.ours, worst.wanted, worst.report, source=verdict.source)
    draft = Draft(target)
    try:
        draft.fill(cv2.imencode(target.suffix.lower(), image)[1].tobytes())
        draft.publish()
    finally:
        draft.discard()


def _print(model: Path, verdict: Verdict, drawn: Path | None) -> None:
    from rich.table import Table

    from edge_retina.console import Results
    from edge_retina.verify.verdict import figures

    rows = [(name, figures(report)) for name, report in verdict.reports]
    if len(rows) > _MOST_ROWS:
        rows.sort(key=lambda named: (-named[1]["missed"] - named[1]["extra"], -named[1]["worst_px"]))
    table = Table(caption="px, IoU, score: the worst of a matched pair", caption_justify="left")
    table.add_column("picture", overflow="fold", min_width=13)
    for name in ("matched", "missed", "extra", "cut-off", "px", "IoU", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in rows[:_MOST_ROWS]:
        table.add_row(name, *_cells(found))
    table.add_section()
    left_out = len(rows) - _MOST_ROWS
    table.add_row(f"all {len(rows)}" + (f", {left_out} not shown" if left_out > 0 else ""), *_cells(verdict.total))
    click.echo(f"{model} against {verdict.against}")
    Results().print(table)
    for note in verdict.notes:
        click.echo(f"note: {note}")
    if drawn is not None:
        click.echo(f"{drawn}: {verdict.worst.name}, the picture with most differences")


def _cells(found: dict[str, Any]) -> list[str]:
    counts = [str(found[key]) for key in ("matched", "missed", "extra", "at_cut_off")]
    return [*counts, f"{found['worst_px']:.3f}", f"{found['worst_iou']:.3f}", f"{found['worst_score']:.1e}"]


def _sentence(model: Path, verdict: Verdict, drawn: Path | None) -> str:
    total = verdict.total
    bad = sum(not report.ok for _, report in verdict.reports)
    text = (
        f"{model}: {total['missed']} detections missed and {total['extra']} extra in {bad} of {len(verdict.reports)} "
        f"pictures, {total['matched']} matched; look at {drawn}"
    )
    if verdict.score_needed is not None:
        text += f"; with --score {verdict.score_needed:g} all of them match"
    return text
