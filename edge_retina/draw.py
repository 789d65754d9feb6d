"""Detections made visible: boxes and labels on one image, many images on one sheet."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from edge_retina.errors import InputError, UsageError
from edge_retina.types import U8, Detection, Detections

__all__ = ["contact_sheet", "draw", "letterbox"]

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x1 y1 x2 y2, whole pixels, x2 and y2 exclusive

# BGR. Neighbours differ in hue and in brightness, so that they part for colour-blind eyes and in grey too.
_COLOURS: tuple[Colour, ...] = (
    (64, 64, 235),  # red
    (230, 200, 40),  # cyan
    (40, 170, 250),  # orange
    (220, 90, 40),  # blue
    (70, 225, 150),  # lime
    (190, 50, 160),  # purple
    (60, 230, 250),  # yellow
    (110, 130, 20),  # teal
    (200, 150, 250),  # pink
    (60, 140, 40),  # green
    (250, 170, 190),  # lilac
    (50, 80, 140),  # brown
)
_GOLDEN_RATIO = 0.618034  # steps of it never come near the hues already used
_BACKGROUND = 24
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV 5 brought a Unicode font; before it every byte of "ä" becomes a question mark.
_UNICODE_FONT = int(cv2.__version__.split(".")[0]) >= 5
# Per pixel of the mean side: a line of 2 and letters of 11 pixels at 640 x 480.
_LINE_WIDTH = 0.0032
_FONT_SCALE = 0.0009
_MIN_FONT_SCALE = 0.4
_LEGIBLE_FONT_SCALE = 0.25


def draw(image: U8, detections: Detections, *, min_score: float = 0.0) -> U8:
    """A copy of the image with box, name, score and, where tracked, #id of every detection of at least min_score.

    image: uint8 (H, W, 3) BGR. detections: xyxy in pixels of that image; the best are drawn on top.
    Returns uint8 (H, W, 3) BGR. Raises UsageError where detections belong to a frame of another size.
    """
    _require_bgr8(image)
    height, width = image.shape[:2]
    if len(detections) and detections.shape not in ((0, 0), (height, width)):
        found = f"detections of a {detections.shape[1]} x {detections.shape[0]} frame"
        raise UsageError(
            f"wanted detections of this {width} x {height} image, found {found}; detect in what you draw on"
        )
    canvas = np.array(image, copy=True, order="C")
    line_width = max(1, round((height + width) / 2 * _LINE_WIDTH))
    rows = [
        (_to_pixels(row.xyxy, height, width), _colour(row.label), _text(row))
        for row in detections.mask(min_score=min_score)
        if np.isfinite(row.xyxy).all() and _is_seen(row.xyxy, height, width)
    ]
    for box, colour, _ in reversed(rows):
        _draw_box(canvas, box, colour, line_width)
    taken: list[Rectangle] = []
    for box, colour, text in rows:  # the best chooses its place first
        _draw_label(canvas, box, colour, text, taken)
    return canvas


def contact_sheet(images: Sequence[U8], columns: int, *, cell: tuple[int, int] = (240, 320), gap: int = 6) -> U8:
    """All images on one dark sheet, row by row, each shrunk or grown to fit its cell.

    images: uint8 (H, W, 3) BGR, of any sizes. cell: (H, W) of a cell, gap: space around cells, both pixels.
    Returns uint8 BGR: rows * (H + gap) + gap high, columns * (W + gap) + gap wide. Raises UsageError without images.
    """
    if not images or columns < 1 or min(cell) < 1 or gap < 0:
        found = f"{len(images)} images, {columns} columns, cell {cell}, gap {gap}"
        raise UsageError(
            f"a contact sheet wants at least 1 image, 1 column, 1 pixel per cell and no gap below 0, found {found}"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = cell
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), _BACKGROUND, np.uint8)
    for number, image in enumerate(images):
        y = number // columns * (height + gap) + gap
        x = number % columns * (width + gap) + gap
        sheet[y : y + height, x : x + width] = letterbox(image, cell, background=_BACKGROUND)
    return sheet


def letterbox(image: U8, shape: tuple[int, int], *, background: int = 0) -> U8:
    """The image at the largest size that fits `shape`, centred, with bars of one grey where it does not fill it.

    image: uint8 (H, W, 3) BGR. shape: (H, W) wanted. Returns uint8 shape + (3,); the same array where it fits already.
    """
    _require_bgr8(image)
    height, width = shape
    if image.shape[:2] == shape:
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height = min(height, max(1, round(image.shape[0] * scale)))
    inner_width = min(width, max(1, round(image.shape[1] * scale)))
    resized = cv2.resize(
        image, (inner_width, inner_height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    canvas = np.full((height, width, 3), background, np.uint8)
    y, x = (height - inner_height) // 2, (width - inner_width) // 2
    canvas[y : y + inner_height, x : x + inner_width] = resized
    return canvas


def _require_bgr8(image: U8) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"wanted a uint8 (H, W, 3) image, found {image.dtype} {image.shape}; pass it through to_bgr8")


def _is_seen(xyxy: tuple[float, float, float, float], height: int, width: int) -> bool:
    """Whether any of the box lies on the image; what some trainers do not clip may lie beside it."""
    return max(xyxy[0], xyxy[2]) >= 0 and max(xyxy[1], xyxy[3]) >= 0 and xyxy[0] <= width and xyxy[1] <= height


def _to_pixels(xyxy: tuple[float, float, float, float], height: int, width: int) -> Rectangle:
    """The box in whole pixels, at least one of them, inside the image."""
    x1, x2 = (round(min(max(x, 0.0), float(width))) for x in (xyxy[0], xyxy[2]))
    y1, y2 = (round(min(max(y, 0.0), float(height))) for y in (xyxy[1], xyxy[3]))
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _text(row: Detection) -> str:
    number = "" if row.track_id is None or row.track_id < 0 else f"#{row.track_id} "
    return f"{number}{row.name} {row.score:.2f}"


def _colour(label: int) -> Colour:
    if 0 <= label < len(_COLOURS):
        return _COLOURS[label]
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN_RATIO % 1.0, 0.55 + label % 3 * 0.2, 1.0 - label % 2 * 0.35)
    return round(blue * 255), round(green * 255), round(red * 255)


def _draw_box(canvas: U8, box: Rectangle, colour: Colour, line_width: int) -> None:
    """Lines of whole pixels along the edge of the box, half of their width outside; cv2.rectangle would blur them."""
    grow = line_width // 2
    x1, y1 = max(0, box[0] - grow), max(0, box[1] - grow)
    inside = canvas[y1 : box[3] + grow, x1 : box[2] + grow]
    inside[:line_width] = inside[-line_width:] = colour
    inside[:, :line_width] = inside[:, -line_width:] = colour


def _draw_label(canvas: U8, box: Rectangle, colour: Colour, text: str, taken: list[Rectangle]) -> None:
    """Text on a filled plate that stays inside the image; left out where no legible size or no free place is."""
    height, width = canvas.shape[:2]
    if not _UNICODE_FONT:
        text = text.encode("ascii", "replace").decode()
    scale = max(_MIN_FONT_SCALE, (height + width) / 2 * _FONT_SCALE)
    text_width, letter_height, descent, pad = _measure(text, scale)
    if text_width + 2 * pad > width:
        scale *= width / (text_width + 2 * pad) * 0.95  # widths do not scale quite evenly
        text_width, letter_height, descent, pad = _measure(text, scale)
    plate_width, plate_height = text_width + 2 * pad, letter_height + descent + 2 * pad
    if scale < _LEGIBLE_FONT_SCALE or plate_width > width or plate_height > height:
        return
    x = max(0, min(box[0], width - plate_width))
    # Above the box, in it at the top, in it at the bottom, below it; the first that is free. None free: a box without
    # its label is better than a label over the one of a better detection.
    lowest = height - plate_height
    tops = [top for top in (box[1] - plate_height, box[1], box[3] - plate_height, box[3]) if 0 <= top <= lowest]
    plates = [(x, top, x + plate_width, top + plate_height) for top in tops or [min(box[1], lowest)]]
    plate = next((plate for plate in plates if not any(_overlap(plate, other) for other in taken)), None)
    if plate is None:
        return
    taken.append(plate)
    canvas[plate[1] : plate[3], plate[0] : plate[2]] = colour
    blue, green, red = colour
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else (255, 255, 255)  # ITU-R BT.601 luma
    origin = (plate[0] + pad, plate[1] + pad + letter_height)
    cv2.putText(canvas, text, origin, _FONT, scale, ink, _stroke(scale), cv2.LINE_AA)


def _measure(text: str, scale: float) -> tuple[int, int, int, int]:
    """Width of the text, height of its letters above and below the line, padding; pixels."""
    (text_width, _), _ = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
    # Measured on letters that reach highest and lowest, so that all plates are equally high.
    (_, letter_height), descent = cv2.getTextSize("Ag", _FONT, scale, _stroke(scale))
    return text_width, letter_height, descent, max(1, round(6 * scale))


def _stroke(scale: float) -> int:
    return max(1, round(scale * 1.6))


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
