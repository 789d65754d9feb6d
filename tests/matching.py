"""Comparing two lists of detections honestly: by label, coordinates and score, whatever their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# boxes (N, 4) xyxy pixels, scores (N,), labels (N,)
Rows = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


@dataclass(frozen=True)
class Report:
    """matched: pairs. ignored: lone rows at the cut-off. missing, extra: row numbers of `wanted` and of `found`."""

    matched: int
    ignored: int
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    worst_px: float
    worst_score: float
    details: str = ""

    @property
    def ok(self) -> bool:
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
    px: float = 0.1,
    score: float = 1e-4,
    threshold: float = 0.0,
    limit: int | None = None,
) -> Report:
    """Pair rows of equal label whose coordinates all differ by less than px and scores by at most score.

    Not by IoU, which is 0 for a zero-area box and itself. The closest pairs go first; each row is used once. A row
    without partner is ignored when its score lies within `score` of a cut-off: the threshold that both sides were made
    with, or, where a side holds `limit` rows, the lowest score on that side.
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
    cuts = [threshold]
    cuts += [float(side.min()) for side in (scores, scores_wanted) if limit is not None and len(side) == limit]
    lone = [i for i in range(len(scores)) if i not in partner]
    lone_wanted = [i for i in range(len(scores_wanted)) if i not in taken]
    extra = tuple(i for i in lone if scores[i] > max(cuts) + score)
    missing = tuple(i for i in lone_wanted if scores_wanted[i] > max(cuts) + score)
    pairs = tuple(np.array(list(partner.items()), dtype=np.intp).reshape(-1, 2).T)
    lines = [f"\n  missing {_row(boxes_wanted, scores_wanted, labels_wanted, i)}" for i in missing[:5]]
    lines += [f"\n  extra   {_row(boxes, scores, labels, i)}" for i in extra[:5]]
    return Report(
        matched=len(partner),
        ignored=len(lone) + len(lone_wanted) - len(extra) - len(missing),
        missing=missing,
        extra=extra,
        worst_px=float(distance[pairs].max(initial=0.0)),
        worst_score=float(difference[pairs].max(initial=0.0)),
        details="".join(lines),
    )


def _arrays(side: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, scores, labels = (np.asarray(part) for part in side)
    return boxes.astype(np.float64).reshape(-1, 4), scores.astype(np.float64), labels.astype(np.int64)


def _row(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, index: int) -> str:
    return f"#{index} label {labels[index]} score {scores[index]:.5f} box {np.round(boxes[index], 2).tolist()}"
