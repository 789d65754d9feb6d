"""Which outputs are detections, and how their arrays are read."""

from __future__ import annotations

import numpy as np
import pytest

from edge_retina.errors import SpecError
from edge_retina.verify.outputs import DetectionOutputs, Output, find_detections


def outputs(*rows: tuple[str, str, list[object]]) -> list[Output]:
    return [Output(name, kind, tuple(shape)) for name, kind, shape in rows]


def test_no_outputs() -> None:
    assert find_detections([]) is None


@pytest.mark.parametrize(
    "rows",
    [
        [("logits", "float", [1, 27, 8, 8]), ("deltas", "float", [1, 36, 8, 8])],
        [("cls_logits", "float", [1, 6759, 5]), ("bbox_regression", "float", [1, 6759, 4])],
        [("cls_logits", "float", [1, 6759, 4]), ("bbox_regression", "float", [1, 6759, 4])],
        [("scores", "float", ["n"])],
        [("boxes", "float", ["n", 4]), ("scores", "float", ["n"])],  # no labels
        [("boxes", "int64", ["n", 4]), ("scores", "float", ["n"]), ("labels", "int64", ["n"])],
        [("boxes", "float", [100, 4]), ("scores", "float", [50]), ("labels", "int64", [100])],
    ],
)
def test_raw_heads_and_others_are_none(rows: list[tuple[str, str, list[object]]]) -> None:
    assert find_detections(outputs(*rows)) is None


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (  # torchvision: numbers for names, an open axis each
            [("2563", "float", ["a", 4]), ("2532", "float", ["b"]), ("2533", "int64", ["b"])],
            ("2563", "2532", "2533", None),
        ),
        (  # keras-retinanet: fixed, padded, with a batch axis
            [("boxes", "float", [1, 300, 4]), ("scores", "float", [1, 300]), ("labels", "int32", [1, 300])],
            ("boxes", "scores", "labels", None),
        ),
        (  # labels as floats, known by name alone
            [("a_boxes", "float", [1, 9, 4]), ("classes", "float", [1, 9]), ("conf", "float", [1, 9])],
            ("a_boxes", "conf", "classes", None),
        ),
        (  # EfficientNMS and its like
            [
                ("num_detections", "int32", [1, 1]),
                ("boxes", "float", [1, 100, 4]),
                ("scores", "float", [1, 100]),
                ("classes", "int32", [1, 100]),
            ],
            ("boxes", "scores", "classes", "num_detections"),
        ),
        (  # MMDetection: the score is the fifth column
            [("dets", "float", [1, "n", 5]), ("labels", "int64", [1, "n"])],
            ("dets", None, "labels", None),
        ),
        (  # detectron2 gives the size of the image too: a fixed axis beside an open one
            [("1", "float", ["a", 4]), ("2", "int64", ["b"]), ("3", "float", ["b"]), ("4", "int64", [2])],
            ("1", "3", "2", None),
        ),
        (  # proposals beside the detections: the names decide
            [
                ("boxes", "float", ["n", 4]),
                ("anchors", "float", ["m", 4]),
                ("scores", "float", ["n"]),
                ("labels", "int64", ["n"]),
            ],
            ("boxes", "scores", "labels", None),
        ),
    ],
)
def test_detections(rows: list[tuple[str, str, list[object]]], wanted: tuple[str | None, ...]) -> None:
    found = find_detections(outputs(*rows))
    assert found is not None
    assert (found.boxes, found.scores, found.labels, found.count) == wanted


def test_what_is_not_clear_is_refused() -> None:
    rows = [("1", "float", ["n", 4]), ("2", "float", ["n"]), ("3", "float", ["n"]), ("4", "int64", ["n"])]
    with pytest.raises(SpecError, match=r"found 1 float \['n', 4\]; .* --reference, or compare the heads with --heads"):
        find_detections(outputs(*rows))


BOXES = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_padding_rows_are_left_out() -> None:
    values = {"b": BOXES[None], "s": np.array([[0.9, -1, 0.0]], np.float32), "l": np.array([[2, -1, 0]], np.int32)}
    boxes, scores, labels = DetectionOutputs("b", "s", "l").read(values)
    np.testing.assert_array_equal(boxes, BOXES[:1])
    assert (scores.tolist(), labels.tolist(), labels.dtype) == ([np.float32(0.9)], [2], np.int64)


def test_the_count_says_how_many() -> None:
    values = {"b": BOXES, "s": np.full(3, 0.5), "l": np.arange(3.0), "n": np.array([[2]])}
    boxes, scores, labels = DetectionOutputs("b", "s", "l", "n").read(values)
    assert (len(boxes), len(scores), labels.tolist()) == (2, 2, [0, 1])


def test_score_in_the_fifth_column() -> None:
    rows = np.array([[[0, 1, 2, 3, 0.5], [4, 5, 6, 7, 0.25]]], np.float32)
    boxes, scores, labels = DetectionOutputs("d", None, "l").read({"d": rows, "l": np.array([[7, 8]])})
    assert boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (scores.tolist(), labels.tolist()) == ([0.5, 0.25], [7, 8])


def test_nothing_found() -> None:
    empty = {"b": np.zeros((0, 4)), "s": np.zeros(0), "l": np.zeros(0, int)}
    assert [part.shape for part in DetectionOutputs("b", "s", "l").read(empty)] == [(0, 4), (0,), (0,)]
