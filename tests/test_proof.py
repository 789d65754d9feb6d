"""How precisions are judged: by labels, else by agreement with the first one; and where trials are kept."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coco_sets import write_set
from models import rewritten, tiny_model, write_pictures

from edge_retina import proof
from edge_retina.accuracy import Accuracy
from edge_retina.boxes import iou
from edge_retina.bundle import Bundle
from edge_retina.calibrate.pictures import CalibrationSet, open_calibration
from edge_retina.errors import InputError, MissingPackage
from edge_retina.proof import Labelled, Trial, Unlabelled, cautions, open_judge
from edge_retina.types import Detections, Frame

LABELS = {"classes": 2, "spec_overrides": {"labels": ("square", "bar")}}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    return open_calibration(str(write_pictures(tmp_path_factory.mktemp("pictures"), 5)))


def bundle_of(trial: Trial, **options) -> Bundle:
    model, spec = rewritten(tiny_model(**options)[0])
    trial._facts["spec"] = spec
    return trial.bundle(model.SerializeToString(), "fp32", None)


@pytest.fixture
def trial():
    _, spec = tiny_model()
    with Trial(spec, "0" * 64, None) as trial:
        yield trial


def test_nothing_to_judge_by(monkeypatch):
    monkeypatch.setattr(proof, "evaluator", pytest.fail)
    assert open_judge(None, None, None) is None


def test_pictures_without_labels(pictures):
    judge = open_judge(None, None, pictures)
    assert isinstance(judge, Unlabelled)
    assert judge.indices == [0, 1, 2, 3, 4]
    assert "agreement with the FP32 model's own detections on 5 calibration pictures" in judge.sentence
    assert "the ones that INT8's ranges are chosen on" in judge.sentence
    assert not judge.labelled


def test_64_pictures_are_enough(pictures):
    many = replace(pictures, count=1000)
    judge = Unlabelled(many)
    assert len(judge.indices) == 64
    assert (judge.indices[0], judge.indices[-1]) == (7, 992)


def test_labels_go_before_pictures(tmp_path, pictures):
    path = write_set(tmp_path, 3)
    judge = open_judge(path, None, pictures)
    assert isinstance(judge, Labelled)
    assert judge.labelled
    assert judge.sentence == f"average precision on 3 annotated pictures of {path}"


def test_what_is_missing_is_known_at_once(tmp_path, pictures, monkeypatch):
    path = write_set(tmp_path, 2)
    with pytest.raises(InputError, match=r"0\.png is not there \(2 of 2 pictures are missing\)"):
        open_judge(path, tmp_path / "elsewhere", None)
    with pytest.raises(InputError, match="wanted COCO annotations"):
        open_judge(tmp_path / "none.json", None, None)

    def missing():
        raise MissingPackage("pip install faster-coco-eval")

    monkeypatch.setattr(proof, "evaluator", missing)
    for arguments in ((path, None, None), (None, None, pictures)):
        with pytest.raises(MissingPackage):
            open_judge(*arguments)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"image_id": 9, "category_id": 3, "bbox": [0, 0, 5, 5]}],
        [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1}],
    ],
)
def test_labels_without_objects(tmp_path, rows):
    """None, of no picture that is there, or crowds only: AP would be -1 whatever a model finds."""
    path = write_set(tmp_path, 2)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "annotations": rows}))
    with pytest.raises(InputError, match="holds no object, so there is nothing to measure"):
        open_judge(path, None, None)


@pytest.mark.parametrize("rows", [["text"], [{}], [{"image_id": None}]])
def test_labels_that_are_malformed(tmp_path, rows):
    path = write_set(tmp_path, 2)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "annotations": rows}))
    with pytest.raises(InputError, match="malformed COCO annotations"):
        open_judge(path, None, None)


def test_labels_that_cannot_be_right(tmp_path):
    path = write_set(tmp_path, 2)
    data = json.loads(path.read_text())
    for key, value, message in (
        ("bbox", [0, 0, float("inf"), 1], "annotation 1 of image 1: wanted a bbox"),
        ("category_id", 9, "category_id 9, which the annotations' categories do not list; they list 3, 7"),
    ):
        rows = [{**data["annotations"][0], key: value}]
        path.write_text(json.dumps({**data, "annotations": rows}))
        with pytest.raises(InputError, match=message):
            open_judge(path, None, None)
    path.write_text(json.dumps({**data, "images": data["images"] * 2}))
    with pytest.raises(InputError, match="image id 1 2 times"):
        open_judge(path, None, None)


FEW = "only 24 objects in the annotations: AP moves by chance"


def test_cautions_without_calibration_pictures(tmp_path):
    assert cautions(open_judge(write_set(tmp_path, 30), None, None), None) == [FEW]
    # Four of five pictures hold an object.
    assert cautions(open_judge(write_set(tmp_path / "many", 125), None, None), None) == []


def test_few_pictures_to_agree_on(pictures):
    assert cautions(Unlabelled(pictures), pictures) == [
        "only 5 pictures to compare on, 50 or more tell better: agreement moves by chance"
    ]
    assert cautions(Unlabelled(replace(pictures, count=50)), pictures) == []


def test_evaluation_on_calibration_pictures(tmp_path):
    """The same content under other names, in a folder, a COCO json and one with its pictures elsewhere."""
    judge = open_judge(write_set(tmp_path / "eval", 30), None, None)
    calib = tmp_path / "calib"
    write_set(calib, 10, seed=9)
    assert cautions(judge, open_calibration(str(calib))) == [FEW]
    for number in range(3):
        (calib / f"{number}.png").write_bytes((tmp_path / "eval" / f"{number + 5}.png").read_bytes())
    overlap = "3 of 30 evaluation pictures are calibration pictures too"
    for source in (calib, calib / "annotations.json"):
        first, second = cautions(judge, open_calibration(str(source)))
        assert first.startswith(overlap)
        assert second == FEW
    moved = tmp_path / "moved.json"
    moved.write_text((tmp_path / "eval" / "annotations.json").read_text())
    same = open_calibration(str(moved), images=tmp_path / "eval")
    assert cautions(judge, same)[0].startswith("30 of 30 evaluation pictures")
    # Some of a folder: those that were chosen count, which are 2 and 7 of ten.
    assert cautions(judge, open_calibration(str(calib), most=2))[0].startswith("1 of 30 evaluation pictures")
    # A set that has changed since cannot be told.
    some = open_calibration(str(calib))
    (calib / "0.png").unlink()
    assert cautions(judge, some) == [FEW]


def test_overlap_with_what_is_no_file(tmp_path):
    judge = open_judge(write_set(tmp_path, 30), None, None)
    assert cautions(judge, open_calibration("test://", most=2)) == [FEW]


def test_few_pixels_are_kept():
    """Of 4K pictures what the report shows, and of the first all; boxes overlap as before."""
    keeper = proof._Keeper(lambda *_: None, 30)
    boxes = np.array([[0, 0, 3840, 2160], [384, 216, 1920, 1080]], np.float32)
    found = Detections(boxes, np.float32([0.9, 0.8]), np.int32([0, 1]), ("a", "b"), (2160, 3840))
    image = np.zeros((2160, 3840, 3), np.uint8)
    for index in range(30):
        keeper(Frame(image, index, name=f"{index}.png"), found)
    assert keeper.frame is not None
    assert keeper.frame.image is image
    assert [p.frame.name for p in keeper.pictured] == [f"{i}.png" for i in range(24)]
    assert sum(p.frame.image.nbytes for p in keeper.pictured) == 24 * 360 * 640 * 3
    kept = keeper.pictured[3]
    assert kept.detections.shape == kept.frame.image.shape[:2] == (360, 640)
    assert kept.detections.xyxy == pytest.approx(boxes / 6)
    assert iou(kept.detections.xyxy, kept.detections.xyxy) == pytest.approx(iou(boxes, boxes))
    assert list(kept.detections.scores) == list(found.scores)
    assert kept.detections.names == ("a", "b")


@pytest.mark.parametrize(
    ("shape", "wanted"), [((1, 2000), (1, 640)), ((2000, 100), (640, 32)), ((480, 640), (480, 640))]
)
def test_pictures_of_any_shape_are_kept(shape, wanted):
    kept = proof._scaled(Frame(np.zeros((*shape, 3), np.uint8)), Detections.empty(shape))
    assert kept.frame.image.shape[:2] == kept.detections.shape == wanted


def test_agreement_with_the_first(trial, pictures):
    judge = Unlabelled(pictures)
    steps: list[tuple[int, int]] = []
    first = judge.measure(bundle_of(trial), lambda *step: steps.append(step))
    assert steps == [(i, 5) for i in range(1, 6)]
    assert first.accuracy is not None
    assert (first.accuracy.AP, first.accuracy.images) == (1.0, 5)
    assert [p.frame.index for p in first.pictured] == [0, 1, 2, 3, 4]
    assert first.frame is not None
    assert first.frame.index == 0
    again = judge.measure(bundle_of(trial), lambda *_: None)
    other = judge.measure(bundle_of(trial, seed=5), lambda *_: None)
    assert again.accuracy == first.accuracy
    assert other.accuracy is not None
    assert other.accuracy.AP < 0.5
    assert other.accuracy.objects == first.accuracy.objects


def test_nothing_found_by_the_first(trial, pictures):
    judge = Unlabelled(pictures)
    quiet = {"spec_overrides": {"score_threshold": 0.999}}
    assert judge.measure(bundle_of(trial, **quiet), lambda *_: None).accuracy is None
    found = judge.measure(bundle_of(trial), lambda *_: None)
    assert found.accuracy is None
    assert len(found.pictured) == 5


def test_nothing_found_by_the_second(trial, pictures):
    judge = Unlabelled(pictures)
    judge.measure(bundle_of(trial), lambda *_: None)
    found = judge.measure(bundle_of(trial, spec_overrides={"score_threshold": 0.999}), lambda *_: None).accuracy
    assert isinstance(found, Accuracy)
    assert found.AP == 0.0


def test_labels(trial, tmp_path):
    judge = open_judge(write_set(tmp_path, 30, seed=1), None, None)
    assert judge is not None
    steps: list[tuple[int, int]] = []
    found = judge.measure(bundle_of(trial, **LABELS), lambda *step: steps.append(step))
    assert steps == [(i, 30) for i in range(1, 31)]
    assert len(found.pictured) == 24  # for the report
    assert found.accuracy is not None
    assert (found.accuracy.images, found.accuracy.objects) == (30, 24)
    assert 0 <= found.accuracy.AP < 1
    assert judge.measure(bundle_of(trial, **LABELS), lambda *_: None).accuracy == found.accuracy


def test_trials_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, spec = tiny_model()

    def interrupted() -> None:
        with Trial(spec, "0" * 64, (64, 64)) as trial:
            first = bundle_of(trial)
            assert tmp_path in first.path.parents
            assert first.manifest.frame_size == (64, 64)
            assert bundle_of(trial, seed=1).path == first.path  # one at a time
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_measuring(trial, pictures):
    """The threads that work ahead end, too."""
    judge = Unlabelled(pictures)

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge.measure(bundle_of(trial), stop)
    found = judge.measure(bundle_of(trial), lambda *_: None)
    assert found.accuracy is not None
    assert found.accuracy.AP == 1.0


def test_a_folder_of_labels(tmp_path):
    write_set(tmp_path, 2)
    judge = open_judge(Path(tmp_path), None, None)
    assert isinstance(judge, Labelled)
    assert judge.source == tmp_path / "annotations.json"
