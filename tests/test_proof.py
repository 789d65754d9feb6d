"""How precisions are judged: by labels, else by agreement with the first one; and where trials are kept."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from coco_sets import write_set
from models import rewritten, tiny_model, write_pictures

from edge_retina import proof
from edge_retina.accuracy import Accuracy
from edge_retina.bundle import Bundle
from edge_retina.calibrate.pictures import CalibrationSet, open_calibration
from edge_retina.errors import InputError, MissingPackage
from edge_retina.proof import Labelled, Trial, Unlabelled, open_judge

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


def test_64_pictures_are_enough(pictures):
    many = replace(pictures, count=1000)
    judge = Unlabelled(many)
    assert len(judge.indices) == 64
    assert (judge.indices[0], judge.indices[-1]) == (7, 992)


def test_labels_go_before_pictures(tmp_path, pictures):
    path = write_set(tmp_path, 3)
    judge = open_judge(path, None, pictures)
    assert isinstance(judge, Labelled)
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


def test_agreement_with_the_first(trial, pictures):
    judge = Unlabelled(pictures)
    steps: list[tuple[int, int]] = []
    first = judge.measure(bundle_of(trial), lambda *step: steps.append(step))
    assert steps == [(i, 5) for i in range(1, 6)]
    assert first.accuracy is not None
    assert (first.accuracy.AP, first.accuracy.images) == (1.0, 5)
    assert [p.frame.index for p in first.pictured] == [0, 1, 2, 3, 4]
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
