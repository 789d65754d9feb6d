"""Accuracy of a detector: against COCO annotations, or against the detections of another (extra `eval`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_retina.accuracy import (
    MAX_DETECTIONS,
    Accuracy,
    average_precision,
    check_annotations,
    check_categories,
    class_comparison,
    comparison,
    evaluator,
    measure,
    read_coco,
    well_formed,
)
from edge_retina.detector import Detector
from edge_retina.errors import InputError, UsageError
from edge_retina.images import read_image
from edge_retina.stream import infer
from edge_retina.types import Detections, Frame

__all__ = [
    "REFERENCE_SCORE",
    "Accuracy",
    "agreement",
    "average_precision",
    "category_ids",
    "class_comparison",
    "coco_images",
    "coco_paths",
    "comparison",
    "detect",
    "evaluate",
    "evaluator",
    "read_coco",
]

Row = dict[str, Any]
OnImage = Callable[[Frame, Detections], None]

# A reference detection counts as an object from this score on; what `run` shows by default.
REFERENCE_SCORE = 0.3


def coco_paths(data: Path, images: Path | None = None) -> tuple[Path, Path]:
    """The annotations file and the folder of its pictures, as `train` has it; touches neither.

    data: the file, or a folder that holds annotations.json. images: the folder, else `images/` beside the annotations
    where there is one, else their folder.
    """
    path = data / "annotations.json" if data.is_dir() else data
    beside = path.parent / "images"
    return path, images or (beside if beside.is_dir() else path.parent)


def coco_images(annotations: Mapping[str, Any], folder: Path) -> list[tuple[int, Path]]:
    """Image id and file of every annotated picture, in the order of the annotations. Raises InputError."""
    with well_formed():
        images = [(int(image["id"]), folder / image["file_name"]) for image in annotations["images"]]
    if not images:
        raise InputError("wanted annotated pictures, found annotations of none")
    missing = [path for _, path in images if not path.is_file()]
    if missing:
        count = f"{len(missing)} of {len(images)} pictures are missing"
        raise InputError(f"{missing[0]} is not there ({count}); name the folder that holds them: --images DIR")
    return images


def category_ids(annotations: Mapping[str, Any], labels: Sequence[str]) -> list[int | None]:
    """The COCO category id of each label index; None for a label that the annotations do not know.

    By name, case and outer blanks aside, when each category with annotations is a label. Otherwise by order of the
    category ids when there are as many categories as labels and no name says otherwise. Raises UsageError, InputError.
    """
    check_categories(annotations)
    with well_formed():
        names = {int(c["id"]): str(c["name"]) for c in sorted(annotations["categories"], key=lambda c: c["id"])}
        used = {names[int(a["category_id"])] for a in annotations["annotations"]}
    ours, theirs = [_plain(label) for label in labels], [_plain(name) for name in names.values()]
    if {_plain(name) for name in used} <= set(ours):
        # setdefault: of two with one name the first.
        by_name: dict[str, int] = {}
        for category_id, name in names.items():
            by_name.setdefault(_plain(name), category_id)
        return [by_name.pop(label, None) for label in ours]
    if len(theirs) == len(ours) and not any(a != b and a in ours for a, b in zip(theirs, ours, strict=True)):
        return list(names)
    raise UsageError(
        f"the annotations are of {', '.join(names.values())}; the model knows {', '.join(labels)}; "
        "use annotations with the model's names, or give the model theirs when it is built: --spec with labels"
    )


def _plain(name: str) -> str:
    return name.strip().casefold()


def detect(
    detector: Detector, images: Iterable[tuple[int, Path | Frame]], *, on_image: OnImage = lambda *_: None
) -> list[Row]:
    """COCO result rows of all pictures in their order, all scores; category_id is the label index.

    images: image id and picture, a file (read when its turn comes) or a Frame. As many pictures are in memory as the
    detector's runtime works on at once, and one more. on_image is told each frame and its detections, in order.
    Raises InputError, UsageError, RuntimeFailure.
    """
    ids: list[int] = []

    def frames() -> Iterator[Frame]:
        for index, (image_id, picture) in enumerate(images):
            ids.append(image_id)
            if isinstance(picture, Frame):
                yield picture
            else:
                yield Frame(read_image(picture), index, name=picture.name, path=str(picture))

    rows: list[Row] = []
    with closing(infer(detector, frames())) as results:
        for position, (frame, detections, _) in enumerate(results):
            rows += detections.to_coco(ids[position])
            on_image(frame, detections)
    return rows


def evaluate(
    detector: Detector, annotations: Mapping[str, Any], folder: Path, *, on_image: OnImage = lambda *_: None
) -> Accuracy:
    """Accuracy of a detector on annotated pictures, which lie in `folder`.

    Detections of labels that the annotations do not know are left out. on_image: see detect. Raises InputError, also
    for what check_annotations finds and a picture of another size than its annotations say; UsageError,
    RuntimeFailure, MissingPackage.
    """
    evaluator()
    check_annotations(annotations)
    images, categories = coco_images(annotations, folder), category_ids(annotations, detector.names)
    if all(a.get("iscrowd") for a in annotations["annotations"]):
        raise InputError("the annotations hold no object, so there is nothing to measure; use annotated pictures")

    def look(frame: Frame, detections: Detections) -> None:
        facts = annotations["images"][frame.index]
        height, width = frame.image.shape[:2]
        if facts.get("width", width) != width or facts.get("height", height) != height:
            raise InputError(
                f"{frame.path}: is {width}x{height}, its annotations are of {facts.get('width')}x{facts.get('height')} "
                "pixels; name the folder of the annotated pictures: --images DIR"
            )
        on_image(frame, detections)

    rows = detect(detector, images, on_image=look)
    mapped = [row | {"category_id": categories[row["category_id"]]} for row in rows]
    return measure(annotations, [row for row in mapped if row["category_id"] is not None])


def agreement(
    reference: Sequence[Row],
    rows: Sequence[Row],
    labels: Sequence[str],
    *,
    images: int | None = None,
    min_score: float = REFERENCE_SCORE,
) -> Accuracy:
    """Accuracy of `rows` where the reference model's own detections are taken for the truth; equal rows give 1.

    reference, rows: what detect gave for the same pictures. images: how many those were, for the record.
    A reference detection is an object from min_score on. One below is neither: whoever finds it is not blamed, whoever
    does not, misses nothing (COCO's crowd flag). Else a score that crosses min_score by a hair would count as a false
    detection. Boxes without area are left out, for nothing overlaps them; per class and image there is no limit of 100.
    Raises InputError when the reference has no object, MissingPackage.
    """
    kept, found = ([row for row in side if row["bbox"][2] > 0 and row["bbox"][3] > 0] for side in (reference, rows))
    pictures = sorted({row["image_id"] for row in (*reference, *rows)})
    count = len(pictures) if images is None else images
    if not any(row["score"] >= min_score for row in kept):
        raise InputError(
            f"the reference model finds nothing with a score of {min_score} or more in {count} pictures, so there is "
            "nothing to agree with; use pictures of what it was trained on"
        )
    truth = {
        "images": [{"id": image_id} for image_id in pictures],
        "categories": [{"id": label, "name": name} for label, name in enumerate(labels)],
        "annotations": [row | {"iscrowd": int(row["score"] < min_score)} for row in kept],
    }
    most = max(Counter(row["image_id"] for side in (kept, found) for row in side).values())
    return measure(truth, found, images=count, max_detections=max(most, MAX_DETECTIONS[-1]))
