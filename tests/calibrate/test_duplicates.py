from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina.calibrate.duplicates import NearDuplicates, thumbnail
from edge_retina.images import read_image
from edge_retina.types import U8

SCENE = Path(__file__).resolve().parents[2] / "calib" / "digits" / "train_1000000.jpg"


def picture(seed: int, shape: tuple[int, int] = (48, 64)) -> U8:
    """Blobs of random colours, different for each seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def repeats(*images: U8) -> int:
    known = NearDuplicates()
    return [known.add(thumbnail(image)) for image in images].count(False)


def test_nothing_is_known_at_first() -> None:
    assert len(NearDuplicates()) == 0
    assert repeats(picture(0)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (48, 64), (1080, 1920)])
def test_a_thumbnail_of_any_size(shape: tuple[int, int]) -> None:
    thumb = thumbnail(np.full((*shape, 3), 77, np.uint8))
    assert (thumb.shape, thumb.dtype) == ((128, 128, 3), np.uint8)
    assert (thumb == 77).all()


def noisy(image: U8, sigma: float, seed: int = 0) -> U8:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.asarray(np.clip(np.rint(image + noise), 0, 255), np.uint8)


def jpeg(image: U8) -> U8:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR))


def half(image: U8) -> U8:
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("change", [jpeg, half, lambda image: noisy(image, 8)], ids=["jpeg", "half", "noise"])
def test_the_same_scene_is_nearly_the_same(change: Callable[[U8], U8]) -> None:
    image = read_image(SCENE)
    assert repeats(image, change(image)) == 1


def test_dark_pictures_of_different_scenes_differ_and_of_one_scene_do_not() -> None:
    dark = [picture(seed, (240, 320)) // 20 for seed in range(8)]  # 0..12
    assert repeats(*dark) == 0
    assert repeats(noisy(dark[0], 1, 1), noisy(dark[0], 1, 2)) == 1
    assert repeats(*[np.zeros((240, 320, 3), np.uint8)] * 2) == 1


def test_plain_pictures_of_different_brightness_or_colour_differ() -> None:
    plain = [np.full((60, 80, 3), colour, np.uint8) for colour in ((90, 90, 90), (120, 120, 120), (90, 120, 90))]
    assert repeats(*plain) == 0


def test_a_small_object_makes_a_difference() -> None:
    empty = picture(0, (480, 640))
    someone = empty.copy()
    someone[200:280, 300:340] = 255 - someone[200:280, 300:340]  # 1 % of the area
    assert repeats(empty, someone) == 0


def test_near_duplicates_of_many() -> None:
    known = NearDuplicates()
    assert [known.add(thumbnail(picture(seed))) for seed in range(200)] == [True] * 200  # grows past its first 64
    assert [known.add(thumbnail(picture(seed))) for seed in range(200)] == [False] * 200
    assert len(known) == 200
