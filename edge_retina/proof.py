"""The proof in a build: how much accuracy a precision costs, and what to do when it is too much."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_retina.accuracy import Accuracy, evaluator, read_coco, well_formed
from edge_retina.bundle import Bundle, write_bundle
from edge_retina.calibrate.pictures import CalibrationSet, spread
from edge_retina.detector import Detector
from edge_retina.errors import InputError
from edge_retina.evaluate import Row, agreement, coco_images, coco_paths, detect, evaluate
from edge_retina.spec import DetectorSpec
from edge_retina.stream import frames_at_once
from edge_retina.types import Detections, Frame

__all__ = ["Judge", "Labelled", "Measured", "Pictured", "Trial", "Unlabelled", "open_judge"]

# Pictures on which precisions are compared where there are no labels.
_MOST = 64
# Pictures kept with their detections, for the report.
_KEPT = 24

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Pictured:
    """A frame and what a model detects in it."""

    frame: Frame
    detections: Detections


@dataclass(frozen=True, eq=False)
class Measured:
    """accuracy: of one model, None where it cannot be measured. pictured: the first frames, the same for each model."""

    accuracy: Accuracy | None
    pictured: tuple[Pictured, ...]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Judges by annotated pictures."""

    annotations: dict[str, Any]
    folder: Path
    source: Path

    @property
    def sentence(self) -> str:
        """What is measured, in words."""
        return f"average precision on {len(self.annotations['images'])} annotated pictures of {self.source}"

    def measure(self, bundle: Bundle, on_step: OnStep) -> Measured:
        """Average precision of a bundle."""
        kept = _Keeper(on_step, len(self.annotations["images"]))
        with _load(bundle) as detector:
            accuracy = evaluate(detector, self.annotations, self.folder, on_image=kept)
        return Measured(accuracy, tuple(kept.pictured))


class Unlabelled:
    """Judges by agreement with the first model measured, on calibration pictures."""

    def __init__(self, pictures: CalibrationSet) -> None:
        self.pictures = pictures
        self.indices = spread(pictures.count, _MOST)
        self._reference: list[Row] | None = None

    @property
    def sentence(self) -> str:
        """What is measured, in words."""
        return (
            f"no annotations were given: agreement with the FP32 model's own detections on {len(self.indices)} "
            "calibration pictures, which reacts more strongly than average precision does"
        )

    def measure(self, bundle: Bundle, on_step: OnStep) -> Measured:
        """Agreement of a bundle with the first one, whose own is 1; none where that one finds nothing."""
        wanted, kept = set(self.indices), _Keeper(on_step, len(self.indices))

        def frames() -> Iterator[tuple[int, Frame]]:
            return ((i, picture) for i, picture in enumerate(self.pictures.frames()) if i in wanted)

        with _load(bundle) as detector:
            rows = detect(detector, frames(), on_image=kept)
        self._reference = rows if self._reference is None else self._reference
        accuracy = None
        with contextlib.suppress(InputError):  # nothing found, nothing to agree with
            accuracy = agreement(self._reference, rows, bundle.labels, images=len(self.indices))
        return Measured(accuracy, tuple(kept.pictured))


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
        coco_images(data, folder)  # likewise, that all of them are there
        with well_formed():
            known = {int(image["id"]) for image in data["images"]}
            found = any(int(a["image_id"]) in known and not a.get("iscrowd") for a in data["annotations"])
        if not found:
            raise InputError(f"{path}: holds no object, so there is nothing to measure; use annotated pictures")
        return Labelled(data, folder, path)
    return None if pictures is None else Unlabelled(pictures)


class _Keeper:
    """Counts pictures and keeps the first of them with their detections."""

    def __init__(self, on_step: OnStep, total: int) -> None:
        self.pictured: list[Pictured] = []
        self._on_step, self._total, self._done = on_step, total, 0

    def __call__(self, frame: Frame, detections: Detections) -> None:
        if len(self.pictured) < _KEPT:
            self.pictured.append(Pictured(frame, detections))
        self._done += 1
        self._on_step(self._done, self._total)


def _load(bundle: Bundle) -> Detector:
    return Detector.load(bundle.path, parallel=frames_at_once(Path()))


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
