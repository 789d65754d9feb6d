"""What a batch leaves: one Parquet file or COCO JSON, and a table of the files that failed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edge_retina.batch.parts import SCHEMA, FileError
from edge_retina.drafts import Draft, as_output_error
from edge_retina.errors import OutputError

__all__ = ["count_errors", "errors_path", "read_about", "write_coco", "write_errors", "write_parquet"]

Parts = Iterable[tuple[pa.Table, list[FileError]]]
_ERRORS_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
# Rows of one row group: parts are far smaller, and a reader pays for each group.
_GROUP = 16_384
_ABOUT = b"edge_retina.batch"
_HEAD = '{"info": '


def errors_path(out: Path) -> Path:
    """Where the errors of a batch stand: OUT.parquet has OUT.errors.parquet."""
    return out.with_name(f"{out.stem}.errors.parquet")


def write_parquet(out: Path, parts: Parts, about: dict[str, Any]) -> list[FileError]:
    """All rows as one file that appears whole, `about` in its metadata; returns the errors. Raises OutputError."""
    errors: list[FileError] = []
    draft = Draft(out)
    try:
        schema = SCHEMA.with_metadata({_ABOUT: json.dumps(about).encode()})
        with as_output_error(out), pq.ParquetWriter(draft.path, schema, compression="zstd") as writer:
            held: list[pa.Table] = []
            for table, failed in parts:
                errors += failed
                held.append(table)
                if sum(len(t) for t in held) >= _GROUP:
                    writer.write_table(_one(held, schema))
                    held = []
            writer.write_table(_one(held, schema))
        draft.publish()
    finally:
        draft.discard()
    return errors


def _one(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    joined = pa.concat_tables([table.cast(SCHEMA) for table in tables]) if tables else SCHEMA.empty_table()
    return joined.unify_dictionaries().replace_schema_metadata(schema.metadata)


def write_coco(out: Path, parts: Parts, about: dict[str, Any]) -> list[FileError]:
    """All rows as a COCO JSON that appears whole: images, annotations with a score, categories; returns the errors.

    Ids of images and annotations count from 1, a category's is the label's index. Numbers keep every bit of float32.
    Memory: a part at a time. Raises OutputError.
    """
    errors: list[FileError] = []
    draft, images = Draft(out), Draft(out)
    categories = [{"id": i, "name": name} for i, name in enumerate(about["labels"])]
    try:
        with as_output_error(out), draft.path.open("w") as main, images.path.open("w") as beside:
            main.write(f'{_HEAD}{json.dumps(about)},\n"categories": {json.dumps(categories)},\n"annotations": [')
            image_id = annotation_id = 0
            for table, failed in parts:
                errors += failed
                for row in table.to_pylist():
                    image_id += 1
                    beside.write((",\n" if image_id > 1 else "\n") + json.dumps(_image(row, image_id)))
                    for found in _annotations(row):
                        annotation_id += 1
                        found = {"id": annotation_id, "image_id": image_id, **found}
                        main.write((",\n" if annotation_id > 1 else "\n") + json.dumps(found))
            main.write('\n],\n"images": [')
            beside.close()
            with images.path.open() as rest:
                while text := rest.read(1 << 20):
                    main.write(text)
            main.write("\n]}\n")
        draft.publish()
    finally:
        draft.discard()
        images.discard()
    return errors


def _image(row: dict[str, Any], image_id: int) -> dict[str, Any]:
    """frame_index and timestamp_ns tell frames of one video apart; both are 0 of a picture."""
    size = {"width": row["width"], "height": row["height"]}
    place = {"frame_index": row["frame_index"], "timestamp_ns": row["timestamp_ns"]}
    return {"id": image_id, "file_name": row["source"], **size, **place}


def _annotations(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for (x1, y1, x2, y2), score, label in zip(row["boxes"], row["scores"], row["labels"], strict=True):
        width, height = x2 - x1, y2 - y1
        box = {"bbox": [x1, y1, width, height], "area": width * height}
        yield {"category_id": label, **box, "score": score, "iscrowd": 0}


def write_errors(out: Path, errors: list[FileError]) -> None:
    """The errors table of a batch, also where it is empty. Raises OutputError."""
    columns = {
        "source": [error.source for error in errors],
        "frames": [error.frames for error in errors],
        "error": [error.error for error in errors],
        "message": [error.message for error in errors],
    }
    draft = Draft(errors_path(out))
    try:
        with as_output_error(draft.target):
            pq.write_table(pa.table(columns, schema=_ERRORS_SCHEMA), draft.path)
        draft.publish()
    finally:
        draft.discard()


def count_errors(out: Path) -> int:
    """Rows of the errors table of OUT; 0 where somebody has removed it. Raises OutputError."""
    path = errors_path(out)
    if not path.exists():
        return 0
    with as_output_error(path):
        return int(pq.read_metadata(path).num_rows)


def read_about(out: Path) -> dict[str, Any] | None:
    """What `about` said when a batch wrote this file; None for a file of anyone else. Raises OutputError."""
    try:
        if out.suffix == ".parquet":
            text = (pq.read_schema(out).metadata or {}).get(_ABOUT, b"null").decode()
        else:
            with out.open() as file:
                text = file.readline().removeprefix(_HEAD).rstrip(",\n")
        about = json.loads(text)
    except (ValueError, pa.ArrowException):
        return None
    except OSError as exc:
        raise OutputError(f"cannot read {out}: {exc.strerror}; check its permissions") from exc
    return about if isinstance(about, dict) and "batch" in about else None
