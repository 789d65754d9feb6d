"""Two sets of detections on one picture: who found what."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_retina.draw import letterbox
from edge_retina.matching import Report
from edge_retina.types import U8, Detections

__all__ = ["overlay"]

Colour = tuple[int, int, int]

# BGR. Orange and blue part for colour-blind eyes; where both lie on each other a blue line runs in an orange one.
_WANTED: Colour = (40, 150, 250)
_OURS: Colour = (235, 110, 20)
# What matches steps back where something does not.
_FADED = 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BAND, _INK, _PAPER = 26, (20, 20, 20), (245, 245, 245)
# A small picture is enlarged to this, so that lines and letters do not hide it.
_LEAST_SIDE = 900
# Names beside boxes that only one side has; more would hide the picture.
_MOST_NAMES = 12


def overlay(image: U8, ours: Detections, wanted: Detections, report: Report, *, source: str) -> U8:
    """Both sets drawn on the picture, and a legend below it: matched pairs thin, what one side alone has bold, with its
    name.

    image: uint8 (H, W, 3) BGR. report: of match(ours, wanted). source: what `wanted` is, for the legend.
    Returns uint8 BGR, enlarged where the picture is small.
    """
    scale = max(1.0, _LEAST_SIDE / max(image.shape[:2]))
    size = round(image.shape[0] * scale), round(image.shape[1] * scale)
    canvas = np.array(letterbox(image, size), copy=True)
    canvas[:] = (canvas.astype(np.uint16) * 3 // 4).astype(np.uint8)  # darker, so that both colours stand out
    stretch = np.array([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
    plain = canvas.copy()
    # Ours last and thinner, so that both are seen where they lie on each other.
    sides = ((wanted, set(report.missing), _WANTED, 3, "missed"), (ours, set(report.extra), _OURS, 1, "extra"))
    for detections, alone, colour, width, _ in sides:
        for row in range(len(detections)):
            if row not in alone:
                _rectangle(canvas, detections.xyxy[row] * stretch, colour, width)
    if not report.ok:
        canvas = np.asarray(cv2.addWeighted(canvas, _FADED, plain, 1 - _FADED, 0), np.uint8)
    for detections, alone, colour, width, what in sides:
        for place, row in reversed(list(enumerate(sorted(alone)))):  # the best on top
            box = detections.xyxy[row] * stretch
            _rectangle(canvas, box, colour, 2 * width + 1)
            if place < _MOST_NAMES:
                name = detections.name_of(int(detections.labels[row]))
                _text(canvas, box, colour, f"{what}: {name} {detections.scores[row]:.4f}", above=detections is wanted)
    legend = (
        (_WANTED, f"{source}: {len(wanted)}, missed {len(report.missing)} (bold)"),
        (_OURS, f"edge-retina: {len(ours)}, extra {len(report.extra)} (bold)"),
        (None, f"matched {report.matched} (thin, blue inside orange), at the cut-off {report.ignored}"),
    )
    return np.concatenate([canvas, *(_band(canvas.shape[1], *line) for line in legend)])


def _rectangle(canvas: U8, box: npt.NDArray[np.floating], colour: Colour, width: int) -> None:
    if np.isfinite(box).all():
        limit = np.array([canvas.shape[1], canvas.shape[0]] * 2) - 1
        x1, y1, x2, y2 = np.clip(np.round(box), 0, limit).astype(int).tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width)


def _text(canvas: U8, box: npt.NDArray[np.floating], colour: Colour, text: str, *, above: bool) -> None:
    """A name on the box's upper edge, or on its lower one, so that those of two equal boxes are both read."""
    if np.isfinite(box).all():
        (width, height), below = cv2.getTextSize(text, _FONT, 0.5, 1)
        plate = height + below + 2
        x = int(np.clip(box[0], 0, max(0, canvas.shape[1] - width - 4)))
        y = int(np.clip(box[1] if above else box[3] + plate, plate, canvas.shape[0] - 2))
        cv2.rectangle(canvas, (x, y - plate), (x + width + 4, y), colour, -1)
        cv2.putText(canvas, text, (x + 2, y - below), _FONT, 0.5, _INK, 1, cv2.LINE_AA)


def _band(width: int, colour: Colour | None, text: str) -> U8:
    """One line of the legend."""
    band: U8 = np.full((_BAND, width, 3), _PAPER, np.uint8)
    if colour is not None:
        cv2.rectangle(band, (8, 7), (30, _BAND - 8), colour, -1)
    cv2.putText(band, text, (40, _BAND - 8), _FONT, _fitting(text, width - 48), _INK, 1, cv2.LINE_AA)
    return band


def _fitting(text: str, width: int) -> float:
    """The font size at which a text is no wider than this, at most 0.5."""
    (wide, _), _ = cv2.getTextSize(text, _FONT, 0.5, 1)
    return 0.5 * min(1.0, width / max(1, wide))
