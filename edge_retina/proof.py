"""The proof in a build: how much accuracy a precision costs, and what to do when it is too much."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_retina.accuracy import Accuracy, check_annotations, evaluator, read_coco, well_formed
from edge_retina.bundle import Bundle, write_bundle
from edge_retina.calibrate.pictures import CalibrationSet, spread, stills_of
from edge_retina.detector import Detector
from edge_retina.errors import InputError, UsageError
from edge_retina.evaluate import Row, agreement, coco_images, coco_paths, detect, evaluate
from edge_retina.spec import DetectorSpec
from edge_retina.stream import frames_at_once
from edge_retina.types import Detections, Frame

__all__ = ["Judge", "Labelled", "Measured", "Pictured", "Trial", "Unlabelled", "cautions", "open_judge"]

# Pictures on which precisions are compared where there are no labels.
_MOST = 64
# Pictures kept with their detections, for the report.
_KEPT = 24
# As large as the report shows them, in pixels of the longer side: 24 pictures of 4K would take 600 MB.
_SIDE = 640
# With fewer, single objects or pictures decide.
_FEW_OBJECTS = 100
_FEW_PICTURES = 50

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Pictured:
    """A frame, scaled down where it is larger than the report shows it, and what a model detects in it."""

    frame: Frame
    detections: Detections


@dataclass(frozen=True, eq=False)
class Measured:
    """accuracy: of one model, None where it cannot be measured. pictured: the first frames, the same for each model.

    frame: the first of them in full size, None where there was none.
    """

    accuracy: Accuracy | None
    pictured: tuple[Pictured, ...]
    frame: Frame | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """Judges by annotated pictures."""

    annotations: dict[str, Any]
    folder: Path
    source: Path

    @property
    def labelled(self) -> bool:
        """What is measured is average precision."""
        return True

    @property
    def sentence(self) -> str:
        """What is measured, in words."""
        return f"average precision on {len(self.annotations['images'])} annotated pictures of {self.source}"

    def measure(self, bundle: Bundle, on_step: OnStep) -> Measured:
        """Average precision of a bundle."""
        kept = _Keeper(on_step, len(self.annotations["images"]))
        with _load(bundle) as detector:
            accuracy = evaluate(detector, self.annotations, self.folder, on_image=kept)
        return Measured(accuracy, tuple(kept.pictured), kept.frame)


class Unlabelled:
    """Judges by agreement with the first model measured, on calibration pictures."""

    def __init__(self, pictures: CalibrationSet) -> None:
        self.pictures = pictures
        self.indices = spread(pictures.count, _MOST)
        self._reference: list[Row] | None = None
        self._pictured: tuple[Pictured, ...] = ()

    @property
    def labelled(self) -> bool:
        """What is measured is agreement, not average precision."""
        return False

    @property
    def sentence(self) -> str:
        """What is measured, in words."""
        return (
            f"no annotations were given: agreement with the FP32 model's own detections on {len(self.indices)} "
            "calibration pictures, the ones that INT8's ranges are chosen on; agreement reacts more strongly than "
            "average precision does"
        )

    def measure(self, bundle: Bundle, on_step: OnStep) -> Measured:
        """Agreement of a bundle with the first one, whose own is 1; none where that one finds nothing."""
        wanted, kept = set(self.indices), _Keeper(on_step, len(self.indices), self._pictured)

        def frames() -> Iterator[tuple[int, Frame]]:
            return ((i, picture) for i, picture in enumerate(self.pictures.frames()) if i in wanted)

        with _load(bundle) as detector:
            rows = detect(detector, frames(), on_image=kept)
        if self._reference is None:
            self._reference, self._pictured = rows, tuple(kept.pictured)
        accuracy = None
        with contextlib.suppress(InputError):  # nothing found, nothing to agree with
            accuracy = agreement(self._reference, rows, bundle.labels, images=len(self.indices))
        return Measured(accuracy, tuple(kept.pictured), kept.frame)


Judge = Labelled | Unlabelled


def open_judge(annotations: Path | None, images: Path | None, pictures: CalibrationSet | None) -> Judge | None:
    """What can be judged by: annotated pictures, else the calibration pictures, else nothing.

    Raises InputError, MissingPackage.
    """
    if annotations is not None or pictures is not None:
        evaluator()  # missing, that is better known now than after calibration
    if annotations is not None:
        path, folder = coco_paths(annotations, images)
        data = read_coco(path)
        check_annotations(data)
        coco_images(data, folder)  # likewise, that all of them are there
        with well_formed():
            known = {int(image["id"]) for image in data["images"]}
            found = any(int(a["image_id"]) in known and not a.get("iscrowd") for a in data["annotations"])
        if not found:
            raise InputError(f"{path}: holds no object, so there is nothing to measure; use annotated pictures")
        return Labelled(data, folder, path)
    return None if pictures is None else Unlabelled(pictures)


def cautions(judge: Judge, pictures: CalibrationSet | None) -> list[str]:
    """Why not to take what is measured at face value, a sentence each: overlap with calibration, too few to tell.

    pictures: what INT8 is calibrated on, None for nothing. Files are compared by content, those of equal size only.
    Raises InputError for a picture that cannot be read.
    """
    if isinstance(judge, Unlabelled):
        count = len(judge.indices)
        few = f"only {count} pictures to compare on, {_FEW_PICTURES} or more tell better: agreement moves by chance"
        return [few] if count < _FEW_PICTURES else []
    found, images = [], coco_images(judge.annotations, judge.folder)
    if same := _shared([path for _, path in images], _files(pictures, judge.folder)):
        found.append(
            f"{same} of {len(images)} evaluation pictures are calibration pictures too, on which INT8 looks better "
            "than on others; evaluate on others"
        )
    known = {image_id for image_id, _ in images}
    with well_formed():
        rows = [row for row in judge.annotations["annotations"] if int(row["image_id"]) in known]
        objects = sum(not row.get("iscrowd") for row in rows)
    if objects < _FEW_OBJECTS:
        plural = "s" if objects != 1 else ""
        found.append(f"only {objects} object{plural} in the annotations: AP moves by chance")
    return found


def _files(pictures: CalibrationSet | None, folder: Path) -> list[Path]:
    """The files of a calibration set; none for a video, a camera and what is no longer as it was.

    folder: where the pictures of a COCO json may lie, if not beside it.
    """
    if pictures is None or pictures.digest is None:
        return []
    for images in (None, folder):
        with contextlib.suppress(InputError, UsageError):
            stills = stills_of(pictures.uri, images) or ()
            chosen = [Path(stills[i]) for i in spread(len(stills), pictures.count)] if stills else []
            if tuple(path.name for path in chosen) == pictures.names:
                return chosen
    return []


def _shared(wanted: list[Path], others: list[Path]) -> int:
    """How many of the wanted files have the content of one of the others."""
    try:
        sizes = {path: path.stat().st_size for path in {*wanted, *others}}
        ours, theirs = {sizes[path] for path in wanted}, {sizes[path] for path in others}
        digests = {p: hashlib.sha256(p.read_bytes()).digest() for p in sizes if sizes[p] in ours & theirs}
    except OSError as exc:
        raise InputError(f"cannot read {exc.filename}: {exc.strerror}; check the path and its permissions") from exc
    known = {digests[path] for path in others if path in digests}
    return sum(digests.get(path) in known for path in wanted)


class _Keeper:
    """Counts pictures and keeps the first of them, scaled down, with their detections; of the first the frame, too.

    earlier: what was kept of the same pictures with another model, so that each is in memory once.
    """

    def __init__(self, on_step: OnStep, total: int, earlier: Sequence[Pictured] = ()) -> None:
        self._earlier = earlier
        self.pictured: list[Pictured] = []
        self.frame: Frame | None = None
        self._on_step, self._total, self._done = on_step, total, 0

    def __call__(self, frame: Frame, detections: Detections) -> None:
        if self._done == 0:
            self.frame = frame
        if len(self.pictured) < _KEPT:
            found = _scaled(frame, detections)
            if len(self.pictured) < len(self._earlier):
                found = replace(found, frame=self._earlier[len(self.pictured)].frame)
            self.pictured.append(found)
        self._done += 1
        self._on_step(self._done, self._total)


def _scaled(frame: Frame, detections: Detections) -> Pictured:
    """At most _SIDE wide and high; boxes alike, so that their overlap stays what it was."""
    import cv2

    height, width = frame.image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    if scale == 1:
        return Pictured(frame, detections)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = np.asarray(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    xyxy = detections.xyxy * np.array([size[0] / width, size[1] / height] * 2, np.float32)
    boxes = Detections(xyxy, detections.scores, detections.labels, detections.names, (size[1], size[0]))
    return Pictured(replace(frame, image=image), boxes)


def _load(bundle: Bundle) -> Detector:
    return Detector.load(bundle.path, target="ort", parallel=frames_at_once(Path()))


class Trial:
    """Bundles in a temporary folder, to be measured and forgotten."""

    def __init__(self, spec: DetectorSpec, model_digest: str, frame_size: tuple[int, int] | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edge-retina-")
        self._facts: dict[str, Any] = {"spec": spec, "model_digest": model_digest, "frame_size": frame_size}

    def bundle(self, model: bytes, precision: str, batch_max: int | None) -> Bundle:
        """One of them."""
        path = Path(self._folder.name) / "trial.edge"
        return write_bundle(path, model=model, precision=precision, batch_max=batch_max, **self._facts)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
