"""Accuracy by the COCO protocol: measured from result rows, and as tables (extra `eval`)."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.errors import InputError, MissingPackage

__all__ = [
    "MAX_DETECTIONS",
    "Accuracy",
    "average_precision",
    "check_annotations",
    "check_categories",
    "class_comparison",
    "comparison",
    "evaluator",
    "measure",
    "read_coco",
    "well_formed",
]

F64 = npt.NDArray[np.float64]

# Detections that count, per image and class, as COCO has it.
MAX_DETECTIONS = (1, 10, 100)
# The evaluator's ratios hold an epsilon of 2e-16 that would keep a perfect figure below 1.
_DIGITS = 12
_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What cocodataset.org, "Detection Evaluation", measures: 0..1, or -1 where there is no object to find.

    AP: the mean over IoU thresholds 0.50, 0.55, .. 0.95 and classes; AP50, AP75: at one threshold. APs, APm, APl: of
    objects below 32 x 32, below 96 x 96 and larger. AR1, AR10, AR100: recall with that many detections per image and
    class. per_class: category name to AP, of the categories with objects. images, objects: how many; crowds left out.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    per_class: Mapping[str, float] = field(hash=False)
    images: int
    objects: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, by field; Accuracy(**values) gives an equal one back."""
        return asdict(self)


def read_coco(path: Path) -> dict[str, Any]:
    """COCO annotations from a JSON file. Raises InputError when it is missing or is something else."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(f"{path}: wanted COCO annotations (JSON), found: {exc}") from exc
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(data, key), list)]
    if missing:
        raise InputError(f"{path}: wanted COCO annotations, found no list {' or '.join(missing)} in it")
    return data  # type: ignore[no-any-return]


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


@contextlib.contextmanager
def well_formed() -> Iterator[None]:
    """What is read inside are annotations: what is missing or of another type there becomes an InputError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise InputError(f"malformed COCO annotations: {type(exc).__name__} {exc}") from exc


def check_annotations(annotations: Mapping[str, Any]) -> None:
    """Raises InputError, naming the first, where nothing could be measured rightly.

    That is an image id given twice, an annotation of a category that is not listed, and a bbox or area that is
    infinite, not a number or of negative size.
    """
    with well_formed():
        images = Counter(int(image["id"]) for image in annotations["images"])
        twice = next((image for image, count in images.items() if count > 1), None)
        if twice is not None:
            raise InputError(f"the annotations have image id {twice} {images[twice]} times; give each picture its own")
        for number, row in enumerate(annotations["annotations"], 1):
            _check_row(f"annotation {row.get('id', f'number {number}')} of image {row['image_id']}", row)
    check_categories(annotations)


def _check_row(which: str, row: Mapping[str, Any]) -> None:
    x, y, width, height = (float(value) for value in row["bbox"])
    area = float(row.get("area", 0))
    if not all(map(math.isfinite, (x, y, width, height, area))) or min(width, height, area) < 0:
        raise InputError(
            f"{which}: wanted a bbox of x, y, width, height in pixels, found {row['bbox']}"
            + (f" and area {row['area']}" if "area" in row else "")
        )


def check_categories(annotations: Mapping[str, Any]) -> None:
    """Raises InputError, naming the first, where an annotation is of a category that is not listed."""
    with well_formed():
        listed = {int(c["id"]) for c in annotations["categories"]}
        used = (int(row["category_id"]) for row in annotations["annotations"])
        stranger = next((category for category in used if category not in listed), None)
    if stranger is not None:
        raise InputError(
            f"an annotation is of category_id {stranger}, which the annotations' categories do not list; "
            f"they list {', '.join(map(str, sorted(listed))) or 'none'}"
        )


def average_precision(annotations: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl and AR100 of COCO result rows against COCO annotations, 0..1.

    A size class without objects gives -1, as COCO has it; no results at all give 0 everywhere. Source:
    cocodataset.org, "Detection Evaluation".
    Raises MissingPackage without faster-coco-eval, InputError for results of an image that is not annotated.
    """
    accuracy = measure(annotations, results)
    return {name: getattr(accuracy, name) if results else 0.0 for name in _FIGURES}


def evaluator() -> tuple[Any, Any]:
    """The classes COCO and COCOeval_faster. Raises MissingPackage without faster-coco-eval."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as exc:
        raise MissingPackage("average precision needs faster-coco-eval; run: pip install faster-coco-eval") from exc
    return COCO, COCOeval_faster


def measure(
    annotations: Mapping[str, Any],
    results: Sequence[dict[str, Any]],
    *,
    images: int | None = None,
    max_detections: int = MAX_DETECTIONS[-1],
) -> Accuracy:
    """Accuracy of COCO result rows against COCO annotations.

    images: how many pictures to write down, where it is not those annotated. max_detections: most detections per image
    and class that count. Raises MissingPackage, InputError.
    """
    with well_formed():
        known = {int(image["id"]) for image in annotations["images"]}
        names = {int(c["id"]): str(c["name"]) for c in annotations["categories"]}
        rows = [_row(number, a) for number, a in enumerate(annotations["annotations"], 1)]
        objects = [row for row in rows if row["image_id"] in known and row["category_id"] in names]
    stranger = next((row["image_id"] for row in results if row["image_id"] not in known), None)
    if stranger is not None:
        raise InputError(f"results are of image {stranger}, which the annotations do not have; wanted their image ids")
    found = [_row(number, row) | {"score": row["score"]} for number, row in enumerate(results, 1)]
    classes, precision, recall = _curves(sorted(known), sorted(names), objects, found, max_detections)
    sizes = {f"AP{letter}": _mean(precision[..., size, -1]) for size, letter in enumerate("sml", 1)}
    recalls = {f"AR{most}": _mean(recall[:, :, 0, column]) for column, most in enumerate(MAX_DETECTIONS)}
    seen = Counter(names.values())
    titles = [names[c] if seen[names[c]] == 1 else f"{names[c]} ({c})" for c in classes]
    per_class = {title: _mean(precision[:, :, k, 0, -1]) for k, title in enumerate(titles)}
    return Accuracy(
        AP=_mean(precision[..., 0, -1]),
        AP50=_mean(precision[0, ..., 0, -1]),
        AP75=_mean(precision[5, ..., 0, -1]),
        **sizes,
        **recalls,
        per_class={title: ap for title, ap in per_class.items() if ap >= 0},
        images=len(known) if images is None else images,
        objects=sum(not row["iscrowd"] for row in objects),
    )


def _curves(
    images: list[int],
    categories: list[int],
    objects: list[dict[str, Any]],
    found: list[dict[str, Any]],
    max_detections: int,
) -> tuple[list[int], F64, F64]:
    """Category ids; precision (IoU threshold, recall, category, size, most detections); recall (no recall axis)."""
    coco, coco_eval = evaluator()
    frame = {"info": {}, "images": [{"id": i} for i in images], "categories": [{"id": c} for c in categories]}
    # The evaluator prints its progress; stdout is ours for results.
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [coco({**frame, "annotations": rows}) for rows in (objects, found)]
        evaluation = coco_eval(*sides, "bbox", print_function=lambda *_: None)
        evaluation.params.maxDets = [*MAX_DETECTIONS[:-1], max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    curves = evaluation.eval
    return list(evaluation.params.catIds), np.asarray(curves["precision"]), np.asarray(curves["recall"])


def _row(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the evaluator needs, in a dict of its own that it may write to. Ids from 1: it takes 0 for "no match"."""
    x, y, width, height = (float(value) for value in row["bbox"])
    return {
        "id": number,
        "image_id": int(row["image_id"]),
        "category_id": int(row["category_id"]),
        "bbox": [x, y, width, height],
        "area": float(row.get("area", width * height)),
        "iscrowd": int(row.get("iscrowd", 0)),
    }


def _mean(values: F64) -> float:
    """The mean of what was measured, -1 when nothing was."""
    measured = values[values > -1]
    return round(float(measured.mean()), _DIGITS) if measured.size else -1.0


def comparison(accuracies: Sequence[tuple[str, Accuracy]]) -> list[tuple[str, ...]]:
    """A table as rows of text, header first: a row per figure, a column per named accuracy.

    After each but the first stands its change from the first. "-" where there is no object to find.
    """
    values = {name: [getattr(accuracy, name) for _, accuracy in accuracies] for name in _FIGURES}
    return [_header(accuracies), *(_cells(name, row) for name, row in values.items())]


def class_comparison(accuracies: Sequence[tuple[str, Accuracy]], most: int | None = None) -> list[tuple[str, ...]]:
    """The table of comparison, with a row per class: what fell most from the first comes first, else the lowest AP.

    most: that many classes, None for all.
    """
    names = list(dict.fromkeys(name for _, accuracy in accuracies for name in accuracy.per_class))
    values = {name: [accuracy.per_class.get(name, -1.0) for _, accuracy in accuracies] for name in names}
    fall = {name: min((v - row[0] for v in row[1:]), default=row[0]) for name, row in values.items()}
    worst = sorted(names, key=lambda name: (fall[name], values[name][0]))[:most]
    return [_header(accuracies), *(_cells(name, values[name]) for name in worst)]


def _header(accuracies: Sequence[tuple[str, Accuracy]]) -> tuple[str, ...]:
    (first, _), *others = accuracies
    return "", first, *(cell for name, _ in others for cell in (name, "change"))


def _cells(name: str, values: Sequence[float]) -> tuple[str, ...]:
    shown = ["-" if value < 0 else f"{value:.4f}" for value in values]
    differences = [
        "-" if min(value, values[0]) < 0 else f"{round(value - values[0], 4) + 0.0:+.4f}" for value in values
    ]
    return name, shown[0], *(cell for pair in zip(shown[1:], differences[1:], strict=True) for cell in pair)
