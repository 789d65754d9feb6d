from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_retina.accuracy import (
    Accuracy,
    average_precision,
    check_annotations,
    class_comparison,
    comparison,
    measure,
    read_coco,
)
from edge_retina.errors import InputError

BOX = [10, 10, 40, 40]
ELSEWHERE = [100, 100, 40, 40]


def truth(*rows: tuple[list[float], int]) -> dict[str, Any]:
    """Annotations of image 1, 200x200, with categories 1 and 2."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (b, c) in enumerate(rows, 1)
    ]
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    return {"images": [{"id": 1, "width": 200, "height": 200}], "annotations": annotations, "categories": categories}


def result(box: list[float], category: int, score: float = 0.9) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


def test_no_results() -> None:
    assert set(average_precision(truth((BOX, 1)), []).values()) == {0.0}


def test_no_objects() -> None:
    # Nothing to find, so no precision to speak of: COCO's -1.
    assert average_precision(truth(), [result(BOX, 1)])["AP"] == -1


@pytest.mark.parametrize(
    ("objects", "results", "ap", "ap50"),
    [
        # Perfect.
        ([(BOX, 1)], [result(BOX, 1)], 1.0, 1.0),
        ([(BOX, 1), (ELSEWHERE, 2)], [result(BOX, 1), result(ELSEWHERE, 2, 0.1)], 1.0, 1.0),
        # One of two: precision 1 at recall 0, 0.01, .. 0.50, which are 51 of the 101 points.
        ([(BOX, 1), (ELSEWHERE, 1)], [result(BOX, 1)], 51 / 101, 51 / 101),
        # Both, but a false one scores best: precision at best 2 / 3 up to full recall.
        (
            [(BOX, 1), (ELSEWHERE, 1)],
            [result([50, 150, 40, 40], 1, 0.95), result(BOX, 1), result(ELSEWHERE, 1, 0.8)],
            2 / 3,
            2 / 3,
        ),
        # Right place, wrong class.
        ([(BOX, 1)], [result(BOX, 2)], 0.0, 0.0),
        # One class perfect, the other missed: the mean over classes.
        ([(BOX, 1), (ELSEWHERE, 2)], [result(BOX, 1)], 0.5, 0.5),
        # IoU 1600 / 2200 = 0.727: counts at 0.50, 0.55, .. 0.70, five of the ten thresholds.
        ([(BOX, 1)], [result([10, 10, 40, 55], 1)], 0.5, 1.0),
        # The same object found twice: the second is false, but comes after full recall.
        ([(BOX, 1)], [result(BOX, 1), result(BOX, 1, 0.8)], 1.0, 1.0),
        # Beside the object.
        ([(BOX, 1)], [result(ELSEWHERE, 1)], 0.0, 0.0),
    ],
)
def test_average_precision_by_hand(
    objects: list[tuple[list[float], int]], results: list[dict[str, Any]], ap: float, ap50: float
) -> None:
    found = average_precision(truth(*objects), results)
    assert found["AP"] == pytest.approx(ap, abs=1e-6)
    assert found["AP50"] == pytest.approx(ap50, abs=1e-6)


def test_results_of_another_image() -> None:
    with pytest.raises(InputError, match="image 5, which the annotations do not have"):
        average_precision(truth((BOX, 1)), [{**result(BOX, 1), "image_id": 5}])


def test_sizes() -> None:
    # 40 x 40 is medium: above 32 x 32, below 96 x 96.
    found = average_precision(truth((BOX, 1)), [result(BOX, 1)])
    assert (found["APs"], found["APm"], found["APl"], found["AR100"]) == (-1, 1, -1, 1)


def test_stdout_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision(truth((BOX, 1)), [result(BOX, 1)])
    assert capsys.readouterr() == ("", "")


def test_the_inputs_stay_as_they_are() -> None:
    annotations, results = truth((BOX, 1)), [result(BOX, 1)]
    before = json.dumps([annotations, results])
    average_precision(annotations, results)
    assert json.dumps([annotations, results]) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "wanted COCO annotations"),
        ("[1, 2]", "no list images or annotations or categories"),
        ('{"images": [], "annotations": {}}', "no list annotations or categories"),
        ("[" * 100_000, "wanted COCO annotations"),
    ],
)
def test_read_coco_says_what_is_wrong(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_coco(path)


def test_read_coco(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(truth((BOX, 1))))
    assert read_coco(path) == truth((BOX, 1))


# Accuracy


def test_no_results_leave_sizes_without_objects_unmeasured() -> None:
    found = measure(truth((BOX, 1)), [])
    assert (found.AP, found.APm, found.AR100, found.APs, found.APl) == (0, 0, 0, -1, -1)
    assert (found.per_class, found.images, found.objects) == ({"one": 0.0}, 1, 1)


def test_nothing_to_find() -> None:
    found = measure(truth(), [result(BOX, 1)])
    assert (found.AP, found.AR1, found.per_class, found.objects) == (-1, -1, {}, 0)


def test_a_perfect_result_is_exactly_one() -> None:
    found = measure(truth((BOX, 1), (ELSEWHERE, 2)), [result(BOX, 1), result(ELSEWHERE, 2, 0.1)])
    assert (found.AP, found.AP50, found.AP75, found.APm, found.AR1, found.AR10) == (1, 1, 1, 1, 1, 1)
    assert found.per_class == {"one": 1, "two": 1}


def test_per_class() -> None:
    # Class two as in the table above: IoU 0.727, five of ten thresholds.
    found = measure(truth((BOX, 1), (BOX, 2)), [result(BOX, 1), result([10, 10, 40, 55], 2)])
    assert found.per_class == pytest.approx({"one": 1.0, "two": 0.5})
    assert [found.to_json()[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([0.75, 1.0, 0.5])


def test_recall_by_number_of_detections() -> None:
    # Two objects, the better detection of one, then a false one, then the other: with 1 detection half is found.
    rows = [result(BOX, 1), result([50, 150, 40, 40], 1, 0.8), result(ELSEWHERE, 1, 0.7)]
    found = measure(truth((BOX, 1), (ELSEWHERE, 1)), rows)
    assert (found.AR1, found.AR10, found.AR100) == (0.5, 1.0, 1.0)


def test_it_is_what_the_evaluator_itself_sums_up() -> None:
    from copy import deepcopy

    import numpy as np
    from faster_coco_eval import COCO, COCOeval_faster

    rng = np.random.default_rng(0)
    boxes = [[*rng.uniform(0, 100, 2).tolist(), *rng.uniform(10, 100, 2).tolist()] for _ in range(30)]
    annotations = truth(*((box, 1 + i % 2) for i, box in enumerate(boxes)))
    rows = [result([v + rng.uniform(0, 4) for v in box], 1 + i % 2, rng.uniform()) for i, box in enumerate(boxes)]
    known = COCO({"info": {}, **deepcopy(annotations)})
    theirs = COCOeval_faster(known, known.loadRes(deepcopy(rows)), "bbox", print_function=lambda *_: None)
    theirs.run()
    ours = measure(annotations, rows)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
    assert [getattr(ours, name) for name in names] == pytest.approx(list(theirs.stats[:9]), abs=1e-9)
    assert 0.1 < ours.AP < 0.9


def test_annotations_without_area_crowd_and_with_id_zero() -> None:
    bare = truth((BOX, 1), (ELSEWHERE, 1))
    bare["annotations"] = [{**a, "id": i} for i, a in enumerate(bare["annotations"])]
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    assert measure(bare, [result(BOX, 1), result(ELSEWHERE, 1)]).AP == 1


def test_objects_of_strange_images_and_categories_do_not_count() -> None:
    annotations = truth((BOX, 1), (BOX, 1), (BOX, 5))
    annotations["annotations"][1]["image_id"] = 9
    found = measure(annotations, [result(BOX, 1)])
    assert (found.AP, found.objects, found.per_class) == (1, 1, {"one": 1})


def test_two_categories_of_one_name() -> None:
    annotations = truth((BOX, 1), (BOX, 2))
    annotations["categories"][1]["name"] = "one"
    assert measure(annotations, [result(BOX, 1)]).per_class == {"one (1)": 1, "one (2)": 0}


def test_malformed_annotations() -> None:
    annotations = truth((BOX, 1))
    annotations["annotations"][0]["bbox"] = BOX[:3]
    with pytest.raises(InputError, match="malformed COCO annotations"):
        measure(annotations, [])


def test_annotations_that_can_be_measured() -> None:
    check_annotations({"images": [], "annotations": [], "categories": []})
    check_annotations(truth((BOX, 1), ([10, 10, 0, 0], 2)))
    bare = truth((BOX, 1))
    del bare["annotations"][0]["id"], bare["annotations"][0]["area"]
    check_annotations(bare)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, float("nan"), 4]}, r"annotation 2 of image 1: .* found \[1, 2, nan, 4\]"),
        ({"bbox": [float("-inf"), 2, 3, 4]}, r"annotation 2 of image 1: .* found \[-inf, 2, 3, 4\]"),
        ({"bbox": [1, 2, 3, -4]}, r"annotation 2 of image 1: .* found \[1, 2, 3, -4\]"),
        ({"area": -1.0}, r"annotation 2 of image 1: .* and area -1\.0"),
        ({"bbox": [1, 2, 3]}, "malformed COCO annotations"),
        ({"category_id": 9}, "category_id 9, which the annotations' categories do not list; they list 1, 2"),
    ],
)
def test_the_first_annotation_that_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    annotations = truth((BOX, 1), (BOX, 1), (BOX, 2))
    annotations["annotations"][1] |= change
    with pytest.raises(InputError, match=message):
        check_annotations(annotations)


def test_an_image_id_twice() -> None:
    annotations = truth((BOX, 1))
    annotations["images"] *= 2
    with pytest.raises(InputError, match="image id 1 2 times"):
        check_annotations(annotations)


def test_there_and_back_as_json() -> None:
    found = measure(truth((BOX, 1)), [result(BOX, 1)])
    assert Accuracy(**json.loads(json.dumps(found.to_json()))) == found


# Tables

ONE = Accuracy(0.5, 0.8, 0.4, -1.0, 0.5, 0.6, 0.3, 0.6, 0.7, {"a": 0.9, "b": 0.1, "c": 0.5}, 3, 9)
OTHER = replace(ONE, AP=0.49996, AP50=0.81, AP75=0.25, per_class={"a": 0.7, "b": 0.2, "c": 0.4})


def test_one_model_alone() -> None:
    rows = comparison([("m", ONE)])
    assert rows[:3] == [("", "m"), ("AP", "0.5000"), ("AP50", "0.8000")]
    assert [row[0] for row in rows[1:]] == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]
    # The lowest first: there is nothing to differ from.
    assert class_comparison([("m", ONE)]) == [("", "m"), ("b", "0.1000"), ("c", "0.5000"), ("a", "0.9000")]


def test_differences_from_the_first() -> None:
    rows = comparison([("m", ONE), ("n", OTHER), ("o", ONE)])
    assert rows[0] == ("", "m", "n", "change", "o", "change")
    assert rows[1] == ("AP", "0.5000", "0.5000", "+0.0000", "0.5000", "+0.0000")  # no -0.0000
    assert rows[2] == ("AP50", "0.8000", "0.8100", "+0.0100", "0.8000", "+0.0000")
    assert rows[3] == ("AP75", "0.4000", "0.2500", "-0.1500", "0.4000", "+0.0000")
    assert rows[4] == ("APs", "-", "-", "-", "-", "-")


def test_the_worst_classes_come_first() -> None:
    rows = class_comparison([("m", ONE), ("n", OTHER)], most=2)
    assert rows[1:] == [("a", "0.9000", "0.7000", "-0.2000"), ("c", "0.5000", "0.4000", "-0.1000")]
    assert len(class_comparison([("m", ONE), ("n", OTHER)])) == 4


def test_a_class_that_one_does_not_know() -> None:
    rows = class_comparison([("m", ONE), ("n", replace(ONE, per_class={"d": 0.5}))])
    assert sorted(rows[1:]) == [
        ("a", "0.9000", "-", "-"),
        ("b", "0.1000", "-", "-"),
        ("c", "0.5000", "-", "-"),
        ("d", "-", "0.5000", "-"),
    ]
