"""Which outputs of a graph are detections, by their types, shapes and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.errors import SpecError

__all__ = ["DetectionOutputs", "Found", "Output", "find_detections"]

# boxes (N, 4) xyxy, scores (N,), labels (N,)
Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]

_LABEL_NAMES, _SCORE_NAMES, _COUNT_NAMES = ("label", "class", "categor"), ("score", "conf"), ("num", "count", "valid")
_CORNERS, _CORNERS_AND_SCORE = 4, 5


@dataclass(frozen=True)
class Output:
    """One output of a graph: its name, element type ("float", "int64", ...) and shape, open axes as anything else."""

    name: str
    kind: str
    shape: tuple[Any, ...]

    @property
    def is_float(self) -> bool:
        """Of a floating-point type."""
        return self.kind in ("float", "float16", "double")

    @property
    def is_integer(self) -> bool:
        """Of an integer type."""
        return "int" in self.kind

    def named(self, words: Sequence[str]) -> bool:
        """Whether one of the words is in the name."""
        return any(word in self.name.lower() for word in words)

    def __str__(self) -> str:
        return f"{self.name} {self.kind} {list(self.shape)}"


@dataclass(frozen=True)
class DetectionOutputs:
    """Names of the outputs that hold detections. scores: None where they are the fifth column of the boxes.

    count: how many rows are meant, None where all are.
    """

    boxes: str
    scores: str | None
    labels: str
    count: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [name for name in (self.boxes, self.scores, self.labels, self.count) if name is not None]

    def read(self, values: Mapping[str, npt.NDArray[Any]]) -> Found:
        """Detections of the first image; rows that pad, with a score or label of 0 or less and below 0, are left out.

        values: each output by its name.
        """
        boxes = values[self.boxes].astype(np.float32)
        rows = boxes[0] if boxes.ndim == 3 else boxes
        scores = rows[:, _CORNERS] if self.scores is None else _first(values[self.scores], len(rows))
        labels = _first(values[self.labels], len(rows))
        end = len(rows) if self.count is None else int(values[self.count].reshape(-1)[0])
        meant = (scores[:end] > 0) & (labels[:end] >= 0)
        kept = rows[:end, :_CORNERS][meant], scores[:end][meant], labels[:end][meant]
        return kept[0], kept[1].astype(np.float32), kept[2].astype(np.int64)


def _first(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    return values.reshape(-1)[:count]


def find_detections(outputs: Sequence[Output]) -> DetectionOutputs | None:
    """The outputs that hold boxes, scores and labels; None where there are none, as in a graph that ends in raw heads.

    Boxes are floats [N, 4] or [B, N, 4], x1 y1 x2 y2 in pixels, or [.., 5] with the score; labels are integers, or
    floats named so, and scores floats, both [N] or [B, N] beside them. Axes go together when both are open or both have
    one size. Of several that fit the names decide. Raises SpecError where they do not.
    """
    found: list[tuple[Output, list[Output], list[Output]]] = []
    for boxes in outputs:
        if not boxes.is_float or len(boxes.shape) not in (2, 3) or boxes.shape[-1] not in (4, 5):
            continue
        beside = [o for o in outputs if o is not boxes and _together(o.shape, boxes.shape[:-1])]
        labels = [o for o in beside if o.is_integer or (o.is_float and o.named(_LABEL_NAMES))]
        scores = [o for o in beside if o.is_float and o not in labels]
        if labels and (bool(scores) or boxes.shape[-1] == _CORNERS_AND_SCORE):
            found.append((boxes, _likeliest(scores, _SCORE_NAMES), _likeliest(labels, _LABEL_NAMES)))
    if not found:
        return None
    if len(found) > 1:
        found = [hit for hit in found if hit[0].named(("box", "det"))] or found
    boxes, scores, labels = found[0]
    with_score = boxes.shape[-1] == _CORNERS_AND_SCORE
    if len(found) > 1 or len(labels) != 1 or (not with_score and len(scores) != 1):
        raise SpecError(
            "wanted one output each with boxes [N, 4], scores [N] and labels [N], found "
            f"{'; '.join(map(str, outputs))}, of which more than one could be meant; name them boxes, scores and "
            "labels in the export, give recorded detections with --reference, or compare the heads with --heads"
        )
    taken = {boxes, labels[0], *scores}
    rest = [o for o in outputs if o not in taken and o.is_integer and o.named(_COUNT_NAMES)]
    single = [o for o in rest if all(size == 1 for size in o.shape[1:])]
    count = single[0].name if len(single) == 1 else None
    return DetectionOutputs(boxes.name, None if with_score else scores[0].name, labels[0].name, count)


def _together(shape: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    pairs = zip(shape, wanted, strict=True)
    return all(a == b if isinstance(a, int) and isinstance(b, int) else type(a) is type(b) for a, b in pairs)


def _likeliest(outputs: list[Output], words: Sequence[str]) -> list[Output]:
    """Those named so where there are several, else all."""
    named = [o for o in outputs if o.named(words)]
    return named if len(outputs) > 1 and named else outputs
