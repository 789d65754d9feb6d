from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coco_sets import write_set
from models import tiny_model

from edge_retina import build
from edge_retina.detector import Detector
from edge_retina.errors import InputError, UsageError
from edge_retina.evaluate import (
    REFERENCE_SCORE,
    agreement,
    category_ids,
    coco_images,
    coco_paths,
    detect,
    evaluate,
    read_coco,
)
from edge_retina.runtime import Outputs
from edge_retina.types import Detections, Frame

BOX = [10.0, 10.0, 40.0, 40.0]
ELSEWHERE = [100.0, 100.0, 40.0, 40.0]


def categories(*names: str, used: int | None = None) -> dict[str, Any]:
    """Categories with ids 10, 20, ...; each, or the first `used`, with an annotation."""
    rows = [{"id": 10 * i, "name": name} for i, name in enumerate(names, 1)]
    marks = [{"category_id": row["id"]} for row in rows[:used]]
    return {"images": [], "annotations": marks, "categories": rows}


def row(box: list[float], label: int = 0, score: float = 0.9, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": label, "bbox": box, "score": score}


# Pictures


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="annotations of none"):
        coco_images(categories(), tmp_path)


def test_pictures_in_the_order_of_the_annotations(tmp_path: Path) -> None:
    annotations = read_coco(write_set(tmp_path, 3))
    annotations["images"].reverse()
    assert coco_images(annotations, tmp_path) == [(i, tmp_path / f"{i - 1}.png") for i in (3, 2, 1)]


def test_missing_pictures_are_named_and_counted(tmp_path: Path) -> None:
    annotations = read_coco(write_set(tmp_path, 4))
    for number in (1, 3):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(InputError, match=r"1\.png is not there \(2 of 4 pictures are missing\).*--images DIR"):
        coco_images(annotations, tmp_path)


def test_images_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="malformed COCO annotations: KeyError 'file_name'"):
        coco_images({"images": [{"id": 1}]}, tmp_path)


def test_where_annotations_and_pictures_are(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    assert coco_paths(tmp_path) == coco_paths(path) == (path, tmp_path)
    (tmp_path / "images").mkdir()
    assert coco_paths(path) == (path, tmp_path / "images")
    assert coco_paths(path, Path("here")) == (path, Path("here"))


# Category ids


@pytest.mark.parametrize(
    ("annotations", "labels", "wanted"),
    [
        (categories(), ("a",), [None]),
        (categories("a", "b"), ("a", "b"), [10, 20]),
        (categories("a", "b"), ("b", "a"), [20, 10]),
        (categories(" Traffic Light", "b"), ("b", "traffic light "), [20, 10]),
        # Labels that the annotations do not know, some with the same name.
        (categories("a", "b"), ("N/A", "b", "N/A", "a"), [None, 20, None, 10]),
        # A category that nobody annotated need not be a label.
        (categories("a", "b", used=1), ("a", "c"), [10, None]),
        # Other names, as many: by order.
        (categories("cat", "dog"), ("0", "1"), [10, 20]),
        (categories("cat", "dog"), ("cat", "1"), [10, 20]),
        # A label twice: the category goes to the first.
        (categories("a"), ("a", "a"), [10, None]),
    ],
)
def test_category_ids(annotations: dict[str, Any], labels: tuple[str, ...], wanted: list[int | None]) -> None:
    assert category_ids(annotations, labels) == wanted


def test_order_is_that_of_the_ids() -> None:
    annotations = categories("cat", "dog")
    annotations["categories"].reverse()
    assert category_ids(annotations, ("0", "1")) == [10, 20]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("cat", "dog"), ("cat", "horse", "cow")),  # neither the names nor as many
        (("cat", "dog"), ("dog", "horse")),  # as many, but dog would become cat
    ],
)
def test_categories_that_do_not_fit(names: tuple[str, ...], labels: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"of {', '.join(names)}; the model knows {', '.join(labels)}"):
        category_ids(categories(*names), labels)


def test_annotations_of_a_category_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"category_id 5, which .* do not list; they list 10"):
        category_ids({**categories("a"), "annotations": [{"category_id": 5}]}, ("a",))


# A detector over pictures


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "m.onnx"
    tiny_model(path)
    return build(path).path


@pytest.fixture(params=[1, 3])
def detector(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Detector]:
    with Detector.load(bundle, threads=1, parallel=request.param) as detector:
        yield detector


def test_detect_nothing(detector: Detector) -> None:
    assert detect(detector, []) == []


def test_detect_is_what_the_detector_gives_in_order(detector: Detector, tmp_path: Path) -> None:
    images = coco_images(read_coco(write_set(tmp_path, 7)), tmp_path)[::-1]
    seen: list[tuple[int, str, int]] = []

    def look(frame: Frame, detections: Detections) -> None:
        seen.append((frame.index, frame.name, len(detections)))

    rows = detect(detector, images, on_image=look)
    wanted = [detector(cv2.imread(str(path))).to_coco(image_id) for image_id, path in images]
    assert rows == [row for rows in wanted for row in rows]
    assert seen == [(i, path.name, len(rows)) for i, ((_, path), rows) in enumerate(zip(images, wanted, strict=True))]
    assert min(r["score"] for r in rows) < REFERENCE_SCORE


def test_detect_frames(detector: Detector) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert detect(detector, [(7, Frame(image))]) == detector(image).to_coco(7)


def test_pictures_are_read_when_their_turn_comes(detector: Detector, tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    read = done = most = 0

    def pictures() -> Iterator[tuple[int, Path]]:
        nonlocal read, most
        for i in range(20):
            read += 1
            most = max(most, read - done)
            yield i, tmp_path / "0.png"

    def look(*_: object) -> None:
        nonlocal done
        done += 1

    detect(detector, pictures(), on_image=look)
    assert (read, done) == (20, 20)
    assert most <= detector.runtime.parallel + 1


def test_a_picture_that_cannot_be_read(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png"):
        detect(detector, [(1, tmp_path / "a.png")])


# Against annotations


class Told:
    """A runtime that finds, in every frame, what it was told."""

    name, parallel, batch_most = "told", 1, None

    def __init__(self, *found: tuple[list[float], float, int]) -> None:
        boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
        xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        xyxy[:, 2:] += xyxy[:, :2]
        count = np.array([len(found)], np.int32)
        self.outputs = Outputs(xyxy[None], np.float32([scores]), np.array([labels], np.int32), count)

    def run(self, frames: Any) -> Outputs:
        return self.outputs

    def close(self) -> None: ...


@pytest.fixture
def one_picture(tmp_path: Path) -> dict[str, Any]:
    """A picture 200x160 with an object each of thing_2 (category 5) and thing_0 (category 9)."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((160, 200, 3), np.uint8))
    facts = {"image_id": 3, "area": 1600, "iscrowd": 0}
    return {
        "images": [{"id": 3, "file_name": "a.png", "width": 200, "height": 160}],
        "annotations": [
            {"id": 1, "category_id": 5, "bbox": BOX, **facts},
            {"id": 2, "category_id": 9, "bbox": ELSEWHERE, **facts},
        ],
        "categories": [{"id": 5, "name": "thing_2"}, {"id": 9, "name": "Thing_0"}],
    }


def told(bundle: Path, *found: tuple[list[float], float, int]) -> Detector:
    with Detector.load(bundle, threads=1) as real:
        return Detector(real.bundle, Told(*found))  # type: ignore[arg-type]


def test_evaluate_nothing_found(bundle: Path, one_picture: dict[str, Any], tmp_path: Path) -> None:
    found = evaluate(told(bundle), one_picture, tmp_path)
    assert (found.AP, found.per_class, found.images, found.objects) == (0, {"thing_2": 0, "Thing_0": 0}, 1, 2)


def test_evaluate_maps_labels_to_categories(bundle: Path, one_picture: dict[str, Any], tmp_path: Path) -> None:
    # thing_1 is not among the categories, so where it is "found" does not count.
    detector = told(bundle, (BOX, 0.9, 1), (BOX, 0.8, 2), (ELSEWHERE, 0.7, 2), (ELSEWHERE, 0.2, 0))
    found = evaluate(detector, one_picture, tmp_path)
    assert found.per_class == {"thing_2": 1, "Thing_0": 1}
    assert found.AP == 1


def test_evaluate_tells_of_each_picture(detector: Detector, tmp_path: Path) -> None:
    annotations = read_coco(write_set(tmp_path, 5))
    annotations["categories"].append({"id": 8, "name": "third"})  # as many as the tiny model's labels
    seen: list[str] = []
    found = evaluate(detector, annotations, tmp_path, on_image=lambda frame, _: seen.append(frame.name))
    assert seen == [f"{i}.png" for i in range(5)]
    assert (found.images, found.objects) == (5, 4)
    assert found == evaluate(detector, annotations, tmp_path)


def test_evaluate_without_objects(bundle: Path, one_picture: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hold no object"):
        evaluate(told(bundle), {**one_picture, "annotations": []}, tmp_path)


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("annotations", "bbox", [0, 0, float("nan"), 4], r"annotation 1 of image 3: wanted .* \[0, 0, nan, 4\]"),
        ("annotations", "category_id", 6, "category_id 6, which"),
        ("images", "id", "x", "malformed COCO annotations"),
    ],
)
def test_annotations_are_checked_before_anything_runs(
    bundle: Path, one_picture: dict[str, Any], tmp_path: Path, where: str, key: str, value: Any, message: str
) -> None:
    one_picture[where][0][key] = value
    with pytest.raises(InputError, match=message):
        evaluate(told(bundle), one_picture, tmp_path, on_image=pytest.fail)


def test_a_picture_of_another_size(bundle: Path, one_picture: dict[str, Any], tmp_path: Path) -> None:
    one_picture["images"][0]["width"] = 100
    with pytest.raises(InputError, match=r"a\.png: is 200x160, its annotations are of 100x160"):
        evaluate(told(bundle), one_picture, tmp_path)
    del one_picture["images"][0]["width"], one_picture["images"][0]["height"]
    assert evaluate(told(bundle, (BOX, 0.8, 2)), one_picture, tmp_path).AP == 0.5


# Against another model


@pytest.mark.parametrize("reference", [[], [row(BOX, score=0.29)], [row([10.0, 10.0, 0.0, 5.0])]])
def test_a_reference_that_finds_nothing(reference: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"nothing with a score of 0\.3 or more in 4 pictures"):
        agreement(reference, [row(BOX)], ["a"], images=4)


def test_agreement_of_nothing() -> None:
    found = agreement([row(BOX)], [], ["a", "b"])
    assert (found.AP, found.per_class, found.images, found.objects) == (0, {"a": 0}, 1, 1)


@pytest.mark.parametrize(
    ("rows", "ap"),
    [
        ([row(BOX)], 1.0),
        ([row(BOX, score=0.01)], 1.0),  # the score is the model's own business
        ([row(BOX, label=1)], 0.0),
        ([row([10, 10, 40, 55])], 0.5),  # IoU 0.727, as in test_accuracy.py
        # A false one on another picture, better than the true one: precision 1 / 2 at every recall.
        ([row(BOX), row(BOX, score=0.95, image=2)], 0.5),
        # The reference saw that one too, with too little confidence to be the truth: not blamed.
        ([row(BOX), row(ELSEWHERE, score=0.95)], 1.0),
    ],
)
def test_agreement_by_hand(rows: list[dict[str, Any]], ap: float) -> None:
    found = agreement([row(BOX), row(ELSEWHERE, score=0.29)], rows, ["a", "b"], images=2)
    assert abs(found.AP - ap) < 1e-9
    assert (found.images, found.objects) == (2, 1)


def test_equal_rows_agree_exactly(detector: Detector, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = [(i, Frame(rng.integers(0, 256, (64, 64, 3), np.uint8))) for i in range(4)]
    rows = detect(detector, frames)
    middle = float(np.median([r["score"] for r in rows]))
    found = agreement(rows, json.loads(json.dumps(rows)), detector.names, min_score=middle)
    assert (found.AP, found.AP50, found.AP75, found.AR100) == (1, 1, 1, 1)
    assert set(found.per_class.values()) == {1}
    assert 0 < found.objects < len(rows)


def test_equal_rows_agree_exactly_beyond_a_hundred_per_picture() -> None:
    rows = [row([20.0 * i, 0.1, 10.3, 10.7], score=1 - i / 500) for i in range(150)]
    # Without area, such as a box clipped at the edge of the frame: overlaps nothing, not even itself.
    rows += [row([5.0, 5.0, 0.0, 10.0], score=0.9)]
    found = agreement(rows, rows, ["a"])
    assert (found.AP, found.AR100, found.objects) == (1, 1, 150)
