"""The shipped model: as accurate as README says, and the bundle exactly as accurate as its PyTorch original."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from matching import match

from edge_retina.evaluate import average_precision, read_coco

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits"
CALIBRATION = DIGITS.parents[1] / "calib" / "digits"


@pytest.fixture(scope="module")
def sample():
    sys.path.insert(0, str(DIGITS))
    import evaluate

    yield evaluate
    sys.path.remove(str(DIGITS))


@pytest.fixture(scope="module")
def found(sample):
    return sample.bundle_results()


@pytest.fixture(scope="module")
def truth():
    return read_coco(DIGITS / "test" / "annotations.json")


def test_the_recorded_pytorch_detections_belong_to_the_shipped_model(sample):
    digest, _ = sample.load_results()
    assert digest == hashlib.sha256((DIGITS / "digits.onnx").read_bytes()).hexdigest()
    assert (DIGITS / "digits.onnx").stat().st_size <= 12e6


def test_average_precision_is_that_of_pytorch_and_as_promised(sample, found, truth):
    ours = average_precision(truth, found)["AP"]
    theirs = average_precision(truth, sample.load_results()[1])["AP"]
    assert abs(ours - theirs) <= 0.001
    assert ours >= 0.75


def by_image(results):
    images = defaultdict(list)
    for r in results:
        x, y, w, h = r["bbox"]
        images[r["image_id"]].append(([x, y, x + w, y + h], r["score"], r["category_id"]))
    types = (np.float32, np.float32, np.int64)
    return {
        image: tuple(np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), types, strict=True))
        for image, rows in images.items()
    }


def test_every_detection_is_that_of_pytorch(sample, found, truth):
    """Matched by label and coordinates, < 0.1 px, scores to 1e-4; what lies at the threshold may go either way."""
    ours, theirs = by_image(found), by_image(sample.load_results()[1])
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    for image in truth["images"]:
        report = match(ours.get(image["id"], nothing), theirs.get(image["id"], nothing), threshold=0.05, limit=100)
        assert report.ok, f"{image['file_name']}: {report}"


def test_test_digits_and_photographs_are_not_the_training_ones():
    """The split that scenes.py makes, recomputed where scikit-learn is installed."""
    pytest.importorskip("sklearn", reason="pip install 'edge-retina[digits]'")
    pytest.importorskip("skimage", reason="pip install 'edge-retina[digits]'")
    sys.path.insert(0, str(DIGITS))
    try:
        import scenes
    finally:
        sys.path.remove(str(DIGITS))
    train, test = scenes.load_ink("train"), scenes.load_ink("test")
    assert len(train.glyphs) + len(test.glyphs) == 1797
    seen = {glyph.tobytes() for glyph in train.glyphs}
    assert not any(glyph.tobytes() in seen for glyph in test.glyphs)
    assert not set(scenes.TRAIN_PHOTOS) & set(scenes.TEST_PHOTOS)


@pytest.mark.parametrize(("folder", "count"), [(DIGITS / "test", 320), (CALIBRATION, 128)])
def test_the_shipped_sets_are_whole(folder, count):
    coco = read_coco(folder / "annotations.json")
    assert len(coco["images"]) == count
    assert all((folder / image["file_name"]).stat().st_size > 0 for image in coco["images"])
    assert [c["name"] for c in coco["categories"]] == list("0123456789")
