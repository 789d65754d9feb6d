"""Recorded detections out of files: each form by hand, and what is no such file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_retina.errors import InputError
from edge_retina.verify.reference import read_reference

LABELS = ("cat", "dog", "cow")


def written(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def as_lists(found: tuple[np.ndarray, ...] | None) -> list[list[Any]]:
    assert found is not None
    return [part.tolist() for part in found]


@pytest.mark.parametrize("key", ["dog", "dog.jpg"])
def test_npz(tmp_path: Path, key: str) -> None:
    arrays = {"boxes": np.float32([[1, 2, 3, 4]]), "scores": np.float32([0.5]), "labels": np.array([2])}
    np.savez(tmp_path / "r.npz", **{f"{key}.{name}": value for name, value in arrays.items()}, other=np.zeros(3))
    reference = read_reference(tmp_path / "r.npz", LABELS)
    assert as_lists(reference.of("dog.jpg")) == [[[1, 2, 3, 4]], [0.5], [2]]
    assert reference.of("cat.jpg") is None


def test_json_by_picture(tmp_path: Path) -> None:
    rows = [{"bbox": [1, 2, 3, 4], "score": 0.5, "label": 2}, {"bbox": [5, 6, 7, 8], "score": 0.25, "label": "dog"}]
    reference = read_reference(written(tmp_path / "r.json", {"a.png": rows, "none.png": []}), LABELS)
    assert as_lists(reference.of("a.png")) == [[[1, 2, 3, 4], [5, 6, 7, 8]], [0.5, 0.25], [2, 1]]
    assert as_lists(reference.of("none.png")) == [[], [], []]  # known, and nothing in it


@pytest.mark.parametrize("image_id", [139, "139", "000000000139", "000000000139.jpg"])
def test_coco_results(tmp_path: Path, image_id: int | str) -> None:
    row = {"image_id": image_id, "category_id": 1, "bbox": [10, 20, 5, 6], "score": 0.5}
    reference = read_reference(written(tmp_path / "r.json", [row]), LABELS)
    assert as_lists(reference.of("000000000139.jpg")) == [[[10, 20, 15, 26]], [0.5], [1]]
    assert reference.of("000000000140.jpg") is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "cannot be read as such"),
        ("{}", "holds no detections"),
        ("[]", "holds no detections"),
        ("3", "cannot be read as such"),
        ({"a": [{"bbox": [1, 2, 3, 4], "score": 0.5}]}, "no field 'label'"),
        ({"a": [{"bbox": [1, 2, 3], "score": 0.5, "label": 0}]}, r"found \(1, 3\)"),
        ({"a": [{"bbox": [1, 2, 3, 4], "score": 0.5, "label": "sheep"}]}, "'sheep' is none of the model's: cat, dog"),
        ({"a": 3}, "cannot be read as such"),
        ([{"image_id": 1, "category_id": 0, "bbox": [1, 2], "score": 1}], "cannot be read as such"),
    ],
)
def test_what_is_no_reference(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_reference(written(tmp_path / "r.json", data), LABELS)


@pytest.mark.parametrize("name", ["r.npz", "r.json", "r.txt", "r"])
def test_missing_and_of_another_kind(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"No such file|wanted recorded detections as \.npz or \.json"):
        read_reference(tmp_path / name, LABELS)


def test_damaged_npz(tmp_path: Path) -> None:
    for data in (b"", b"PK\3\4 and no more", b"\x93NUMPY"):
        (tmp_path / "r.npz").write_bytes(data)
        with pytest.raises(InputError):
            read_reference(tmp_path / "r.npz", LABELS)
    np.savez(tmp_path / "r.npz", **{"a.boxes": np.zeros((2, 4))})
    with pytest.raises(InputError, match=r"a\.scores"):
        read_reference(tmp_path / "r.npz", LABELS)
    np.savez(tmp_path / "r.npz", **{"a.boxes": np.zeros((2, 4)), "a.scores": np.zeros(1), "a.labels": np.zeros(2)})
    with pytest.raises(InputError, match=r"found \(2, 4\), \(1,\), \(2,\)"):
        read_reference(tmp_path / "r.npz", LABELS)
