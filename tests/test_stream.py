"""The stream: nothing lost from a file, nothing old from a camera, everything given back in the end."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from faults import MjpegCamera
from models import tiny_model

from edge_retina import Detector, build
from edge_retina.errors import InputError, OutputError, UsageError
from edge_retina.events import Event
from edge_retina.runtime import cores
from edge_retina.sinks import Sink, open_sink
from edge_retina.stream import Named, Summary, frames_at_once, infer, read_ahead, run
from edge_retina.types import Detections, Frame


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    tiny_model(folder / "m.onnx")
    return build(folder / "m.onnx").path


@pytest.fixture(params=[1, 3], ids=["one at a time", "three at once"])
def detector(bundle: Path, request: pytest.FixtureRequest) -> Iterator[Detector]:
    with Detector.load(bundle, parallel=request.param, threads=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("edge-retina")]
    assert left == []


def write_video(path: Path, frames: int) -> None:
    """Frame i is grey level 8 * i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    writer.release()


def test_nothing_to_read_is_an_error_and_leaves_no_file(detector, tmp_path):
    (tmp_path / "empty.avi").write_bytes(b"")
    with pytest.raises(InputError):
        run(detector, tmp_path / "empty.avi", [tmp_path / "out.jsonl"])
    assert not (tmp_path / "out.jsonl").exists()


def test_every_frame_of_a_file_arrives_once_and_in_order(detector, tmp_path):
    write_video(tmp_path / "v.avi", 30)
    summary = run(detector, tmp_path / "v.avi", [tmp_path / "out.jsonl", tmp_path / "out.avi"])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(30))
    assert summary.frames == 30
    assert summary.detections == sum(len(row["detections"]) for row in rows)
    assert sum(summary.per_name.values()) == summary.detections
    video = cv2.VideoCapture(str(tmp_path / "out.avi"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    assert video.get(cv2.CAP_PROP_FPS) == 25
    video.release()


def test_at_once_or_one_by_one_the_results_are_the_same(bundle, tmp_path):
    for parallel in (1, 3):
        with Detector.load(bundle, parallel=parallel, threads=1) as detector:
            run(detector, "test://?size=96x64&frames=12", [tmp_path / f"{parallel}.jsonl"])
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "3.jsonl").read_bytes()


def test_max_frames_and_min_score(detector, tmp_path):
    everything = run(detector, "test://?size=96x64&frames=50", [], max_frames=5)
    some = run(detector, "test://?size=96x64&frames=50", [tmp_path / "o.jsonl"], max_frames=5, min_score=0.5)
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    scores = [d["score"] for row in rows for d in row["detections"]]
    assert everything.frames == some.frames == 5
    assert some.detections == len(scores) < everything.detections
    assert all(score >= 0.5 for score in scores)


def test_an_error_of_the_source_reaches_the_caller_after_the_frames_before_it(tmp_path):
    good = np.zeros((8, 8, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), good)
    (tmp_path / "b.png").write_bytes(b"not a picture")
    seen = []
    with pytest.raises(InputError, match=r"b\.png"):  # noqa: PT012 - what came before the error counts
        for frame in read_ahead(tmp_path):
            seen.append(frame.name)
    assert seen == ["a.png"]
    stream = read_ahead(tmp_path)
    assert next(stream).name == "a.png"
    with pytest.raises(InputError, match=r"b\.png"):
        next(stream)


def test_an_unknown_source_is_a_usage_error_at_once():
    with pytest.raises(UsageError):
        next(read_ahead("gopher://hole"))


def test_closing_early_ends_the_reader_though_the_source_has_no_end():
    frames = read_ahead("test://?size=32x32&frames=0")
    assert next(frames).index == 0
    frames.close()  # no_thread_stays looks


class FailsAtTheSecond(Sink):
    """Takes one frame; then the disk is full."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def write(self, frame: Frame, detections: Detections) -> None:
        self.events.append(f"write {frame.index}")
        if frame.index == 1:
            raise OutputError("the disk is full")

    def close(self) -> None:
        self.events.append("close")

    def abort(self) -> None:
        self.events.append("abort")


def test_a_failing_sink_ends_the_run_and_the_reader(detector, tmp_path, monkeypatch):
    failing = FailsAtTheSecond()
    monkeypatch.setattr(
        "edge_retina.stream.open_sink", lambda uri, **options: failing if uri == "x" else open_sink(uri, **options)
    )
    with pytest.raises(OutputError, match="the disk is full"):
        run(detector, "test://?size=32x32&frames=0", [tmp_path / "out.jsonl", "x"])
    assert failing.events == ["write 0", "write 1", "close"]
    rows = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    written = [row["frame"] for row in rows if "frame" in row]
    # What was found before the failure was noticed is written.
    assert written == list(range(len(written)))
    assert 2 <= len(written) < 20


def test_two_outs_in_one_place(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.jsonl").symlink_to("o.jsonl")
    same = (("-", "-"), ("o.jsonl", tmp_path / "o.jsonl"), ("link.jsonl", "o.jsonl"), ("a/", "file://a"))
    for first, second in (*same, ("o.jsonl", "o.jsonl?rotate=1MB")):
        with pytest.raises(UsageError, match=f"{re.escape(str(second))}: two outs would write to the same place"):
            run(detector, "test://?size=32x32&frames=1", [first, second])
    assert [path.name for path in tmp_path.iterdir()] == ["link.jsonl"]


@pytest.mark.parametrize("out", ["b/", "b", "a/", "b/p.png", "link"])
def test_pictures_yet_to_be_read_are_never_replaced(detector, tmp_path, monkeypatch, out):
    # The first frame, a/p.png, goes to b/p.png, which is the second.
    monkeypatch.chdir(tmp_path)
    before = {}
    (tmp_path / "link").symlink_to("b")
    for i, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(f"{folder}/p.png", np.full((32, 32, 3), i, np.uint8))
        before[folder] = (tmp_path / folder / "p.png").read_bytes()
    with pytest.raises(OutputError, match=r"source.* would be lost"):
        run(detector, "?/*.png", [out])
    assert {folder: (tmp_path / folder / "p.png").read_bytes() for folder in "ab"} == before


def test_a_live_source_gives_the_newest_frame():
    """A slow consumer of 100 frames a second must skip, and must not fall behind."""
    frames = read_ahead("test://?size=16x16&fps=100&frames=60&live=1")
    indices = []
    for frame in frames:
        indices.append(frame.index)
        time.sleep(0.05)
    assert indices == sorted(indices)
    assert len(indices) < 40
    assert max(np.diff(indices)) > 1


def test_a_slow_consumer_of_a_file_loses_nothing(tmp_path):
    write_video(tmp_path / "v.avi", 12)
    levels = []
    for frame in read_ahead(tmp_path / "v.avi"):
        levels.append(int(frame.image.mean()))
        time.sleep(0.01)
    np.testing.assert_allclose(levels, [8 * i for i in range(12)], atol=2)


def test_infer_raises_what_the_detector_raises(bundle, tmp_path):
    model = tmp_path / "m.onnx"
    tiny_model(model)
    with Detector.load(build(model, frame_size=(64, 64)).path, parallel=2) as fixed, pytest.raises(UsageError):
        list(infer(fixed, read_ahead("test://?size=32x32&frames=3")))


def test_live_sources_get_all_cores_for_one_frame():
    assert frames_at_once(0) == frames_at_once("rtsp://camera/1") == 1
    assert frames_at_once("video.mp4") == min(4, cores())


def test_summary_of_nothing():
    assert Summary().fps == 0.0
    assert Summary().to_json()["latency_ms_p50"] is None


def test_frames_before_a_fault_are_written(detector, tmp_path):
    """Whatever is worked on at once: eight good pictures and then a broken one give eight lines."""
    for i in range(8):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((48, 64, 3), 9 * i, np.uint8))
    (tmp_path / "9.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"9\.png"):
        run(detector, tmp_path, [tmp_path / "out.jsonl"])
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 8


# ---- live, and several at once


LIVE = "test://?size=96x64&fps=50&frames={}&live=1&seed={}"


def test_no_source_at_all(detector):
    with pytest.raises(UsageError, match="wanted a source"):
        run(detector, [], [])


@pytest.mark.parametrize("batch", [None, 4])
def test_several_sources_one_detector(detector, tmp_path, batch):
    sources = [Named(LIVE.format(20, 1), "left"), Named(LIVE.format(20, 2), "right"), Named(LIVE.format(20, 3), "back")]
    events = []
    summary = run(detector, sources, [tmp_path / "o.jsonl"], batch=batch, on_event=events.append)
    assert set(summary.cameras) == {"left", "right", "back"}
    for counts in summary.cameras.values():
        assert counts.captured == 20 == counts.processed + counts.dropped
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    frames = [row for row in rows if "frame" in row]
    assert len(frames) + summary.lost.get(str(tmp_path / "o.jsonl"), 0) == summary.frames
    assert summary.frames == sum(c.processed for c in summary.cameras.values())
    assert {row["camera"] for row in frames} == {"left", "right", "back"}
    assert len(summary.age_ms) == summary.frames
    assert {event.kind for event in events} == {"connecting", "live", "down"}
    assert json.dumps(summary.to_json())


def test_results_in_a_batch_are_those_alone(detector):
    found = {}
    for batch in (1, 3):
        sources = [Named(f"test://?size=96x64&frames=5&seed={seed}", str(seed)) for seed in range(3)]
        rows = found.setdefault(batch, {})
        run(
            detector,
            sources,
            [],
            batch=batch,
            on_frame=lambda f, d, rows=rows: rows.update({(f.camera, f.index): d.to_json()}),
        )
    assert len(found[1]) == 15
    assert found[1] == found[3]


def test_steps_change_detections_and_hear_of_the_end(detector):
    class Step:
        finished = 0

        def __call__(self, frame, detections, tell):
            tell(Event("track", frame.camera))
            return detections[:1]

        def finish(self, tell):
            self.finished += 1
            tell(Event("zone"))

    step, events = Step(), []
    summary = run(detector, "test://?size=96x64&frames=3", [], steps=[step], on_event=events.append)
    assert summary.detections == 3
    assert [event.kind for event in events] == ["track"] * 3 + ["zone"]
    assert step.finished == 1


def test_stop_ends_a_live_run_at_once_though_one_camera_is_frozen(detector, tmp_path):
    frozen = MjpegCamera()
    frozen.frozen = True
    stop = threading.Event()
    threading.Timer(0.4, stop.set).start()
    outs = [tmp_path / "o.jsonl", tmp_path / "o.avi"]
    start = time.monotonic()
    summary = run(detector, [LIVE.format(0, 1), frozen.url], outs, stop=stop)
    assert time.monotonic() - start < 2.4
    assert summary.frames > 5
    assert (tmp_path / "o.jsonl").read_text().endswith("\n")
    video = cv2.VideoCapture(str(tmp_path / "o.avi"))
    assert video.isOpened()
    video.release()
    frozen.close()
    time.sleep(0.1)


def test_a_sink_that_crashes_leaves_a_live_run_to_the_others(detector, tmp_path, monkeypatch):
    failing = FailsAtTheSecond()
    monkeypatch.setattr(
        "edge_retina.stream.open_sink", lambda uri, **options: failing if uri == "x" else open_sink(uri, **options)
    )
    events = []
    summary = run(detector, LIVE.format(15, 1), [tmp_path / "out.jsonl", "x"], on_event=events.append)
    assert summary.frames > 2
    assert [str(error) for error in summary.failures] == ["the disk is full"]
    assert [(event.reason, event.data["sink"]) for event in events if event.kind == "sink"] == [
        ("the disk is full", "x")
    ]
    assert failing.events[-1] == "close"
