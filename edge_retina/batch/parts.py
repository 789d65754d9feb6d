"""Parts: the results of a unit, or of a range of a long video, each a Parquet file that is whole or not there.

A row is a frame: source, frame_index and timestamp_ns in it, width and height in pixels, boxes (N, 4) float32
x1 y1 x2 y2 in pixels, scores (N,) float32 descending, labels (N,) int32, model_digest of the ONNX that was built,
bundle_digest.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_retina.drafts import Draft
from edge_retina.types import Detections

__all__ = ["SCHEMA", "FileError", "Model", "Part", "PartFolder", "Row", "encode", "rows_table", "text"]

SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp_ns", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("model_digest", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("bundle_digest", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ]
)
_ERRORS = b"edge_retina.errors"
_NAME = re.compile(r"([0-9a-f]{16})-(\d{7})(-last)?\.parquet")


@dataclass(frozen=True, slots=True)
class Model:
    """What is said of the model in every row: sha256 in hex of the ONNX given to build, and of the bundle."""

    model_digest: str
    bundle_digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A frame's detections. source: its file. index, timestamp_ns: its place in that file."""

    source: str
    index: int
    timestamp_ns: int
    detections: Detections


@dataclass(frozen=True, slots=True)
class FileError:
    """Why a file has no results, or none from a frame on. frames: how many it gave before. error: class."""

    source: str
    frames: int
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a unit. number: 0, 1, ...; last: the unit ends with it. data: Parquet.

    known: it was there before, and is not sent again. again: a worker died of the unit before. began: Unix time.
    """

    unit: str
    number: int
    last: bool
    data: bytes = b""
    frames: int = 0
    detections: int = 0
    errors: int = 0
    began: float = 0.0
    known: bool = False
    again: bool = False

    @property
    def name(self) -> str:
        """File name of the part."""
        return f"{self.unit}-{self.number:07d}{'-last' if self.last else ''}.parquet"


def rows_table(rows: Sequence[Row], model: Model) -> pa.Table:
    """Rows as a table of SCHEMA; bits are kept."""
    counts = [0, *itertools.accumulate(len(row.detections) for row in rows)]
    offsets = pa.array(counts, pa.int32())

    def flat(name: str, dtype: type[np.generic]) -> pa.Array:
        arrays = [getattr(row.detections, name).reshape(-1) for row in rows]
        return pa.array(np.concatenate([np.zeros(0, dtype), *arrays]))

    columns = [
        pa.array([row.source for row in rows], pa.string()),
        pa.array([row.index for row in rows], pa.int64()),
        pa.array([row.timestamp_ns for row in rows], pa.int64()),
        pa.array([row.detections.shape[1] for row in rows], pa.int32()),
        pa.array([row.detections.shape[0] for row in rows], pa.int32()),
        pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(flat("xyxy", np.float32), 4)),
        pa.ListArray.from_arrays(offsets, flat("scores", np.float32)),
        pa.ListArray.from_arrays(offsets, flat("labels", np.int32)),
        *(pa.array([value] * len(rows), pa.string()).dictionary_encode() for value in asdict(model).values()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def encode(table: pa.Table, errors: Sequence[FileError]) -> bytes:
    """A part's Parquet: the rows, and the errors in its metadata, so that both are there or neither."""
    sink = pa.BufferOutputStream()
    notes = {_ERRORS: json.dumps([asdict(error) for error in errors]).encode()}
    pq.write_table(table.replace_schema_metadata(notes), sink, compression="zstd")
    return bytes(sink.getvalue())


def text(name: str) -> str:
    """A file's name as UTF-8 can hold it: bytes that are none become a backslash, x and two hex digits."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class PartFolder:
    """The folder in which a batch keeps its parts until it is done; the parts themselves say what is done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, part: Part) -> None:
        """Write a part; one that is there already is replaced by its equal. Raises OutputError."""
        draft = Draft(self.path / part.name)
        try:
            draft.fill(part.data)
            draft.publish()
        finally:
            draft.discard()

    def found(self) -> dict[str, tuple[int, bool]]:
        """Of each unit: how many ranges from its beginning are there without a gap, and whether that is all of it.

        Drafts that a killed run left, and parts that cannot be read as after a power cut, are removed.
        """
        numbers: dict[str, set[int]] = {}
        ends: dict[str, int] = {}
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match is None or not _readable(path):
                if match is not None or path.name.startswith(".edge-retina-"):
                    path.unlink(missing_ok=True)
                continue
            unit, number = match[1], int(match[2])
            numbers.setdefault(unit, set()).add(number)
            if match[3]:
                ends[unit] = number
        counts = {unit: next(n for n in range(len(have) + 1) if n not in have) for unit, have in numbers.items()}
        return {unit: (count, ends.get(unit) == count - 1) for unit, count in counts.items()}

    def read(self, units: Sequence[str]) -> Iterator[tuple[pa.Table, list[FileError]]]:
        """Rows and errors of every part, in the order of the units and of their ranges."""
        counts = self.found()
        for unit in units:
            count, whole = counts.get(unit, (0, False))
            for number in range(count):
                table = pq.read_table(self.path / Part(unit, number, whole and number == count - 1).name)
                notes = json.loads(table.schema.metadata[_ERRORS])
                yield table.replace_schema_metadata(None).cast(SCHEMA), [FileError(**error) for error in notes]


def _readable(path: Path) -> bool:
    try:
        return pq.read_metadata(path).metadata is not None
    except (OSError, pa.ArrowException):
        return False
