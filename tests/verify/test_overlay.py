"""The picture of the worst frame."""

from __future__ import annotations

import numpy as np

from edge_retina.matching import match
from edge_retina.types import Detections
from edge_retina.verify.overlay import overlay

ORANGE, BLUE = (40, 150, 250), (235, 110, 20)
LEGEND = 3 * 26


def detections(*boxes: tuple[float, ...], label: int = 0) -> Detections:
    count = len(boxes)
    rows = np.float32(boxes).reshape(count, 4)
    return Detections(rows, np.full(count, 0.5), np.full(count, label), ("thing",), (1000, 1000))


def drawn(ours: Detections, wanted: Detections, shape: tuple[int, int] = (1000, 1000)) -> np.ndarray:
    report = match((ours.xyxy, ours.scores, ours.labels), (wanted.xyxy, wanted.scores, wanted.labels))
    return overlay(np.zeros((*shape, 3), np.uint8), ours, wanted, report, source="recorded")


def test_nothing_found() -> None:
    picture = drawn(detections(), detections())
    assert picture.shape == (1000 + LEGEND, 1000, 3)
    assert not picture[:1000].any()
    assert (picture[1000 + 13, 20] == ORANGE).all()
    assert (picture[1000 + 26 + 13, 20] == BLUE).all()


def test_a_small_picture_is_enlarged_and_a_large_one_is_not() -> None:
    none = detections()
    assert drawn(none, none, (45, 90)).shape == (450 + LEGEND, 900, 3)
    assert drawn(none, none, (2000, 50)).shape == (2000 + LEGEND, 50, 3)


def test_a_pair_is_blue_inside_orange() -> None:
    picture = drawn(detections((100, 200, 300, 400)), detections((100, 200, 300, 400)))
    across = picture[300, 95:106]
    assert (across[5] == BLUE).all()
    assert (across[[4, 6]] == ORANGE).all()
    assert not across[[0, 1, 2, 8, 9, 10]].any()


def test_what_one_side_alone_has_is_bold_and_named() -> None:
    missed = drawn(detections(), detections((100, 200, 300, 400)))
    assert (missed[300, 97:104] == ORANGE).all()
    assert (missed[200 - 4, 102] == ORANGE).all()  # its name stands on the upper edge
    extra = drawn(detections((100, 200, 300, 400)), detections())
    assert (extra[300, 99:102] == BLUE).all()
    assert (extra[400 + 4, 102] == BLUE).all()  # and on the lower one


def test_what_matches_steps_back() -> None:
    both, more = detections((100, 200, 300, 400)), detections((100, 200, 300, 400), (500, 200, 700, 400))
    picture = drawn(both, more)
    assert (picture[300, 99] < np.array(ORANGE) * 0.6).all()
    assert (picture[300, 500] == ORANGE).all()


def test_boxes_outside_and_not_finite() -> None:
    odd = detections((-1e9, -50, 1e9, 5000), (np.nan, 0, 10, 10), (np.inf, 0, np.inf, 10))
    assert drawn(odd, detections()).shape == (1000 + LEGEND, 1000, 3)
