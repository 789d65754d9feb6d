"""Comparing two lists of detections honestly: by label, coordinates and score, whatever their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.boxes import paired_iou

__all__ = ["PX", "SCORE", "Report", "match"]

# How far coordinates (pixels) and scores of one detection may lie apart: a few times the noise of float32 heads.
PX, SCORE = 0.1, 1e-4
# Lone rows that a report's text shows of each side.
_SHOWN = 5

# boxes (N, 4) xyxy pixels, scores (N,), labels (N,)
Rows = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
_Arrays = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Report:
    """How two lists of detections compare.

    matched: pairs. ignored: lone rows at the cut-off. missing, extra: row numbers of `wanted` and of `found`.
    worst_px, worst_score: largest differences within a pair. worst_iou: least overlap of a pair whose boxes both have
    area, 1 where there is none. details: the first missing and extra rows, as text.
    """

    matched: int
    ignored: int
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    worst_px: float
    worst_score: float
    worst_iou: float
    details: str = ""

    @property
    def ok(self) -> bool:
        """Nothing is missing and nothing extra."""
        return not self.missing and not self.extra

    def __str__(self) -> str:
        return (
            f"{self.matched} matched (worst {self.worst_px:.4f} px, {self.worst_score:.2e} in score), "
            f"{self.ignored} at the cut-off, {len(self.missing)} missing, {len(self.extra)} extra{self.details}"
        )


def match(
    found: Rows,
    wanted: Rows,
    *,
    px: float = PX,
    score: float = SCORE,
    threshold: float = 0.0,
    limit: int | None = None,
) -> Report:
    """Pair rows of equal label whose coordinates all differ by less than px and scores by at most score.

    found, wanted: boxes (N, 4) xyxy in the same pixels, scores (N,), labels (N,). Not by IoU, which is 0 for a
    zero-area box and itself. The closest pairs go first; each row is used once. A row without partner is ignored when
    rounding explains that the other side lacks it: its score lies within `score` of the threshold that both sides were
    made with, or both were cut off at `limit` rows and it is no better, within `score`, than the other side's last.
    """
    boxes, scores, labels = _arrays(found)
    boxes_wanted, scores_wanted, labels_wanted = _arrays(wanted)
    # Worst coordinate difference; the "initial" makes it defined where a side is empty.
    distance = np.abs(boxes[:, None] - boxes_wanted[None]).max(axis=2, initial=0.0)
    difference = np.abs(scores[:, None] - scores_wanted[None])
    near = (labels[:, None] == labels_wanted[None]) & (distance < px) & (difference <= score)
    rows, columns = np.nonzero(near)
    order = np.argsort(distance[rows, columns] / px + difference[rows, columns] / score, kind="stable")
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in partner and column not in taken:
            partner[row] = column
            taken.add(column)
    full = limit is not None and len(scores) == len(scores_wanted) == limit

    def lost(row: float, others: npt.NDArray[np.float64]) -> bool:
        cut_off = full and row <= float(others.min(initial=np.inf)) + score
        return not cut_off and abs(row - threshold) > score

    lone = [i for i in range(len(scores)) if i not in partner]
    lone_wanted = [i for i in range(len(scores_wanted)) if i not in taken]
    extra = tuple(i for i in lone if lost(scores[i], scores_wanted))
    missing = tuple(i for i in lone_wanted if lost(scores_wanted[i], scores))
    pairs: Any = tuple(np.array(list(partner.items()), dtype=np.intp).reshape(-1, 2).T)
    lines = [f"\n  missing {_row(boxes_wanted, scores_wanted, labels_wanted, i)}" for i in missing[:_SHOWN]]
    lines += [f"\n  extra   {_row(boxes, scores, labels, i)}" for i in extra[:_SHOWN]]
    return Report(
        matched=len(partner),
        ignored=len(lone) + len(lone_wanted) - len(extra) - len(missing),
        missing=missing,
        extra=extra,
        worst_px=float(distance[pairs].max(initial=0.0)),
        worst_score=float(difference[pairs].max(initial=0.0)),
        worst_iou=_worst_iou(boxes[pairs[0]], boxes_wanted[pairs[1]]),
        details="".join(lines),
    )


def _worst_iou(boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> float:
    solid = ((boxes[:, 2:] > boxes[:, :2]) & (others[:, 2:] > others[:, :2])).all(axis=1)
    pairs = (side[solid].astype(np.float32) for side in (boxes, others))
    return float(paired_iou(*pairs).min(initial=1.0))


def _arrays(side: Rows) -> _Arrays:
    boxes, scores, labels = (np.asarray(part) for part in side)
    return boxes.astype(np.float64).reshape(-1, 4), scores.astype(np.float64), labels.astype(np.int64)


def _row(
    boxes: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], index: int
) -> str:
    return f"#{index} label {labels[index]} score {scores[index]:.5f} box {np.round(boxes[index], 2).tolist()}"
