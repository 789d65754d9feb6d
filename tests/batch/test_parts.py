"""Parts: whole or not there, bit for bit, and what a folder of them says."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_retina.batch.parts import SCHEMA, FileError, Model, Part, PartFolder, Row, encode, rows_table, text
from edge_retina.errors import OutputError
from edge_retina.types import Detections

MODEL = Model("m" * 64, "b" * 64)
KEY = "0123456789abcdef"
FOUND = Detections(
    np.array([[0.1, 1 / 3, 5, 6], [1, 2, 3, 4]], np.float32), np.float32([0.9, 1 / 3]), [4, 0], shape=(48, 64)
)


def test_no_rows():
    table = rows_table([], MODEL)
    assert (len(table), table.schema) == (0, SCHEMA)


def test_rows_keep_their_bits():
    rows = [Row("a.jpg", 0, 0, Detections.empty((2, 3))), Row("v.mp4", 7, 280_000_000, FOUND)]
    table = pq.read_table(io.BytesIO(encode(rows_table(rows, MODEL), [])))
    assert table.schema.equals(SCHEMA)
    first, second = table.to_pylist()
    assert first == {
        "source": "a.jpg",
        "frame_index": 0,
        "timestamp_ns": 0,
        "width": 3,
        "height": 2,
        "boxes": [],
        "scores": [],
        "labels": [],
        "model_digest": "m" * 64,
        "bundle_digest": "b" * 64,
    }
    assert (second["frame_index"], second["timestamp_ns"], second["labels"]) == (7, 280_000_000, [4, 0])
    assert np.float32(second["boxes"]).tobytes() == FOUND.xyxy.tobytes()
    assert np.float32(second["scores"]).tobytes() == FOUND.scores.tobytes()


def part(number: int, *, last: bool, source: str = "v.mp4", errors: tuple[FileError, ...] = ()) -> Part:
    table = rows_table([Row(source, number, 0, FOUND)], MODEL)
    return Part(KEY, number, last, encode(table, errors), 1, 2)


def test_an_empty_folder_and_one_that_is_not_there(tmp_path):
    assert PartFolder(tmp_path).found() == {}
    assert PartFolder(tmp_path / "none").found() == {}


def test_a_unit_is_whole_with_its_last_part_and_all_before_it(tmp_path):
    folder = PartFolder(tmp_path)
    folder.add(part(0, last=False))
    folder.add(part(2, last=True))
    assert folder.found() == {KEY: (1, False)}
    folder.add(part(1, last=False))
    folder.add(part(1, last=False))  # a worker that was repeated brings it again
    assert folder.found() == {KEY: (3, True)}
    error = FileError("bad.jpg", 0, "InputError", "damaged")
    folder.add(part(2, last=True, errors=(error,)))
    read = list(folder.read([KEY]))
    assert [table["frame_index"].to_pylist() for table, _ in read] == [[0], [1], [2]]
    assert [errors for _, errors in read] == [[], [], [error]]
    assert pa.concat_tables([table for table, _ in read]).schema.equals(SCHEMA)


@pytest.mark.parametrize("damage", [b"", b"PAR1 but no more"])
def test_what_a_power_cut_left_is_done_again(tmp_path, damage):
    folder = PartFolder(tmp_path)
    folder.add(part(0, last=False))
    folder.add(part(1, last=True))
    (tmp_path / part(1, last=True).name).write_bytes(damage)
    (tmp_path / ".edge-retina-0123.parquet").write_bytes(b"a draft")
    (tmp_path / "notes.md").write_text("not ours")
    assert folder.found() == {KEY: (1, False)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [part(0, last=False).name, "notes.md"]


def test_a_part_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        PartFolder(tmp_path / "file").add(part(0, last=True))


def test_names_that_are_no_utf8():
    assert text("a\udcff.jpg") == "a\\xff.jpg"
    assert text("ä.jpg") == "ä.jpg"
