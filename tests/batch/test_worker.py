"""What a worker makes of a unit, with a real detector, in this process."""

from __future__ import annotations

import os

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_files import picture, video

from edge_retina import Detector
from edge_retina.batch import worker
from edge_retina.batch.listing import SourceFile, list_sources
from edge_retina.batch.parts import Part, PartFolder
from edge_retina.batch.units import Unit, make_units
from edge_retina.batch.worker import Settings, work

ALL = Settings(min_score=0.3)


@pytest.fixture(scope="module")
def detector(bundle):
    with Detector.load(bundle, target="ort", threads=1) as loaded:
        yield loaded


def one_unit(*paths: object) -> Unit:
    (unit,) = make_units(list_sources([str(path) for path in paths]), "x")
    return unit


def rows_of(parts: list[Part], tmp_path) -> tuple[list[dict], list[tuple[str, int, str]]]:
    folder = PartFolder(tmp_path / "parts")
    for part in parts:
        folder.add(part)
    tables, errors = zip(*folder.read([parts[0].unit]), strict=True)
    failed = [(error.source, error.frames, error.error) for some in errors for error in some]
    return pa.concat_tables(tables).to_pylist(), failed


def same(row: dict, detections) -> bool:
    return (
        np.float32(row["boxes"]).reshape(-1, 4).tobytes() == detections.xyxy.tobytes()
        and np.float32(row["scores"]).tobytes() == detections.scores.tobytes()
        and row["labels"] == detections.labels.tolist()
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_pictures_and_the_bad_among_them(tmp_path, detector, batch):
    for name in ("a.png", "c.png", "d.png", "f.png"):
        picture(tmp_path / name, seed=ord(name[0]))
    (tmp_path / "b.jpg").write_bytes(b"none")
    (tmp_path / "e.jpg").touch()
    paths = [tmp_path / name for name in ("a.png", "b.jpg", "c.png", "d.png", "e.jpg", "f.png")]
    (part,) = work(detector, one_unit(*paths), Settings(0.3, batch))
    assert (part.name[16:], part.frames, part.errors, part.last) == ("-0000000-last.parquet", 4, 2, True)
    rows, failed = rows_of([part], tmp_path)
    assert failed == [(str(paths[1]), 0, "InputError"), (str(paths[4]), 0, "InputError")]
    assert [row["source"] for row in rows] == [str(paths[i]) for i in (0, 2, 3, 5)]
    for row in rows:
        alone = detector(cv2.imread(row["source"])).mask(min_score=0.3)
        assert len(alone)
        assert same(row, alone)
        assert (row["width"], row["height"], row["bundle_digest"]) == (64, 48, detector.bundle.digest)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
def test_a_pipe_that_a_list_names_ends_at_once(tmp_path, detector):
    files = [SourceFile(name, str(tmp_path / name)) for name in ("a.jpg", "b.mp4")]
    for file in files:
        os.mkfifo(file.path)
    parts = [part for file in files for part in work(detector, Unit("0" * 16, (file,)), ALL)]
    assert [(part.frames, part.errors, part.last) for part in parts] == [(0, 1, True)] * 2


def test_nothing_but_bad_files(tmp_path, detector):
    (tmp_path / "b.jpg").touch()
    gone = SourceFile("gone.jpg", str(tmp_path / "gone.jpg"))
    (part,) = work(detector, Unit("0" * 16, (*list_sources([str(tmp_path / "b.jpg")]), gone)), ALL)
    rows, failed = rows_of([part], tmp_path)
    assert rows == []
    assert [source for source, *_ in failed] == [str(tmp_path / "b.jpg"), "gone.jpg"]


@pytest.mark.parametrize(("frames", "sizes"), [(3, [3]), (4, [4]), (9, [4, 4, 1])])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_video_in_ranges_is_what_the_stream_gives(tmp_path, detector, monkeypatch, frames, sizes, batch):
    monkeypatch.setattr(worker, "RANGE", 4)
    path = video(tmp_path / "v.avi", frames)
    parts = list(work(detector, one_unit(path), Settings(0.3, batch)))
    assert [part.frames for part in parts] == sizes
    assert [part.last for part in parts] == [False] * (len(sizes) - 1) + [True]
    rows, failed = rows_of(parts, tmp_path)
    assert failed == []
    streamed = list(detector.stream(path))
    assert [(row["frame_index"], row["timestamp_ns"]) for row in rows] == [
        (frame.index, frame.timestamp_ns) for frame, _ in streamed
    ]
    assert all(same(row, found.mask(min_score=0.3)) for row, (_, found) in zip(rows, streamed, strict=True))


@pytest.mark.parametrize("batch", [1, 3])
def test_ranges_that_are_there_are_not_inferred_again(tmp_path, detector, monkeypatch, batch):
    monkeypatch.setattr(worker, "RANGE", 4)
    unit = one_unit(video(tmp_path / "v.avi", 10))
    whole = list(work(detector, unit, Settings(0.3, batch)))
    inferred = []
    infer = worker.infer_batches
    monkeypatch.setattr(worker, "infer_batches", lambda d, b: inferred.extend(f.index for f in b[0]) or infer(d, b))
    rest = list(work(detector, unit, Settings(0.3, batch), have=2))
    assert inferred == [8, 9]
    assert [(part.name, part.known, part.data) for part in rest] == [
        (whole[0].name, True, b""),
        (whole[1].name, True, b""),
        (whole[2].name, False, whole[2].data),
    ]


def test_a_bad_video_and_one_whose_frames_the_bundle_refuses(tmp_path, detector, monkeypatch):
    (tmp_path / "bad.mp4").write_bytes(b"none")
    (part,) = work(detector, one_unit(tmp_path / "bad.mp4"), ALL)
    assert (part.last, part.frames, part.errors) == (True, 0, 1)
    path = video(tmp_path / "v.avi", 6)

    def fails_at_3(_, batches):
        if batches[0][0].index == 3:
            raise MemoryError("no more")
        return [(frame, detector(frame.image), 0.0) for frame in batches[0]]

    monkeypatch.setattr(worker, "infer_batches", fails_at_3)
    (part,) = work(detector, one_unit(path), ALL)
    rows, failed = rows_of([part], tmp_path)
    assert ([row["frame_index"] for row in rows], failed) == ([0, 1, 2], [(str(path), 3, "MemoryError")])


def test_one_picture_that_fails_in_a_run_of_several_fails_alone(tmp_path, detector, monkeypatch):
    paths = [picture(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    infer = worker.infer_batches

    def refuses_many(d, batches):
        if len(batches[0]) > 1 or batches[0][0].image.sum() == cv2.imread(str(paths[1])).sum():
            raise RuntimeError("too much")
        return infer(d, batches)

    monkeypatch.setattr(worker, "infer_batches", refuses_many)
    (part,) = work(detector, one_unit(*paths), Settings(0.3, 3))
    rows, failed = rows_of([part], tmp_path)
    assert [row["source"] for row in rows] == [str(paths[0]), str(paths[2])]
    assert failed == [(str(paths[1]), 0, "RuntimeError")]


def test_files_of_a_store(tmp_path, detector):
    store = fsspec.filesystem("memory")
    store.pipe("/batch-worker/a.png", picture(tmp_path / "a.png").read_bytes())
    store.pipe("/batch-worker/b.png", b"none")
    store.pipe("/batch-worker/v.avi", video(tmp_path / "v.avi", 3).read_bytes())
    try:
        units = make_units(list_sources(["memory://batch-worker"]), "x")
        pictures, film = (list(work(detector, unit, ALL)) for unit in units)
    finally:
        store.rm("/batch-worker", recursive=True)
    rows, failed = rows_of(pictures, tmp_path)
    assert [row["source"] for row in rows] == ["memory://batch-worker/a.png"]
    assert same(rows[0], detector(cv2.imread(str(tmp_path / "a.png"))).mask(min_score=0.3))
    assert failed == [("memory://batch-worker/b.png", 0, "InputError")]
    assert [part.frames for part in film] == [3]


def test_a_file_that_workers_die_of_is_left_out(tmp_path, detector):
    paths = [picture(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    asked = []

    def watch(name: str) -> str | None:
        asked.append(name)
        return "it kills" if name.endswith("1.png") else None

    (part,) = work(detector, one_unit(*paths), ALL, watch=watch)
    rows, failed = rows_of([part], tmp_path)
    assert asked == [str(path) for path in paths]
    assert [row["source"] for row in rows] == [str(paths[0]), str(paths[2])]
    assert failed == [(str(paths[1]), 0, "InputError")]
    (part,) = work(detector, one_unit(video(tmp_path / "1.png.avi", 2)), ALL, watch=lambda _: "it kills")
    assert (part.frames, part.errors) == (0, 1)


def test_rows_hold_no_pictures(tmp_path, detector):
    (part,) = work(detector, one_unit(video(tmp_path / "v.avi", 20)), ALL)
    assert len(part.data) < 64 * 48 * 3 * 20
    assert pq.read_table(pa.BufferReader(part.data)).num_rows == 20
