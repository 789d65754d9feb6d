"""Whatever a camera, a file or a caller hands to a Detector: detections, or an InputError."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from models import tiny_model

from edge_retina import Detector, build
from edge_retina.errors import InputError
from edge_retina.types import Detections


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    folder = tmp_path_factory.mktemp("frames")
    tiny_model(folder / "m.onnx")
    with Detector.load(build(folder / "m.onnx").path, threads=1) as opened:
        yield opened


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def assert_same(found: Detections, wanted: Detections) -> None:
    assert len(wanted) > 5
    np.testing.assert_array_equal(found.xyxy, wanted.xyxy)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.labels, wanted.labels)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (None, "found NoneType"),
        ([[0]], "found list"),
        (np.zeros((0, 0, 3), np.uint8), r"found shape \(0, 0, 3\)"),
        (np.zeros((0, 5), np.uint8), r"found shape \(0, 5\)"),
        (np.zeros(5, np.uint8), r"found shape \(5,\)"),
        (np.zeros((2, 2, 2), np.uint8), r"found shape \(2, 2, 2\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), "one image at a time"),
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((2, 2, 3), np.float32), "found float32, whose range is not known"),
        (np.zeros((2, 2, 3), np.int16), "found int16"),
        (np.zeros((2, 2, 3), object), "found object"),
    ],
)
def test_no_image(detector: Detector, image: Any, found: str) -> None:
    with pytest.raises(InputError, match=found):
        detector(image)
    with pytest.raises(InputError, match=found):
        detector.batch([noise(8, 8, 3), image])


def test_grey_is_three_equal_channels(detector: Detector) -> None:
    grey = noise(64, 64)
    wanted = detector(np.stack([grey] * 3, axis=2))
    assert_same(detector(grey), wanted)
    assert_same(detector(grey[:, :, None]), wanted)


def test_alpha_is_dropped(detector: Detector) -> None:
    image = noise(64, 64, 4)
    assert_same(detector(image), detector(image[:, :, :3]))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled(detector: Detector, order: str) -> None:
    image = noise(64, 64, 3)
    assert_same(detector((image.astype(np.uint16) * 257).astype(order)), detector(image))  # 255 * 257 = 65535


def test_views_need_not_be_contiguous(detector: Detector) -> None:
    image = noise(64, 64, 3)
    assert_same(detector(image[::-1, ::-1]), detector(image[::-1, ::-1].copy()))
    image.flags.writeable = False
    assert_same(detector(image), detector(image.copy()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3)])
def test_tiny_frames(detector: Detector, shape: tuple[int, int]) -> None:
    found = detector(noise(*shape, 3))
    assert found.shape == shape
    assert (found.xyxy >= 0).all()
    assert (found.xyxy[:, [0, 2]] <= shape[1]).all()
    assert (found.xyxy[:, [1, 3]] <= shape[0]).all()


def test_a_batch_of_all_sizes(detector: Detector) -> None:
    images = [noise(64, 64, 3), noise(1, 1, 3), noise(64, 64), noise(48, 80, 4), noise(64, 64, 3) // 2]
    for image, found in zip(images, detector.batch(images), strict=True):
        alone = detector(image)
        assert found.shape == image.shape[:2]
        np.testing.assert_array_equal(found.xyxy, alone.xyxy)
        np.testing.assert_array_equal(found.scores, alone.scores)


LARGE = """
import sys
import numpy as np
from edge_retina import Detector

with Detector.load(sys.argv[1]) as detector:
    found = detector(np.full((6000, 8000, 3), 90, np.uint8))
assert found.shape == (6000, 8000)
assert (found.xyxy >= 0).all() and (found.xyxy <= [8000, 6000, 8000, 6000]).all()
# Not ru_maxrss, which starts with what the parent had.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_a_frame_of_48_megapixels(detector: Detector) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LARGE, detector.bundle.path], capture_output=True, text=True, timeout=120, check=True
    )
    # 144 MB of pixels, as float32 576 MB, twice while they are transposed.
    assert int(result.stdout) * 1024 < 2e9
