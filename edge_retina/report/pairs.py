"""Pictures with what two models see in them, and where the two differ."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from edge_retina.boxes import iou
from edge_retina.report.content import MAX_PAIRS, Pair, Report
from edge_retina.report.markup import text
from edge_retina.types import U8, Detections

__all__ = ["Marks", "differs", "marks", "pair_figure", "pairs_section"]

# A detection counts from this score on, as evaluate.REFERENCE_SCORE has it; a partner may have any.
COUNTED_SCORE = 0.3
# Boxes of one label overlapping less are two objects (PASCAL VOC); those overlapping more than SAME_IOU look alike.
MATCH_IOU = 0.5
SAME_IOU = 0.9

_SIDE = 640
# Shown even where nothing differs.
_LEAST_PAIRS = 2
# The first quality that fits is taken: eight pictures stay below 1.2 MB in base64.
_PICTURE_BYTES = 110_000
_QUALITIES = (85, 70, 50, 30)
_LONGEST_LABEL = 24


class _Place(NamedTuple):
    """How a picture is drawn: scale from its pixels, and where its middle is."""

    scale: float
    middle: float


@dataclass(frozen=True)
class Marks:
    """What became of the detections of one picture. pairs: row of wanted, row of found, IoU. missing, extra: rows."""

    pairs: tuple[tuple[int, int, float], ...]
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    difference: float

    @property
    def shifted(self) -> int:
        """How many pairs do not quite cover each other."""
        return sum(overlap < SAME_IOU for *_, overlap in self.pairs)


def marks(wanted: Detections, found: Detections) -> Marks:
    """Pair the detections of one label by overlap, the closest first, each used once.

    Only what has a score of COUNTED_SCORE in either model counts; its partner may have less, so that a score that
    crosses the line by a hair is no difference. Boxes without area are left out. difference: the scores of what has no
    partner and 1 - IoU of what moved.
    """
    overlap = iou(wanted.xyxy, found.xyxy)
    overlap[wanted.labels[:, None] != found.labels[None]] = 0
    rows, columns = np.nonzero(overlap >= MATCH_IOU)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in partner and j not in taken:
            partner[i] = j
            taken.add(j)
    pairs = tuple(
        (i, j, float(overlap[i, j]))
        for i, j in sorted(partner.items())
        if max(wanted.scores[i], found.scores[j]) >= COUNTED_SCORE
    )
    missing = tuple(i for i in _counted(wanted) if i not in partner)
    extra = tuple(j for j in _counted(found) if j not in taken)
    alone = [*wanted.scores[list(missing)].tolist(), *found.scores[list(extra)].tolist()]
    return Marks(pairs, missing, extra, sum(alone) + sum(1 - overlap for *_, overlap in pairs if overlap < SAME_IOU))


def _counted(side: Detections) -> list[int]:
    has_area = (side.xyxy[:, 2:] > side.xyxy[:, :2]).all(1)
    return [int(i) for i in np.flatnonzero(has_area & (side.scores >= COUNTED_SCORE))]


def differs(seen: Marks) -> bool:
    """True when something is marked."""
    return bool(seen.missing or seen.extra or seen.shifted)


def pairs_section(report: Report) -> str:
    """The most different pictures, with how many detections agree in all of them; "" without pictures."""
    if not report.pairs:
        return ""
    found = [(marks(pair.wanted, pair.found), pair) for pair in report.pairs]
    ordered = sorted(found, key=lambda item: -item[0].difference)[
        : min(MAX_PAIRS, max(_LEAST_PAIRS, sum(differs(seen) for seen, _ in found)))
    ]
    sides = "FP32", report.precision.upper()
    total = [sum(column) for column in zip(*(_tally(seen) for seen, _ in found), strict=True)]
    shown = len(ordered)
    which = "" if shown == len(found) else f" The {shown} most different are shown."
    scope = f"{len(found)} picture{'s' if len(found) > 1 else ''}, detections with a score of {COUNTED_SCORE} or more: "
    lead = f'<p class="soft">{scope}{text(_told(total, sides))}.{which}</p>'
    parts = [
        f'<div class="pair"><h3>{text(pair.name)}</h3><p class="soft">{text(_told(_tally(seen), sides))}</p>'
        f"{pair_figure(f'picture-{number}', pair, sides)}</div>"
        for number, (seen, pair) in enumerate(ordered, 1)
    ]
    return lead + _legend(sides) + "".join(parts)


def _tally(seen: Marks) -> tuple[int, int, int, int]:
    return len(seen.pairs) - seen.shifted, seen.shifted, len(seen.missing), len(seen.extra)


def _told(tally: Sequence[int], sides: tuple[str, str]) -> str:
    same, shifted, missing, extra = tally
    return f"{same} the same, {shifted} moved, {missing} only in {sides[0]}, {extra} only in {sides[1]}"


def _legend(sides: tuple[str, str]) -> str:
    meanings = {
        "same": f"in both, IoU {SAME_IOU} or more",
        "shifted": f"in both, moved: IoU {MATCH_IOU} to {SAME_IOU}",
        "missing": f"only in {sides[0]}",
        "extra": f"only in {sides[1]}",
    }
    box = '<rect class="{}" x="5" y="4" width="16" height="10"/>'
    swatch = '<svg viewBox="0 0 26 18" aria-hidden="true">' + box + "</svg>"
    items = "".join(f"<span>{swatch.format(kind)}{text(meaning)}</span>" for kind, meaning in meanings.items())
    return f'<p class="legend">{items}</p>'


def pair_figure(key: str, pair: Pair, sides: tuple[str, str]) -> str:
    """One picture twice: with what the first model found, and with what the second did.

    key: id of the picture in the page. sides: names of the models.
    """
    wanted, found = pair.wanted, pair.found
    height, width = pair.image.shape[:2]
    scale = _SIDE / max(height, width)
    drawn = max(1.0, width * scale), max(1.0, height * scale)
    place = _Place(scale, drawn[0] / 2)
    seen = marks(wanted, found)
    left = [_pair(wanted, i, found, j, overlap, place) for i, j, overlap in seen.pairs]
    right = [_pair(found, j, wanted, i, overlap, place) for i, j, overlap in seen.pairs]
    left += [_alone(wanted, i, "missing", f"only in {sides[0]}", place) for i in seen.missing]
    right += [_alone(found, j, "extra", f"only in {sides[1]}", place) for j in seen.extra]
    # As wide as all others, so that lines and letters have one size; a picture on end stands in the middle.
    view = f'viewBox="{(drawn[0] - _SIDE) / 2:.1f} 0 {_SIDE} {drawn[1]:.1f}"'
    size = f'width="{drawn[0]:.1f}" height="{drawn[1]:.1f}"'
    # One copy of the picture serves both sides.
    pictures = (
        f'<image id="{key}" href="{_data_uri(pair.image)}" preserveAspectRatio="none" {size}/>',
        f'<use href="#{key}"/>',
    )
    return "".join(
        f'<figure><svg class="picture" {view} role="img" '
        f'aria-label="{text(side)}">{picture}{_stacked(boxes)}</svg><figcaption>{text(side)}</figcaption></figure>'
        for side, picture, boxes in zip(sides, pictures, (left, right), strict=True)
    )


# Class, box and tag of one detection.
_Drawn = tuple[str, str, str]


def _stacked(boxes: Sequence[_Drawn]) -> str:
    """What differs above what does not, tags above boxes."""
    ordered = sorted(boxes, key=lambda drawn: drawn[0] != "same")
    return "".join(box for _, box, _ in ordered) + "".join(tag for *_, tag in ordered)


def _pair(mine: Detections, i: int, other: Detections, j: int, overlap: float, place: _Place) -> _Drawn:
    kind = "same" if overlap >= SAME_IOU else "shifted"
    here = _named(mine, i)
    box = _box(mine, i, kind, f"{here}; in the other {other.scores[j]:.2f}, IoU {overlap:.2f}", place)
    return kind, box, "" if kind == "same" else _tag(mine, i, kind, f"IoU {overlap:.2f}", place)


def _alone(side: Detections, i: int, kind: str, where: str, place: _Place) -> _Drawn:
    here = _named(side, i)
    return kind, _box(side, i, kind, f"{here}, {where}", place), _tag(side, i, kind, here, place)


def _named(side: Detections, i: int) -> str:
    name = side.name_of(int(side.labels[i]))
    short = name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"
    return f"{short} {side.scores[i]:.2f}"


def _box(side: Detections, i: int, kind: str, title: str, place: _Place) -> str:
    x1, y1, x2, y2 = (side.xyxy[i].astype(float) * place.scale).tolist()
    at = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    # A dark edge below the colour keeps it visible on any picture.
    return f'<g class="{kind}"><title>{text(title)}</title><rect class="edge" {at}/><rect {at}/></g>'


def _tag(side: Detections, i: int, kind: str, label: str, place: _Place) -> str:
    """Above the box, or inside it where the picture ends; from its left or its right edge towards the middle."""
    x1, y1, x2, _ = (side.xyxy[i].astype(float) * place.scale).tolist()
    y = y1 - 6 if y1 > 30 else y1 + 26
    x, anchor = (x1, "start") if (x1 + x2) / 2 < place.middle else (x2, "end")
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(label)}</text>'


def _data_uri(image: U8) -> str:
    """A JPEG at most _SIDE wide and high."""
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    encoded = b""
    for quality in _QUALITIES:
        encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
        if len(encoded) <= _PICTURE_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode('ascii')}"
