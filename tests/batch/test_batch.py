"""The whole command: against `run`, on two nodes with a worker killed, interrupted and gone on with, and its errors."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import batch_run
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from batch_files import picture, video
from click.testing import CliRunner

from edge_retina import Detector
from edge_retina.batch import Workers, batch, cluster, session
from edge_retina.batch.worker import Settings, work
from edge_retina.commands.batch import batch_command
from edge_retina.errors import BundleError, InputError, MissingPackage, RuntimeFailure, UsageError

PICTURES, FRAMES = 20, 1100  # three units of pictures; three ranges of each of two videos
FILES = PICTURES + 4


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """20 pictures, two videos and two bad files."""
    folder = tmp_path_factory.mktemp("archive")
    for i in range(PICTURES):
        picture(folder / ("a" if i % 2 else "b") / f"{i:02d}.png", seed=i)
    (folder / "bad.jpg").write_bytes(b"none")
    (folder / "bad.mp4").write_bytes(b"none")
    video(folder / "v.avi", FRAMES)
    video(folder / "w.avi", FRAMES, seed=1)
    return folder


@pytest.fixture(scope="module")
def wanted(archive, bundle):
    """What the stream of `run` finds: (source, frame_index) to timestamp and bytes."""
    found = {}
    with Detector.load(bundle, target="ort", threads=1) as detector:
        for path in archive.rglob("*.png"):
            found[str(path), 0] = (0, detector(cv2.imread(str(path))).mask(min_score=0.3))
        for path in archive.glob("*.avi"):
            for frame, detections in detector.stream(path):
                found[str(path), frame.index] = (frame.timestamp_ns, detections.mask(min_score=0.3))
    assert len(found) == PICTURES + 2 * FRAMES
    return {
        key: (time_ns, d.xyxy.tobytes(), d.scores.tobytes(), d.labels.tobytes()) for key, (time_ns, d) in found.items()
    }


def rows_of(out: Path) -> list[tuple[tuple[str, int], tuple[int, bytes, bytes, bytes]]]:
    rows = []
    for row in pq.read_table(out).to_pylist():
        arrays = (np.float32(row["boxes"]), np.float32(row["scores"]), np.int32(row["labels"]))
        rows.append(
            ((row["source"], row["frame_index"]), (row["timestamp_ns"], *(array.tobytes() for array in arrays)))
        )
    return rows


def check(out: Path, wanted: dict, archive: Path) -> None:
    """Nothing lost, nothing twice, every bit, in the order of the files; the bad ones told; nothing else left."""
    rows = rows_of(out)
    assert len(rows) == len(wanted)
    assert dict(rows) == wanted
    assert [key for key, _ in rows] == sorted(wanted, key=lambda key: (Path(key[0]).parent != archive, key))
    errors = pq.read_table(out.with_name(f"{out.stem}.errors.parquet")).to_pylist()
    assert [(row["source"], row["error"]) for row in errors] == [
        (str(archive / "bad.jpg"), "InputError"),
        (str(archive / "bad.mp4"), "InputError"),
    ]
    assert sorted(path.name for path in out.parent.iterdir()) == [f"{out.stem}.errors.parquet", out.name]


def test_two_nodes_and_a_worker_killed(tmp_path, archive, wanted, bundle):
    out = tmp_path / "o.parquet"
    words = [str(bundle), str(archive), "-o", str(out), "--json"]
    process = subprocess.run(
        [sys.executable, batch_run.__file__, "1", *words],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout.splitlines()[-1])
    assert (said["files"], said["files_failed"], said["units_repeated"]) == (FILES, 2, 1)
    check(out, wanted, archive)


def test_interrupted_and_gone_on_with_on_one_machine(tmp_path, archive, wanted, bundle):
    out = tmp_path / "o.parquet"
    words = [str(bundle), str(archive), "-o", str(out), "--json", "--concurrency", "2"]
    process = batch_run.begin(words)
    batch_run.wait_for_parts(process, out, 2)
    below = batch_run.below(process.pid)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=120)
    assert (process.returncode, said) == (130, "")
    lines = [line for line in told.splitlines() if not re.match(r"\d+ of 24 files", line)]
    assert lines[-1] == "edge-retina: interrupted"
    assert all("Ray" not in line and "ray" not in line for line in lines), told
    assert not out.exists()
    end = time.monotonic() + 60
    while any(batch_run.command(pid) == line for pid, line in below.items()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [line for pid, line in below.items() if line and batch_run.command(pid) == line]

    done = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "o.parquet.parts").glob("*.parquet"))
    assert done > 0
    again = subprocess.run(
        [sys.executable, "-m", "edge_retina", "batch", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["frames"] == len(wanted) - done
    check(out, wanted, archive)

    last = CliRunner().invoke(batch_command, words)
    assert last.exit_code == 0
    facts = json.loads(last.stdout)
    assert (facts["frames"], facts["files_resumed"], facts["files_failed"]) == (0, FILES, 2)
    with pytest.raises(UsageError, match="--min-score"):
        batch(bundle, [str(archive)], out, min_score=0.5)


@pytest.fixture
def in_process(monkeypatch):
    """Units are done here, without Ray; returns a list of what happens to each part before it arrives."""
    happens = []

    def detect(path, units, have, min_score, pool):
        with Detector.load(path, target=pool.target, threads=pool.threads) as detector:
            for unit in units:
                for part in work(detector, unit, Settings(min_score, pool.batch), have=have.get(unit.key, 0)):
                    yield from happens.pop(0)(part) if happens else [part]

    monkeypatch.setattr(cluster, "detect", detect)
    monkeypatch.setattr(cluster, "pool_for", lambda **_: cluster.Pool(1, 1, 0.0, "ort", 1))
    monkeypatch.setattr(session, "connected", lambda *_: contextlib.nullcontext())
    return happens


def test_coco_from_a_list_and_an_archive(tmp_path, bundle, in_process):
    """A picture of a list, and the same inside a zip."""
    one = picture(tmp_path / "in" / "one.png", seed=1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(one, "deep/two.png")
    (tmp_path / "list.txt").write_text(f"{one}\n")
    out = tmp_path / "coco.json"
    inside = f"zip://**/*.png::{tmp_path / 'a.zip'}"
    done = CliRunner().invoke(batch_command, [str(bundle), str(tmp_path / "list.txt"), inside, "-o", str(out)])
    assert done.exit_code == 0, done.exception
    assert (done.stdout, done.stderr.splitlines()[-1][:27]) == ("", f"{out}: 2 frames"[:27])
    coco = json.loads(out.read_text())
    assert [image["file_name"] for image in coco["images"]] == [str(one), inside.replace("**/*.png", "deep/two.png")]
    with Detector.load(bundle, target="ort", threads=1) as detector:
        expected = detector(cv2.imread(str(one))).mask(min_score=0.3)
    for image_id in (1, 2):
        rows = [row for row in coco["annotations"] if row["image_id"] == image_id]
        assert np.float32([row["score"] for row in rows]).tobytes() == expected.scores.tobytes()
        assert [row["category_id"] for row in rows] == expected.labels.tolist()
        assert np.float32([row["bbox"][:2] for row in rows]).tobytes() == expected.xyxy[:, :2].tobytes()


def test_nothing_but_bad_files(tmp_path, bundle, in_process):
    (tmp_path / "bad.jpg").write_bytes(b"none")
    with pytest.raises(InputError, match="none of 1 files could be read"):
        batch(bundle, [str(tmp_path)], tmp_path / "o.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jpg", "o.errors.parquet"]


def test_parts_that_come_twice_and_units_that_do_not_come(tmp_path, bundle, in_process):
    for i in range(17):  # units of 8, 8 and 1
        picture(tmp_path / "in" / f"{i:02d}.png", seed=i)
    in_process += [lambda part: [part, part], lambda part: []]
    steps = []
    done = batch(bundle, [str(tmp_path / "in")], tmp_path / "o.parquet", on_progress=steps.append)
    assert (done.files, done.frames, done.failed) == (17, 17, 0)
    assert [step.files for step in steps] == [0, 8, 9, 17]
    sources = pq.read_table(tmp_path / "o.parquet")["source"].to_pylist()
    assert sources == [str(tmp_path / "in" / f"{i:02d}.png") for i in range(17)]


def test_units_that_never_come(tmp_path, bundle, in_process):
    picture(tmp_path / "p.png")
    in_process += [lambda part: []] * 10
    with pytest.raises(RuntimeFailure, match="1 units did not come back"):
        batch(bundle, [str(tmp_path / "p.png")], tmp_path / "o.parquet")
    in_process.clear()
    assert batch(bundle, [str(tmp_path / "p.png")], tmp_path / "o.parquet").frames == 1


@pytest.mark.parametrize(
    ("out", "sources", "workers", "error", "why"),
    [
        ("o.csv", ["p.png"], Workers(), UsageError, r"\.parquet or \.json"),
        ("s3://bucket/o.parquet", ["p.png"], Workers(), UsageError, "of this machine"),
        ("o.parquet", [], Workers(), UsageError, "wants at least one"),
        ("o.parquet", ["gone"], Workers(), InputError, "gone"),
        ("o.parquet", ["p.png"], Workers(address="127.0.0.1:1"), RuntimeFailure, "no Ray cluster answers"),
        ("o.parquet", ["p.png"], Workers(address="there"), UsageError, "HOST:PORT"),
        ("o.parquet", ["p.png"], Workers(address="ray://a:1"), UsageError, "HOST:PORT"),
    ],
)
def test_what_cannot_work_is_said_first(tmp_path, monkeypatch, bundle, out, sources, workers, error, why):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_short_temp", lambda: str(tmp_path))
    picture(tmp_path / "p.png")
    with pytest.raises(error, match=why):
        batch(bundle, sources, out, workers=workers)
    assert not [*tmp_path.glob("o.*.parquet"), *tmp_path.glob("er-*")]


def test_no_bundle_and_no_ray(tmp_path, monkeypatch, bundle):
    with pytest.raises(BundleError):
        batch(tmp_path / "none.edge", ["x"], tmp_path / "o.parquet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'edge-retina\[ray\]'"):
        batch(bundle, ["x"], tmp_path / "o.parquet")
