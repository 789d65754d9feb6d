from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("faster_coco_eval", reason="average precision needs: pip install 'edge-retina[eval]'")

from edge_retina.errors import InputError
from edge_retina.evaluate import average_precision, read_coco

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
