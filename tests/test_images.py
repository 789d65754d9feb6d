from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_retina.errors import InputError
from edge_retina.images import read_image, to_bgr8
from edge_retina.types import U8


def test_right_image_is_not_copied() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    assert np.shares_memory(to_bgr8(image), image)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (np.uint8([[7]]), [7, 7, 7]),
        (np.uint8([[[7]]]), [7, 7, 7]),
        (np.uint8([[[1, 2, 3, 4]]]), [1, 2, 3]),
        (np.array([[True]]), [255, 255, 255]),
        (np.uint16([[128]]), [0, 0, 0]),  # 128 / 257 = 0.498
        (np.uint16([[129]]), [1, 1, 1]),  # 129 / 257 = 0.502
        (np.uint16([[65535]]), [255, 255, 255]),
        (np.array([[[257, 514, 771]]], ">u2"), [1, 2, 3]),
        (np.zeros((1, 1, 6), np.uint8)[:, :, ::2], [0, 0, 0]),
    ],
)
def test_to_bgr8_by_hand(image: U8, pixel: list[int]) -> None:
    assert to_bgr8(image).tolist() == [[pixel]]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((2, 0), np.uint8),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2), np.int16),
        np.zeros((2, 2), np.complex64),
        [[1, 2], [3, 4]],
        None,
    ],
)
def test_to_bgr8_refuses(image: U8) -> None:
    with pytest.raises(InputError, match=r"^wanted .*found "):
        to_bgr8(image)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda hw: st.sampled_from([hw, (*hw, 1), (*hw, 3), (*hw, 4)])
)


@settings(deadline=None)
@given(st.sampled_from([np.uint8, np.uint16, np.bool_]).flatmap(lambda dtype: arrays.arrays(dtype, shapes)))
def test_to_bgr8_agrees_with_division(image: U8) -> None:
    before = image.copy()
    out = to_bgr8(image)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    full = {"uint8": 255, "uint16": 65535, "bool": 1}[image.dtype.name]
    wide = image.reshape(*image.shape[:2], -1)[:, :, :3].astype(np.float64) * 255 / full
    assert np.abs(out - wide).max() <= 0.5
    assert np.array_equal(image, before)


def test_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("hello")
    with pytest.raises(InputError, match="found 5 bytes that do not decode"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(InputError, match="Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("stored", "pixel"),
    [
        (np.full((2, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3), 257 * 9, np.uint16), [9, 9, 9]),
        (np.full((2, 3, 3), [257, 514, 65535], np.uint16), [1, 2, 255]),
        (np.full((2, 3, 4), [1, 2, 3, 0], np.uint8), [1, 2, 3]),  # wholly transparent, yet the colour counts
        (np.full((2, 3, 4), [257, 514, 771, 9], np.uint16), [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_stored_formats(tmp_path: Path, stored: U8, pixel: list[int], suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"x{suffix}"), stored)
    image = read_image(tmp_path / f"x{suffix}")
    assert image.dtype == np.uint8
    assert image.tolist() == [[pixel] * 3] * 2


def test_float_tiff(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.tif"), np.zeros((2, 3, 3), np.float32))
    with pytest.raises(InputError, match=r"x\.tif: .*found float32"):
        read_image(tmp_path / "x.tif")


def test_exif_orientation(tmp_path: Path) -> None:
    """A 6 x 2 JPEG whose EXIF says: turn a quarter clockwise to show."""
    data = cv2.imencode(".jpg", np.repeat(np.uint8([[[0], [255]]]), 3, axis=2).repeat(8, 0).repeat(16, 1))[1].tobytes()
    orientation = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # tag 0x112, SHORT, 1 value, 6
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + orientation + b"\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    (tmp_path / "x.jpg").write_bytes(data[:2] + segment + data[2:])
    image = read_image(tmp_path / "x.jpg")
    assert image.shape == (32, 8, 3)
    assert image[0, 0, 0] < 20  # what was left is on top
    assert image[-1, 0, 0] > 235
    assert image.flags.c_contiguous
