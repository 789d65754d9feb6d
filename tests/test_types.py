"""Frame, Detection and Detections."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import numpy as np
import pytest

from edge_retina.errors import MissingPackage
from edge_retina.types import Detection, Detections, Frame

NAMES = ("cat", "dog")


def two() -> Detections:
    """A dog and, less sure, a cat, on a frame of 100 x 200."""
    xyxy = np.array([[10, 20, 40, 60], [0, 0, 200, 100]], np.float32)
    return Detections(xyxy, np.array([0.9, 0.25], np.float32), np.array([1, 0], np.int32), NAMES, (100, 200))


def test_empty() -> None:
    none = Detections.empty((480, 640), NAMES)
    assert (len(none), list(none), none.shape, none.names) == (0, [], (480, 640), NAMES)
    assert (none.xyxy.shape, none.scores.shape, none.labels.shape) == ((0, 4), (0,), (0,))
    assert len(none.mask(min_score=0.5, names=["cat"])) == 0
    assert none.to_coco(1) == none.to_json() == []
    assert len(none[:5]) == 0


def test_rows() -> None:
    dog, cat = two()
    assert dog == Detection((10.0, 20.0, 40.0, 60.0), pytest.approx(0.9), 1, "dog")
    assert (cat.name, cat.score) == ("cat", 0.25)


def test_owns_its_arrays() -> None:
    xyxy, scores, labels = np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int32)
    found = Detections(xyxy, scores, labels)
    xyxy[:], scores[:], labels[:] = 7, 0, 1  # as a runtime does that uses its buffers again
    assert found.xyxy.tolist() == [[0, 0, 0, 0]]
    assert (found.scores.tolist(), found.labels.tolist()) == ([1], [0])
    for array in (found.xyxy, found.scores, found.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_types_are_settled() -> None:
    found = Detections(np.ones((1, 4)), np.ones(1), np.ones(1, np.int64))  # type: ignore[arg-type]
    assert (found.xyxy.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int32)
    assert found.xyxy.flags.c_contiguous


@pytest.mark.parametrize(
    ("xyxy", "scores", "labels", "message"),
    [
        (np.zeros(4), np.zeros(1), np.zeros(1), r"xyxy must have shape \(N, 4\), found \(4,\)"),
        (np.zeros((1, 5)), np.zeros(1), np.zeros(1), r"xyxy must have shape \(N, 4\), found \(1, 5\)"),
        (np.zeros((1, 4)), np.zeros((1, 1)), np.zeros(1), r"scores must have shape \(N,\), found \(1, 1\)"),
        (np.zeros((2, 4)), np.zeros(1), np.zeros(1), "must have equal length, found 2, 1, 1"),
    ],
)
def test_wrong_shapes(xyxy: Any, scores: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detections(xyxy, scores, labels)


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        (slice(0, 0), []),
        (slice(1, None), [0]),
        (1, [0]),
        (np.int64(0), [1]),
        ([1, 0], [0, 1]),
        (np.array([False, True]), [0]),
    ],
)
def test_getitem(key: Any, kept: list[int]) -> None:
    part = two()[key]
    assert part.labels.tolist() == kept
    assert (part.names, part.shape) == (NAMES, (100, 200))


def test_mask() -> None:
    assert two().mask().labels.tolist() == [1, 0]
    assert two().mask(min_score=0.25).labels.tolist() == [1, 0]  # not below: kept
    assert two().mask(min_score=0.26).labels.tolist() == [1]
    assert two().mask(names=["cat"]).labels.tolist() == [0]
    assert two().mask(names=[]).labels.tolist() == []
    # 0.9 is not a float32; the nearest one is the score.
    assert two().mask(min_score=0.9).labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"unknown names \['bird'\]; this model has \['cat', 'dog'\]"):
        two().mask(names=["bird"])


def test_a_label_without_a_name_is_its_number() -> None:
    found = Detections(np.zeros((1, 4)), np.ones(1), np.array([5]), NAMES)  # type: ignore[arg-type]
    assert next(iter(found)).name == "5"
    assert found.name_of(-1) == "-1"


def test_to_coco_by_hand() -> None:
    dog, cat = two().to_coco(42)
    assert (dog["image_id"], dog["category_id"], dog["bbox"]) == (42, 1, [10.0, 20.0, 30.0, 40.0])
    assert cat["score"] == 0.25
    assert [row["category_id"] for row in two().to_coco(42, category_ids=[17, 18])] == [18, 17]


def test_to_json_by_hand() -> None:
    found = Detections(np.array([[1.005, 2.349, 3, 4]]), np.array([0.12345]), np.array([0]), NAMES)  # type: ignore[arg-type]
    assert found.to_json() == [{"box": [1.0, 2.35, 3.0, 4.0], "score": 0.1235, "label": 0, "name": "cat"}]


def test_to_supervision_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackage, match="run: pip install supervision"):
        two().to_supervision()


def test_to_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    found = two().to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == two().xyxy.tolist()
    assert found.class_id.tolist() == [1, 0]
    assert found.data["class_name"].tolist() == ["dog", "cat"]
    assert len(Detections.empty((1, 1)).to_supervision()) == 0


def test_values_are_frozen() -> None:
    frame = Frame(np.zeros((1, 1, 3), np.uint8))
    for value, name in ((frame, "index"), (two(), "scores"), (next(iter(two())), "score")):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)
    assert two() != two()  # by identity: arrays have no one truth value


def test_age_of_a_live_frame_and_none_of_a_file() -> None:
    image = np.zeros((1, 1, 3), np.uint8)
    assert Frame(image, timestamp_ns=5).age_ms(10) is None
    live = Frame(image, timestamp_ns=2_000_000, live=True)
    assert live.age_ms(5_500_000) == 3.5
    assert Frame(image, timestamp_ns=time.monotonic_ns(), live=True).age_ms() < 5_000  # type: ignore[operator]
    assert (live.camera, live.stale) == ("", False)


def test_track_ids() -> None:
    found = two()
    assert [d.track_id for d in found] == [None, None]
    assert "id" not in found.to_json()[0]
    ids = np.array([7, -1], np.int64)
    tracked = dataclasses.replace(found, track_ids=ids)
    ids[:] = 0
    assert [d.track_id for d in tracked] == [7, -1]
    assert [row.get("id") for row in tracked.to_json()] == [7, None]
    assert tracked[1].track_ids.tolist() == [-1]
    assert tracked.mask(min_score=0.5).track_ids.tolist() == [7]
    with pytest.raises(ValueError, match="read-only"):
        tracked.track_ids[0] = 1
    with pytest.raises(ValueError, match="a track id for each of 2 rows, found 1"):
        dataclasses.replace(found, track_ids=np.zeros(1))
    assert dataclasses.replace(Detections.empty((1, 1)), track_ids=np.zeros(0)).to_json() == []
