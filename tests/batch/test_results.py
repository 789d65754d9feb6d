"""What a batch leaves: Parquet, COCO, and the errors."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge_retina.batch import results
from edge_retina.batch.parts import SCHEMA, FileError, Model, Row, rows_table
from edge_retina.batch.results import count_errors, read_about, write_coco, write_errors, write_parquet
from edge_retina.errors import OutputError
from edge_retina.types import Detections

ABOUT = {"batch": 1, "labels": ["cat", "dog"], "sources": "s"}
FOUND = Detections(np.float32([[1, 2, 4, 8], [0.5, 0, 1, 1]]), np.float32([0.75, 0.1]), [1, 0], shape=(48, 64))
BAD = FileError("bad.jpg", 0, "InputError", "damaged")


def parts():
    model = Model("m", "b")
    yield rows_table([Row("a.jpg", 0, 0, FOUND)], model), [BAD]
    yield rows_table([], model), []
    yield rows_table([Row("v.mp4", 1, 40, Detections.empty((2, 3)))], Model("m", "b")), []


def test_no_parts(tmp_path):
    assert write_parquet(tmp_path / "o.parquet", [], ABOUT) == []
    assert pq.read_schema(tmp_path / "o.parquet").equals(SCHEMA)
    assert write_coco(tmp_path / "o.json", [], ABOUT) == []
    empty = json.loads((tmp_path / "o.json").read_text())
    assert (empty["images"], empty["annotations"]) == ([], [])


@pytest.mark.parametrize("group", [1, 100])
def test_parquet(tmp_path, monkeypatch, group):
    monkeypatch.setattr(results, "_GROUP", group)
    out = tmp_path / "o.parquet"
    assert write_parquet(out, parts(), ABOUT) == [BAD]
    rows = pq.read_table(out).to_pylist()
    assert [(row["source"], row["frame_index"], row["labels"]) for row in rows] == [
        ("a.jpg", 0, [1, 0]),
        ("v.mp4", 1, []),
    ]
    assert rows[0]["boxes"] == [[1, 2, 4, 8], [0.5, 0, 1, 1]]
    assert read_about(out) == ABOUT
    assert [path.name for path in tmp_path.iterdir()] == ["o.parquet"]


def test_coco(tmp_path):
    out = tmp_path / "o.json"
    assert write_coco(out, parts(), ABOUT) == [BAD]
    coco = json.loads(out.read_text())
    assert coco["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert coco["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "frame_index": 0, "timestamp_ns": 0},
        {"id": 2, "file_name": "v.mp4", "width": 3, "height": 2, "frame_index": 1, "timestamp_ns": 40},
    ]
    first, second = coco["annotations"]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 2, 3, 6],
        "area": 18,
        "score": 0.75,
        "iscrowd": 0,
    }
    assert (second["bbox"], np.float32(second["score"])) == ([0.5, 0, 0.5, 1], np.float32(0.1))
    assert read_about(out) == ABOUT
    assert [path.name for path in tmp_path.iterdir()] == ["o.json"]


@pytest.mark.parametrize("errors", [[], [BAD, BAD]])
def test_errors(tmp_path, errors):
    out = tmp_path / "o.parquet"
    assert count_errors(out) == 0
    write_errors(out, errors)
    rows = pq.read_table(tmp_path / "o.errors.parquet").to_pylist()
    assert rows == [{"source": "bad.jpg", "frames": 0, "error": "InputError", "message": "damaged"}] * len(errors)
    assert count_errors(out) == len(errors)


@pytest.mark.parametrize(("name", "content"), [("o.json", b"[1, 2]"), ("o.json", b"\xff"), ("o.parquet", b"no")])
def test_a_file_of_someone_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_about(tmp_path / name) is None


def test_a_failed_write_leaves_nothing(tmp_path):
    def broken():
        yield from parts()
        raise RuntimeError("halfway")

    for name, write in (("o.parquet", write_parquet), ("o.json", write_coco)):
        with pytest.raises(RuntimeError, match="halfway"):
            write(tmp_path / name, broken(), ABOUT)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_parquet(tmp_path / "file" / "o.parquet", parts(), ABOUT)
