"""The tree crowns: crops as worked out by hand, no pixel in two splits, the shipped sets and model as README says."""

from __future__ import annotations

import io
import json
import runpy
import sys
import zipfile
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina import Detector, build
from edge_retina.evaluate import average_precision, read_coco
from edge_retina.images import read_image

CROWNS = Path(__file__).parents[2] / "samples" / "crowns"


@pytest.fixture(scope="module")
def sample():
    sys.path.insert(0, str(CROWNS))
    import crowns

    yield crowns
    sys.path.remove(str(CROWNS))


def picture(height=400, width=400):
    """A picture in which every pixel of the first two channels tells its place."""
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x % 256, y % 256, x // 256]).astype(np.uint8)


def wheel(pictures):
    """A zip laid out like deepforest's wheel; pictures: name to (image, boxes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, (image, boxes) in pictures.items():
            archive.writestr(f"deepforest/data/{name}.png", cv2.imencode(".png", image)[1].tobytes())
            corners = [
                "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
                for box in boxes
            ]
            objects = "".join(f"<object><name>Tree</name><bndbox>{c}</bndbox></object>" for c in corners)
            archive.writestr(f"deepforest/data/{name}.xml", f"<annotation>{objects}</annotation>")
    return zipfile.ZipFile(file)


def test_a_picture_without_trees(sample):
    with wheel({"bare": (picture(), [])}) as archive:
        (crop,) = sample.crops(archive, [sample.Region("bare", 0, 0, 400, 400)], (288, 240))
    assert crop.boxes.shape == (0, 4)
    assert crop.image.shape == (240, 288, 3)
    assert sample.with_trees([crop]) == []
    assert sample.coco([crop], "")["annotations"] == []


def test_boxes_move_with_the_crop_and_are_cut_at_its_border(sample):
    boxes = np.array([[10, 20, 30, 50], [280, 230, 310, 260], [300, 300, 310, 310]], np.float32)
    crop = sample.cut("x", picture(), boxes, 5, 10)
    # The second keeps 13x20 of 30x30 pixels, less than two fifths; the third lies outside.
    np.testing.assert_array_equal(crop.boxes, [[5, 10, 25, 40], [275, 220, 288, 240]])
    assert crop.whole.tolist() == [True, False]
    np.testing.assert_array_equal(crop.image[0, 0], [5, 10, 0])
    rows = sample.coco([crop], "")["annotations"]
    assert [(row["bbox"], row["area"], row["iscrowd"]) for row in rows] == [
        ([5, 10, 20, 30], 600, 0),
        ([275, 220, 13, 20], 260, 1),
    ]


def test_upside_down_twice_is_the_same(sample):
    crop = sample.cut("x", picture(), np.array([[10, 20, 30, 50]], np.float32), 0, 0)
    turned = sample.upside_down(crop)
    np.testing.assert_array_equal(turned.boxes, [[258, 190, 278, 220]])
    np.testing.assert_array_equal(turned.image[239, 287], crop.image[0, 0])
    again = sample.upside_down(turned)
    np.testing.assert_array_equal(again.boxes, crop.boxes)
    np.testing.assert_array_equal(again.image, crop.image)


def test_crops_stay_in_their_region(sample):
    with wheel({"wood": (picture(600, 700), [])}) as archive:
        found = list(sample.crops(archive, [sample.Region("wood", 50, 60, 700, 600)], (288, 240)))
    assert [crop.name for crop in found] == ["wood_0050_0060", "wood_0338_0060", "wood_0050_0300", "wood_0338_0300"]
    assert all(crop.image.shape == (240, 288, 3) for crop in found)


def test_no_pixel_is_in_two_splits(sample):
    regions = [(split, region) for split, parts in sample.REGIONS.items() for region in parts]
    for (_, a), (_, b) in combinations(regions, 2):
        apart = a.right <= b.left or b.right <= a.left or a.bottom <= b.top or b.bottom <= a.top
        assert a.picture != b.picture or apart, f"{a} and {b}"


def test_the_command_writes_a_coco_set(sample, tmp_path, monkeypatch):
    names = {region.picture for parts in sample.REGIONS.values() for region in parts}
    pictures = {name: (np.zeros((2472, 2299, 3), np.uint8), [[700, 10, 720, 30]]) for name in names}
    with wheel(pictures) as archive:
        (tmp_path / "deepforest.whl").write_bytes(archive.fp.getvalue())
    words = ["test", str(tmp_path / "deepforest.whl"), "--out", str(tmp_path / "test")]
    monkeypatch.setattr(sys, "argv", [str(CROWNS / "crowns.py"), *words])
    runpy.run_path(str(CROWNS / "crowns.py"), run_name="__main__")
    coco = json.loads((tmp_path / "test" / "annotations.json").read_text())
    assert len(coco["images"]) == 22
    assert [(row["bbox"], row["category_id"]) for row in coco["annotations"]] == [([27, 10, 20, 20], 1)]
    assert all((tmp_path / "test" / image["file_name"]).is_file() for image in coco["images"])


@pytest.mark.parametrize(("folder", "count", "most"), [("test", 22, 3e6), ("calib", 100, 2e6)])
def test_the_shipped_sets_are_whole_and_small(folder, count, most):
    coco = read_coco(CROWNS / folder / "annotations.json")
    assert len(coco["images"]) == count
    assert sum((CROWNS / folder / image["file_name"]).stat().st_size for image in coco["images"]) <= most
    assert [category["name"] for category in coco["categories"]] == ["Tree"]


def test_the_model_is_as_accurate_as_promised(tmp_path):
    pytest.importorskip("faster_coco_eval", reason="pip install 'edge-retina[eval]'")
    model = CROWNS / "crowns.onnx"
    assert model.stat().st_size <= 15e6
    truth, results = read_coco(CROWNS / "test" / "annotations.json"), []
    with Detector.load(build(model, tmp_path / "crowns.edge").path) as detector:
        assert detector.names == ("Tree",)
        assert detector.spec.input_size == (320, 384)
        for image in truth["images"]:
            results += detector(read_image(CROWNS / "test" / image["file_name"])).to_coco(image["id"], [1])
    # README: 0.181. Another processor adds up in another order.
    assert average_precision(truth, results)["AP"] >= 0.178
