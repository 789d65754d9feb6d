from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coco_sets import write_set

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch

from edge_retina.errors import InputError
from edge_retina.geometry import fit_frame
from edge_retina.spec import DetectorSpec
from edge_retina.train.data import Augmentation, CocoDataset, EpochSampler, augment, collate, load_coco
from edge_retina.train.model import PRESETS, make_spec
from edge_retina.train.predict import fitted

NONE = Augmentation(0, 0, 0)
SPEC = make_spec(PRESETS["narrow"], ("a", "b"), (96, 128))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# load_coco


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = write_set(folder, 2)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


def test_a_set_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted annotated images, found none"):
        load_coco(edit(tmp_path, lambda d: d.update(images=[], annotations=[])))


def test_labels_follow_category_ids(tmp_path: Path) -> None:
    path = edit(tmp_path, lambda d: d["categories"].reverse())
    examples, labels, ids = load_coco(path)
    assert (labels, ids) == (["square", "bar"], [3, 7])
    row = json.loads(path.read_text())["annotations"][0]
    x, y, w, h = row["bbox"]
    assert examples[0].boxes.tolist() == [[x, y, x + w, y + h]]
    assert examples[0].labels.tolist() == [ids.index(row["category_id"])]
    assert examples[0].image_id == 1


def test_crowd_and_empty_boxes_are_left_out(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        extra = {"image_id": 1, "category_id": 3}
        data["annotations"] += [
            {"id": 10, **extra, "bbox": [0, 0, 5, 5], "iscrowd": 1},
            {"id": 11, **extra, "bbox": [0, 0, 0, 5]},
            {"id": 12, **extra, "bbox": [0, 0, 5, -1]},
        ]

    examples, _, _ = load_coco(edit(tmp_path, change))
    assert [len(e.boxes) for e in examples] == [1, 1]


def test_an_image_without_boxes_is_an_example(tmp_path: Path) -> None:
    examples, _, _ = load_coco(edit(tmp_path, lambda d: d["annotations"].clear()))
    assert [(e.boxes.shape, e.labels.shape) for e in examples] == [((0, 4), (0,))] * 2


def test_where_the_images_are(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set", 1)
    assert load_coco(path.parent)[0][0].path == tmp_path / "set" / "0.png"
    (tmp_path / "set" / "images").mkdir()
    (tmp_path / "set" / "0.png").rename(tmp_path / "set" / "images" / "0.png")
    assert load_coco(path)[0][0].path == tmp_path / "set" / "images" / "0.png"
    (tmp_path / "set" / "images").rename(tmp_path / "apart")
    assert load_coco(path, tmp_path / "apart")[0][0].path == tmp_path / "apart" / "0.png"
    with pytest.raises(InputError, match=r"image .*0\.png is missing; pass its folder with --images"):
        load_coco(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][0].pop("bbox"), "KeyError 'bbox'"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "ValueError"),
        (lambda d: d["annotations"][0].update(bbox=["a", 2, "c", 4]), "TypeError"),
        (lambda d: d["annotations"][0].update(bbox=[float("nan"), 2, 3, 4]), "not finite"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, float("inf"), 4]), "not finite"),
        (lambda d: d["annotations"][0].update(category_id=99), "KeyError 99"),
        (lambda d: d["annotations"][0].update(image_id=99), "KeyError 99"),
        (lambda d: d["annotations"].append("row"), "TypeError"),
        (lambda d: d["images"][0].pop("file_name"), "KeyError 'file_name'"),
        (lambda d: d["images"][0].update(file_name=5), "TypeError"),
        (lambda d: d["categories"][0].pop("id"), "KeyError 'id'"),
        (lambda d: d["categories"][0].pop("name"), "KeyError 'name'"),
        (lambda d: d["categories"].append(None), "TypeError"),
    ],
)
def test_malformed_annotations(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(InputError, match=rf"malformed COCO annotations: .*{message}"):
        load_coco(edit(tmp_path, change))


# augment


def paint(height: int, width: int, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image, np.array([box], np.float32)


def bright(image: np.ndarray) -> list[int]:
    """The xyxy of all pixels above half of white."""
    ys, xs = np.nonzero(image.min(2) > 127)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def dark(spec: DetectorSpec = SPEC) -> DetectorSpec:
    """The spec, padded with black, so that only the painted rectangle is bright."""
    return replace(spec, pad_value=(0.0, 0.0, 0.0))


def test_no_boxes() -> None:
    image, boxes, keep = augment(np.zeros((50, 60, 3), np.uint8), np.zeros((0, 4), np.float32), SPEC, NONE, rng())
    assert (image.shape, image.dtype) == ((96, 128, 3), np.uint8)
    assert (boxes.shape, keep.shape) == ((0, 4), (0,))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shape", [(96, 128), (200, 100), (60, 240)])
def test_boxes_move_with_the_pixels(seed: int, shape: tuple[int, int]) -> None:
    height, width = shape
    box = (width // 3, height // 4, width // 3 + width // 4, height // 4 + height // 3)
    image, boxes = paint(height, width, box)
    warped, moved, keep = augment(image, boxes, dark(), Augmentation(0.5, 0.8, 0), rng(seed))
    assert len(moved) == keep.sum()
    if len(moved):
        np.testing.assert_allclose(moved[0], bright(warped), atol=1.0)


def test_the_draws_differ() -> None:
    image, boxes = paint(96, 128, (40, 30, 70, 60))
    found = [augment(image, boxes, dark(), Augmentation(0.5, 0.5, 0), rng(seed))[1][0] for seed in range(20)]
    widths = [box[2] - box[0] for box in found]
    # Up to 2^0.5 larger or smaller than 30 pixels.
    assert min(widths) >= 30 / 2**0.5 - 1e-3
    assert max(widths) <= 30 * 2**0.5 + 1e-3
    assert max(widths) > 1.5 * min(widths)


def test_flip_by_hand() -> None:
    image, boxes = paint(96, 128, (10, 20, 40, 60))
    warped, moved, _ = augment(image, boxes, dark(), Augmentation(1, 0, 0), rng())
    assert moved.tolist() == [[128 - 40, 20, 128 - 10, 60]]
    np.testing.assert_array_equal(warped, image[:, ::-1])


def test_flip_mirrors_the_whole_input() -> None:
    # 48 x 32 fits 96 x 128 at twice its size, on the left: 96 x 64. Mirrored, on the right.
    image, boxes = paint(48, 32, (4, 8, 20, 24))
    _, moved, _ = augment(image, boxes, dark(), Augmentation(1, 0, 0), rng())
    assert moved.tolist() == [[128 - 40, 16, 128 - 8, 48]]


def test_objects_that_are_mostly_cropped_go() -> None:
    image, boxes = paint(96, 128, (0, 0, 10, 10))
    grown = np.concatenate([boxes, np.float32([[50, 40, 70, 60]])])
    for seed in range(40):
        _, moved, keep = augment(image, grown, dark(), Augmentation(0, 1, 0), rng(seed))
        assert ((moved >= 0) & (moved <= [128, 96, 128, 96])).all()
        assert (moved[:, 2:] > moved[:, :2]).all()
        if not keep[0]:
            break
    else:
        pytest.fail("the corner was never cropped")


def test_a_box_outside_the_picture_goes() -> None:
    _, boxes, keep = augment(np.zeros((96, 128, 3), np.uint8), np.float32([[200, 0, 220, 9]]), SPEC, NONE, rng())
    assert len(boxes) == 0
    assert keep.tolist() == [False]


def test_no_augmentation_of_the_network_s_size_changes_nothing() -> None:
    image = rng().integers(0, 256, (96, 128, 3), np.uint8)
    box = np.float32([[3, 4, 50, 60]])
    warped, moved, _ = augment(image, box, SPEC, NONE, rng())
    np.testing.assert_array_equal(warped, image)
    np.testing.assert_array_equal(moved, box)


@pytest.mark.parametrize("placement", ["top_left", "center"])
@pytest.mark.parametrize("shape", [(200, 150), (48, 100), (97, 131)])
def test_no_augmentation_is_the_fit_of_inference(shape: tuple[int, int], placement: str) -> None:
    spec = replace(SPEC, placement=placement)
    smooth = cv2.GaussianBlur(rng().integers(0, 256, (*shape, 3), np.uint8), (0, 0), 3)
    warped, moved, _ = augment(smooth, np.float32([[0, 0, shape[1], shape[0]]]), spec, NONE, rng())
    geometry = fit_frame(spec, *shape)
    (height, width), (top, left) = geometry.content, geometry.offset
    assert moved[0] == pytest.approx([left, top, left + width, top + height], abs=1e-4)
    canvas, found = fitted(smooth, spec)
    assert found == geometry
    # Where the frame ends, training blends with the padding and inference does not.
    inner = np.s_[top + 1 : top + height - 1, left + 1 : left + width - 1]
    np.testing.assert_allclose(warped[inner].astype(float), canvas[inner], atol=2.0)
    outside = np.ones((96, 128), bool)
    outside[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1] = False
    np.testing.assert_allclose(warped[outside].astype(float), canvas[outside], atol=0.6)


def test_colour_changes_pixels_and_no_boxes() -> None:
    image = rng().integers(0, 256, (96, 128, 3), np.uint8)
    box = np.float32([[3, 4, 50, 60]])
    warped, moved, _ = augment(image, box, SPEC, Augmentation(0, 0, 1), rng())
    assert moved.tolist() == box.tolist()
    assert (warped != image).any()


# CocoDataset


def test_items_depend_on_seed_epoch_and_index_alone(squares: Path) -> None:
    examples, _, _ = load_coco(squares)
    first, again, other = (CocoDataset(examples, SPEC, Augmentation(), seed) for seed in (0, 0, 1))
    again[(1, 2)]
    assert len(first) == 20
    assert torch.equal(first[(0, 3)][0], again[(0, 3)][0])
    assert not torch.equal(first[(0, 3)][0], first[(1, 3)][0])
    assert not torch.equal(first[(0, 3)][0], other[(0, 3)][0])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_channels_come_in_the_network_s_order(tmp_path: Path, order: str) -> None:
    path = write_set(tmp_path, 1)
    cv2.imwrite(str(tmp_path / "0.png"), np.full((96, 128, 3), (10, 20, 30), np.uint8))
    dataset = CocoDataset(load_coco(path)[0], replace(SPEC, color_order=order), NONE, 0)
    image, _, _ = dataset[(0, 0)]
    assert (image.shape, image.dtype) == ((3, 96, 128), torch.uint8)
    assert image[:, 50, 50].tolist() == ([30, 20, 10] if order == "rgb" else [10, 20, 30])


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = write_set(tmp_path, 1)
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(InputError, match=r"0\.png"):
        CocoDataset(load_coco(path)[0], SPEC, NONE, 0)[(0, 0)]


def test_collate() -> None:
    items = [(torch.full((3, 2, 2), i), torch.zeros(i, 4), torch.zeros(i, dtype=torch.int64)) for i in range(3)]
    images, boxes, labels = collate(items)
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert [len(b) for b in boxes] == [len(c) for c in labels] == [0, 1, 2]


# EpochSampler


def indices(sampler: EpochSampler) -> list[int]:
    return [index for batch in sampler for _, index in batch]


def test_an_epoch_has_every_example_once() -> None:
    sampler = EpochSampler(24, 4, seed=0)
    assert len(sampler) == 6
    assert sorted(indices(sampler)) == list(range(24))
    assert indices(sampler) == indices(EpochSampler(24, 4, seed=0))
    assert indices(sampler) != indices(EpochSampler(24, 4, seed=1))


def test_epochs_differ_and_are_in_the_key() -> None:
    sampler = EpochSampler(24, 4, seed=0)
    before = indices(sampler)
    sampler.epoch = 3
    assert indices(sampler) != before
    assert {epoch for batch in sampler for epoch, _ in batch} == {3}


def test_what_does_not_fill_a_batch_waits_for_another_epoch() -> None:
    sampler = EpochSampler(10, 4, seed=0)
    assert [len(batch) for batch in sampler] == [4, 4]
    assert len(set(indices(sampler))) == 8


def test_resumed_in_the_middle_it_goes_on_with_the_same_batches() -> None:
    whole = list(EpochSampler(24, 4, seed=0))
    rest = EpochSampler(24, 4, seed=0)
    rest.first_batch = 2
    assert list(rest) == whole[2:]
    assert len(rest) == 6  # of the epoch, whatever is left of it
    rest.first_batch = 6
    assert list(rest) == []


def test_ranks_share_without_overlap() -> None:
    ranks = [EpochSampler(24, 4, 0, rank, 3) for rank in range(3)]
    assert [len(r) for r in ranks] == [2, 2, 2]
    assert sorted(index for r in ranks for index in indices(r)) == list(range(24))
    # Together they take the batches that one process with a batch three times as large takes.
    large = list(EpochSampler(24, 12, 0))
    for step, batches in enumerate(zip(*ranks, strict=True)):
        assert [key for batch in batches for key in batch] == large[step]


@pytest.mark.parametrize("world", [1, 2])
def test_a_set_smaller_than_a_batch_is_repeated(world: int) -> None:
    for rank in range(world):
        sampler = EpochSampler(3, 8, 0, rank, world)
        assert len(sampler) == 1
        assert [len(batch) for batch in sampler] == [8]
        assert set(indices(sampler)) == {0, 1, 2}
