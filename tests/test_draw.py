from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina.draw import contact_sheet, draw, letterbox
from edge_retina.errors import InputError, UsageError
from edge_retina.types import U8, Detections

RED = (64, 64, 235)  # BGR, label 0


def grey(height: int, width: int) -> U8:
    return np.full((height, width, 3), 100, np.uint8)


def one(shape: tuple[int, int], *xyxy: float, label: int = 0, name: str = "cat", score: float = 0.9) -> Detections:
    names = tuple(name if index == label else str(index) for index in range(label + 1))
    return Detections(
        np.array([xyxy], np.float32), np.array([score], np.float32), np.array([label], np.int32), names, shape
    )


def test_nothing_detected_gives_an_equal_copy() -> None:
    image = grey(4, 6)
    drawn = draw(image, Detections.empty((4, 6)))
    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_one_pixel_image() -> None:
    drawn = draw(grey(1, 1), one((1, 1), 0, 0, 1, 1))
    assert drawn.tolist() == [[list(RED)]]


def test_box_covers_its_outer_pixels_and_no_more() -> None:
    # 100 x 100: line width round(100 * 0.0032) = 0, at least 1. Box 20..60: columns 20 and 59, rows 70 and 89.
    image = grey(100, 100)
    drawn = draw(image, one((100, 100), 20, 70, 60, 90))
    changed = (drawn != image).any(axis=2)
    assert changed[80].nonzero()[0].tolist() == [20, 59]
    assert changed[:, 55].nonzero()[0].tolist()[-2:] == [70, 89]
    assert drawn[80, 20].tolist() == list(RED)
    assert np.array_equal(image, grey(100, 100))


def test_line_grows_with_the_image() -> None:
    # mean side 1250 * 0.0032 = 4
    image = grey(1250, 1250)
    changed = (draw(image, one((1250, 1250), 100, 400, 900, 1200)) != image).any(axis=2)
    assert changed[800, :500].nonzero()[0].tolist() == [98, 99, 100, 101]


def test_min_score() -> None:
    image = grey(50, 50)
    detections = one((50, 50), 10, 10, 40, 40, score=0.5)
    assert (draw(image, detections, min_score=0.5) != image).any()
    assert np.array_equal(draw(image, detections, min_score=0.6), image)


def test_label_is_a_filled_plate_with_text_above_the_box() -> None:
    image = grey(200, 300)
    drawn = draw(image, one((200, 300), 50, 100, 250, 180, name="cat"))
    above = drawn[:100]
    assert (above == RED).all(axis=2).sum() > 300
    assert (above > 200).all(axis=2).any()  # white ink on red


@pytest.mark.parametrize(
    "xyxy",
    [
        (0, 0, 10, 10),  # top left: no room above
        (290, 0, 300, 200),  # right edge
        (0, 190, 300, 200),  # bottom
        (0, 0, 300, 200),  # everything
        (-1e9, -50, 1e9, 50),  # outside
        (150, 100, 150, 100),  # no area
    ],
)
def test_label_stays_inside(xyxy: tuple[float, float, float, float]) -> None:
    drawn = draw(grey(200, 300), one((200, 300), *xyxy, name="a rather long name"))
    plate = (drawn == RED).all(axis=2)
    rows, columns = plate.any(axis=1).sum(), plate.any(axis=0).sum()
    assert rows >= 12
    assert columns >= 100


def test_a_track_id_stands_before_the_name() -> None:
    image, box = grey(200, 300), (50, 100, 250, 180)
    untracked = one((200, 300), *box, name="cat")
    tracked = dataclasses.replace(untracked, track_ids=np.array([7]))
    assert np.array_equal(draw(image, tracked), draw(image, one((200, 300), *box, name="#7 cat")))
    not_yet = dataclasses.replace(untracked, track_ids=np.array([-1]))
    assert np.array_equal(draw(image, not_yet), draw(image, untracked))


def test_label_too_long_for_the_image_is_left_out() -> None:
    drawn = draw(grey(40, 40), one((40, 40), 10, 10, 30, 30, name="n" * 200))
    assert ((drawn != 100).any(axis=2)).sum() <= 4 * 20  # the box alone


def test_not_a_number_is_not_drawn() -> None:
    image = grey(20, 20)
    assert np.array_equal(draw(image, one((20, 20), float("nan"), 0, 10, 10)), image)


@pytest.mark.parametrize("xyxy", [(-30, 5, -2, 9), (5, 25, 9, 40), (45, 5, 60, 9), (5, -9, 9, -1)])
def test_a_box_beside_the_image_is_not_drawn(xyxy: tuple[float, float, float, float]) -> None:
    image = grey(20, 40)
    np.testing.assert_array_equal(draw(image, one((20, 40), *xyxy)), image)


def test_labels_differ_in_colour() -> None:
    colours = set()
    for label in range(40):
        drawn = draw(grey(40, 40), one((40, 40), 10, 30, 30, 38, label=label, name=""))
        colours.add(tuple(drawn[34, 10].tolist()))
    assert len(colours) == 40


def test_best_on_top() -> None:
    both = Detections(
        np.array([[10, 40, 30, 60]] * 2, np.float32),
        np.array([0.9, 0.5], np.float32),
        np.array([0, 1], np.int32),
        ("a", "b"),
        (80, 80),
    )
    assert draw(grey(80, 80), both)[59, 10].tolist() == list(RED)


def test_detections_of_another_frame_size() -> None:
    with pytest.raises(UsageError, match="640 x 480"):
        draw(grey(10, 10), one((480, 640), 0, 0, 5, 5))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3))])
def test_image_must_be_bgr8(image: U8) -> None:
    with pytest.raises(InputError, match="to_bgr8"):
        draw(image, Detections.empty((4, 4)))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    xyxy=st.tuples(*[st.floats(-200, 200, width=32)] * 4),
    label=st.integers(-5, 5000),
)
def test_any_box_on_any_image(height: int, width: int, xyxy: tuple[float, ...], label: int) -> None:
    detections = Detections(
        np.array([xyxy], np.float32), np.array([0.5], np.float32), np.array([label], np.int32), (), (height, width)
    )
    drawn = draw(grey(height, width), detections)
    assert drawn.shape == (height, width, 3)
    assert drawn.dtype == np.uint8


def test_contact_sheet_without_images() -> None:
    with pytest.raises(UsageError, match="0 images"):
        contact_sheet([], 3)


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [
        (1, 4, (10 + 2 * 2, 20 + 2 * 2)),  # one column where there is one image
        (3, 2, (2 * 12 + 2, 2 * 22 + 2)),
        (4, 2, (2 * 12 + 2, 2 * 22 + 2)),
        (5, 2, (3 * 12 + 2, 2 * 22 + 2)),
    ],
)
def test_contact_sheet_size(count: int, columns: int, shape: tuple[int, int]) -> None:
    images = [np.full((10, 20, 3), 200, np.uint8)] * count
    sheet = contact_sheet(images, columns, cell=(10, 20), gap=2)
    assert sheet.shape == (*shape, 3)
    assert (sheet == 200).sum() == count * 10 * 20 * 3


def test_contact_sheet_order_is_row_by_row() -> None:
    sheet = contact_sheet([np.full((1, 1, 3), value, np.uint8) for value in (1, 2, 3)], 2, cell=(1, 1), gap=0)
    assert sheet[:, :, 0].tolist() == [[1, 2], [3, 24]]


def test_letterbox() -> None:
    # 2 x 4 into 6 x 6: scale 1.5, 3 rows of 6, one bar of 1 above and one of 2 below.
    boxed = letterbox(np.full((2, 4, 3), 9, np.uint8), (6, 6))
    assert boxed[:, 3, 0].tolist() == [0, 9, 9, 9, 0, 0]
    image = grey(6, 6)
    assert letterbox(image, (6, 6)) is image
    assert letterbox(np.full((1, 500, 3), 9, np.uint8), (4, 4)).any()
