"""What a comparison found, picture by picture and in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_retina.matching import PX, SCORE, Report
from edge_retina.types import U8, Detections

__all__ = ["Compared", "Verdict", "figures"]


@dataclass(frozen=True, eq=False)
class Compared:
    """One picture. image: uint8 (H, W, 3) BGR as both sides saw it; ours, wanted: in its pixels.

    score_needed: the score tolerance at which all match; None where none up to 0.005 does.
    """

    name: str
    image: U8
    ours: Detections
    wanted: Detections
    report: Report
    score_needed: float | None

    @property
    def badness(self) -> tuple[float, ...]:
        """By what the worst picture is chosen."""
        report = self.report
        return len(report.missing) + len(report.extra), report.worst_px / PX + report.worst_score / SCORE


@dataclass(frozen=True, eq=False)
class Verdict:
    """What came out. against: what the detections were held against and what that proves; source: the same, short.

    reports: of every picture, by name. worst: the picture with most differences. notes: what the user should know.
    score_needed: the score tolerance at which everything matches, None where it does not.
    """

    against: str
    source: str
    px: float
    score: float
    reports: tuple[tuple[str, Report], ...]
    worst: Compared
    score_needed: float | None
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Everything matches."""
        return all(report.ok for _, report in self.reports)

    @property
    def total(self) -> dict[str, Any]:
        """All pictures together, as figures() has one."""
        rows = [figures(report) for _, report in self.reports]
        best = {"worst_iou": min}
        kinds = {key: best.get(key, max if key.startswith("worst") else sum) for key in rows[0]}
        return {key: kind(r[key] for r in rows) for key, kind in kinds.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything but pixels."""
        pictures = [{"picture": name, **figures(report)} for name, report in self.reports]
        return {
            "ok": self.ok,
            "against": self.against,
            "px": self.px,
            "score": self.score,
            "score_needed": self.score_needed,
            "pictures": pictures,
            "total": self.total,
            "worst_picture": self.worst.name,
            "notes": list(self.notes),
        }


def figures(report: Report) -> dict[str, Any]:
    """The figures of a comparison."""
    counts = {"matched": report.matched, "missed": len(report.missing), "extra": len(report.extra)}
    worst = {"worst_px": report.worst_px, "worst_iou": report.worst_iou, "worst_score": report.worst_score}
    return {**counts, "at_cut_off": report.ignored, **worst}
