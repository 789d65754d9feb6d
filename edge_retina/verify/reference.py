"""Recorded detections: what a trainer's own code found, in a file.

`.npz`: per picture the arrays <name>.boxes (N, 4) x1 y1 x2 y2, <name>.scores (N,) and <name>.labels (N,), where <name>
is the picture's file name with or without its suffix.

`.json`, by picture: {"dog.jpg": [{"bbox": [x1, y1, x2, y2], "score": 0.9, "label": 17}, ...], ...}; a label is the
index of a class or its name.

`.json`, COCO results: [{"image_id": 139, "category_id": 17, "bbox": [x, y, width, height], "score": 0.9}, ...]; an
image_id is the picture's file name, with or without suffix, or the number that its name is (000000000139.jpg), and a
category_id the index of a class.

Boxes are in pixels of the picture.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.errors import InputError
from edge_retina.verify.outputs import Found

__all__ = ["Reference", "read_reference"]

_ARRAYS = ("boxes", "scores", "labels")


class Reference:
    """Detections by picture. pictures: name, as the file has it, to boxes (N, 4), scores (N,), labels (N,)."""

    def __init__(self, pictures: dict[str, Found]) -> None:
        self.pictures = pictures
        self._numbers = {int(name): name for name in pictures if name.isdecimal()}

    def of(self, picture: str) -> Found | None:
        """What was recorded for a picture of this file name; None where nothing was."""
        stem = Path(picture).stem
        number = self._numbers.get(int(stem), "") if stem.isdecimal() else ""
        return next((self.pictures[name] for name in (picture, stem, number) if name in self.pictures), None)


def read_reference(path: Path, labels: Sequence[str]) -> Reference:
    """Read either kind of file; labels: names of the model's classes, by index. Raises InputError."""
    kinds = {".npz": _read_npz, ".json": _read_json}
    if path.suffix.lower() not in kinds:
        raise InputError(f"{path}: wanted recorded detections as .npz or .json, found {path.suffix or 'no suffix'}")
    try:
        found = kinds[path.suffix.lower()](path, labels)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror or exc}; check the path and its permissions") from exc
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, EOFError, zipfile.BadZipFile) as exc:
        reason = f"no field {exc}" if isinstance(exc, KeyError) else str(exc)[:200]
        raise InputError(
            f"{path}: wanted recorded detections, .npz with <picture>.boxes, .scores and .labels or .json with "
            f"bbox, score and label, found what cannot be read as such: {reason}"
        ) from exc
    if not found:
        raise InputError(f"{path}: holds no detections; record what the trainer's own code finds in the pictures")
    return Reference(found)


def _read_npz(path: Path, _: Sequence[str]) -> dict[str, Found]:
    with path.open("rb") as file:  # np.load would leave a damaged one open
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise TypeError("it holds one array without a name")
        names = [key.removesuffix(".boxes") for key in arrays.files if key.endswith(".boxes")]
        return {name: _checked(name, *(arrays[f"{name}.{kind}"] for kind in _ARRAYS)) for name in names}


def _read_json(path: Path, labels: Sequence[str]) -> dict[str, Found]:
    data = json.loads(path.read_bytes())
    rows: dict[str, list[tuple[Any, Any, int]]] = {}
    if isinstance(data, dict):
        for name, items in data.items():
            rows[name] = [(row["bbox"], row["score"], _label(row["label"], labels)) for row in items]
    else:
        for row in data:
            x, y, width, height = map(float, row["bbox"])
            box = [x, y, x + width, y + height]
            rows.setdefault(str(row["image_id"]), []).append((box, row["score"], _label(row["category_id"], labels)))
    found = {}
    for name, items in rows.items():
        boxes = np.array([item[0] for item in items], np.float64) if items else np.zeros((0, 4))
        found[name] = _checked(name, boxes, np.array([i[1] for i in items]), np.array([i[2] for i in items], np.int64))
    return found


def _label(value: Any, labels: Sequence[str]) -> int:
    """A class as its index."""
    if isinstance(value, str):
        if value not in labels:
            raise ValueError(f"label {value!r} is none of the model's: {', '.join(labels[:20])}")
        return labels.index(value)
    return int(value)


def _checked(name: str, boxes: npt.NDArray[Any], scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Found:
    if boxes.shape != (len(boxes), 4) or scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
        shapes = ", ".join(str(part.shape) for part in (boxes, scores, labels))
        raise ValueError(f"{name}: boxes, scores and labels want shapes (N, 4), (N,) and (N,), found {shapes}")
    return boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64)
