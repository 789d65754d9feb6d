"""`edge-retina eval`: the accuracy of models side by side, on annotated pictures or against the first of them."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_retina.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edge_retina.accuracy import Accuracy
    from edge_retina.bundle import Bundle
    from edge_retina.detector import Detector

__all__ = ["eval_command"]

_WORST_CLASSES = 20
_Advance = Callable[..., None]


@dataclass(frozen=True)
class _Model:
    """A model to measure: the file named, the bundle it is or became."""

    path: Path
    bundle: Bundle


@dataclass(frozen=True)
class _Measured:
    """What came out for a model. seconds: loading it, reading and detecting all pictures, counting."""

    model: _Model
    accuracy: Accuracy
    seconds: float

    def to_json(self) -> dict[str, Any]:
        facts = {"path": str(self.model.path), "precision": self.model.bundle.manifest.precision}
        digest, seconds = self.model.bundle.digest, round(self.seconds, 3)
        return {**facts, "digest": digest, "accuracy": self.accuracy.to_json(), "seconds": seconds}


@click.command("eval")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--coco", type=click.Path(path_type=Path), help="Annotations: COCO json, or its folder.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures [beside the annotations].")
@click.option("--source", metavar="URI", help="Without --coco: a folder, glob, picture, video or test://.")
@click.option("--max-frames", type=click.IntRange(min=1), help="Without --coco: stop after this many frames.")
@click.option("--all-classes", is_flag=True, help=f"Every class [the {_WORST_CLASSES} worst].")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads [all cores].")
@click.option(
    "--target",
    type=click.Choice(("ort", "tensorrt", "tensorrt_rtx")),
    default="ort",
    show_default=True,
    help="Where to run what is measured.",
)
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def eval_command(
    models: tuple[Path, ...],
    coco: Path | None,
    images: Path | None,
    source: str | None,
    max_frames: int | None,
    all_classes: bool,
    threads: int | None,
    target: str,
    as_json: bool,
) -> None:
    """Measure the accuracy of each MODEL, a bundle or an ONNX, side by side.

    With --coco: average precision on annotated pictures. Without annotations, and two models or more: how far the
    others agree with what the first one detects.
    """
    from rich.console import Console

    from edge_retina.evaluate import evaluator
    from edge_retina.sources import redact

    uri = _source(models, coco, images, source, max_frames)
    evaluator()  # missing, that is better known now than after all pictures
    talk = Console(stderr=True, highlight=False, markup=False)
    with tempfile.TemporaryDirectory(prefix="edge-retina-") as folder:
        opened = [_open(path, Path(folder), number, talk) for number, path in enumerate(models)]
        if coco is not None:
            measured, note = _against_annotations(opened, coco, images, threads, target, talk)
        else:
            assert uri is not None
            measured, note = _against_the_first(opened, uri, max_frames, threads, target, talk)
    if as_json:
        facts = {"models": [m.to_json() for m in measured], "annotations": None if coco is None else str(coco)}
        reference = {} if uri is None else {"source": redact(uri), "reference": str(models[0])}
        click.echo(json.dumps({**facts, **reference}, indent=1))
    else:
        _print(measured, note, all_classes)


def _source(
    models: tuple[Path, ...], coco: Path | None, images: Path | None, source: str | None, max_frames: int | None
) -> str | Path | None:
    """Where pictures without annotations come from, None with annotations. Raises UsageError, InputError."""
    from edge_retina.sources import probe

    if coco is not None:
        if source is not None or max_frames is not None:
            raise UsageError("--coco names its pictures itself; leave out --source and --max-frames, or use --images")
        return None
    if (images is None) == (source is None):
        raise UsageError("eval wants annotations, --coco ann.json, or pictures: one of --source URI and --images DIR")
    if len(models) < 2:
        raise UsageError(
            f"without annotations models are held against the first one, found {models[0]} alone; name a second "
            "model, or annotations with --coco ann.json"
        )
    uri = source if source is not None else images
    assert uri is not None
    info = probe(uri)
    if info.live:
        raise UsageError("each model is to see the same frames, which a camera does not give twice; record a video")
    if info.frames is None and not info.paths and max_frames is None:
        raise UsageError(f"{uri} never ends; say how many frames to look at: --max-frames 100")
    return uri


def _open(path: Path, folder: Path, number: int, talk: Console) -> _Model:
    """The bundle, or the one built of an ONNX in `folder`."""
    from edge_retina.build import build
    from edge_retina.bundle import read_bundle
    from edge_retina.inspect import is_zip

    if path.suffix == ".edge" or is_zip(path):
        return _Model(path, read_bundle(path))
    with talk.status(f"building {path.name}") if talk.is_terminal else contextlib.nullcontext():
        return _Model(path, build(path, folder / f"{number}.edge"))


def _against_annotations(
    models: list[_Model], coco: Path, images: Path | None, threads: int | None, target: str, talk: Console
) -> tuple[list[_Measured], str]:
    from edge_retina.evaluate import category_ids, coco_images, coco_paths, evaluate, read_coco

    path, folder = coco_paths(coco, images)
    annotations = read_coco(path)
    total = len(coco_images(annotations, folder))
    for model in models:  # all of them, before any of them takes its time
        category_ids(annotations, model.bundle.labels)
    measured = _measure(
        models, threads, target, total, talk, lambda d, advance: evaluate(d, annotations, folder, on_image=advance)
    )
    found = measured[0].accuracy
    return measured, f"{found.objects} objects in {found.images} pictures of {path}"


def _against_the_first(
    models: list[_Model], uri: str | Path, max_frames: int | None, threads: int | None, target: str, talk: Console
) -> tuple[list[_Measured], str]:
    from edge_retina.evaluate import REFERENCE_SCORE, agreement
    from edge_retina.sources import probe

    first = models[0]
    for model in models[1:]:
        if model.bundle.labels != first.bundle.labels:
            ours, theirs = (", ".join(m.bundle.labels) for m in (first, model))
            raise UsageError(f"{first.path} knows {ours}; {model.path} knows {theirs}: compare models of equal labels")
    frames = probe(uri).frames
    total = min((n for n in (frames, max_frames) if n is not None), default=None)
    reference: list[dict[str, Any]] | None = None

    def agree(detector: Detector, advance: _Advance) -> Accuracy:
        nonlocal reference
        rows, images = _detect(detector, uri, max_frames, advance)
        reference = rows if reference is None else reference
        return agreement(reference, rows, first.bundle.labels, images=images)

    measured = _measure(models, threads, target, total, talk, agree)
    found = measured[0].accuracy
    counts = f"score >= {REFERENCE_SCORE}, {found.objects} in {found.images} pictures"
    return measured, f"no annotations, so this is no accuracy but agreement with what {first.path} detects ({counts})"


def _detect(
    detector: Detector, uri: str | Path, max_frames: int | None, advance: _Advance
) -> tuple[list[dict[str, Any]], int]:
    """COCO result rows of every frame of a source, by frame index, and how many frames there were."""
    from edge_retina.evaluate import detect
    from edge_retina.stream import read_ahead

    count = 0

    def look(*_: object) -> None:
        nonlocal count
        count += 1
        advance()

    with contextlib.closing(read_ahead(uri, max_frames=max_frames)) as frames:
        rows = detect(detector, ((frame.index, frame) for frame in frames), on_image=look)
    return rows, count


def _measure(
    models: list[_Model],
    threads: int | None,
    target: str,
    total: int | None,
    talk: Console,
    accuracy_of: Callable[[Detector, _Advance], Accuracy],
) -> list[_Measured]:
    """Each model measured, with a progress bar over `total` pictures, None where nobody knows."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from edge_retina.detector import Detector
    from edge_retina.runtime import cores
    from edge_retina.stream import frames_at_once

    parallel = min(frames_at_once(Path()), threads or cores())
    text = TextColumn("{task.description}", markup=False)
    measured = []
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=talk, disable=not talk.is_terminal) as bar:
        for model in models:
            task = bar.add_task(_title(model), total=total)
            start = time.perf_counter()
            with Detector.load(model.bundle.path, target=target, threads=threads, parallel=parallel) as detector:
                accuracy = accuracy_of(detector, lambda *_, task=task: bar.advance(task))
            measured.append(_Measured(model, accuracy, time.perf_counter() - start))
    return measured


def _title(model: _Model) -> str:
    return f"{model.path.name} {model.bundle.manifest.precision}"


def _print(measured: list[_Measured], note: str, all_classes: bool) -> None:
    from rich.table import Table

    from edge_retina.console import Results
    from edge_retina.evaluate import class_comparison, comparison

    columns = [(_title(m.model), m.accuracy) for m in measured]
    if len({name for name, _ in columns}) < len(columns):  # the same name in two folders
        columns = [(f"{m.model.path} {m.model.bundle.manifest.precision}", m.accuracy) for m in measured]
    most = None if all_classes else _WORST_CLASSES
    known = len(measured[0].accuracy.per_class)
    classes = "AP per class" if most is None or known <= most else f"AP per class, the worst {most} of {known}"
    result = Results()
    for title, (header, *rows) in ((note, comparison(columns)), (classes, class_comparison(columns, most))):
        click.echo(title)
        table = Table()
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        result.print(table)
