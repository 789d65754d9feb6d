"""Video that keeps time: the times of its frames, read back by FFmpeg, against those they were captured at."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from models import tiny_model
from test_sinks import file_size_limit

from edge_retina import Detector, build
from edge_retina.errors import OutputError
from edge_retina.recorder import Recorder, timed
from edge_retina.recorder.steady import jetson_pipeline
from edge_retina.sources import open_source, probe
from edge_retina.stream import run
from edge_retina.types import Detections, Frame

S = 10**9
SHAPE = (48, 64)
NONE = Detections.empty(SHAPE)


def grey(
    at_s: float, level: int = 100, *, live: bool = True, camera: str = "", shape: tuple[int, int] = SHAPE
) -> Frame:
    # A clock that has run for weeks, as the monotonic one of a robot has.
    return Frame(np.full((*shape, 3), level, np.uint8), 0, round((2e6 + at_s) * S), live=live, camera=camera)


def record(path: Path, frames: list[Frame], fps: float = 30.0) -> Recorder:
    with Recorder(path, fps) as recorder:
        for frame in frames:
            recorder.write(frame, Detections.empty((frame.image.shape[0], frame.image.shape[1])))
    return recorder


def shown(path: Path) -> list[tuple[float, int]]:
    """When each frame is shown, seconds, and its level of grey to the next ten."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [
            (float(f.pts * f.time_base), round(float(f.to_ndarray(format="gray").mean()) / 10) * 10) for f in frames
        ]


def seconds(path: Path) -> float:
    """How long a video lasts."""
    with av.open(str(path)) as container:
        assert container.duration is not None
        return container.duration / av.time_base


@pytest.fixture
def without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edge_retina.recorder.timed", None)


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.avi"])
def test_no_frame_is_no_file(tmp_path: Path, name: str) -> None:
    record(tmp_path / name, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.avi"])
def test_one_frame_of_a_camera(tmp_path: Path, name: str) -> None:
    record(tmp_path / name, [grey(0)])
    assert shown(tmp_path / name) == [(0.0, 90)] or shown(tmp_path / name) == [(0.0, 100)]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_each_frame_is_shown_when_it_was_captured(tmp_path: Path, name: str) -> None:
    """Irregular, with a pause in which the camera was away."""
    times = [0, 0.08, 0.19, 0.21, 0.4, 5.0, 5.1, 5.15, 5.3, 5.35, 5.5, 5.6, 5.7, 5.9]
    record(tmp_path / name, [grey(at) for at in times])
    assert [at for at, _ in shown(tmp_path / name)] == pytest.approx(times, abs=0.001)


def test_a_long_pause_lasts_a_minute(tmp_path: Path) -> None:
    record(tmp_path / "out.mp4", [grey(0), grey(0.1), grey(7200.1), grey(7200.2)])
    assert [at for at, _ in shown(tmp_path / "out.mp4")] == pytest.approx([0, 0.1, 60.1, 60.2], abs=0.001)


def test_several_cameras_whose_frames_come_out_of_order(tmp_path: Path) -> None:
    frames = [grey(0, camera="a"), grey(0.1, camera="b"), grey(0.05, camera="a"), grey(0.2, camera="b")]
    record(tmp_path / "out.mp4", frames)
    times = [at for at, _ in shown(tmp_path / "out.mp4")]
    assert times == sorted(set(times))
    assert times[::3] == pytest.approx([0, 0.2], abs=0.001)


def test_a_file_beside_a_camera(tmp_path: Path) -> None:
    """The time of a file's frame is a position, so it is shown when it came."""
    now_s = time.monotonic()
    camera = Frame(np.zeros((*SHAPE, 3), np.uint8), 0, round((now_s - 0.5) * S), live=True)
    record(tmp_path / "out.mp4", [camera, grey(-2e6, live=False)])
    assert 0.5 <= shown(tmp_path / "out.mp4")[1][0] < 30


def test_frames_of_a_file_last_as_long_as_each_other(tmp_path: Path) -> None:
    record(tmp_path / "out.mp4", [grey(at, live=False) for at in (0, 0, 3, 1)], fps=10)
    assert [at for at, _ in shown(tmp_path / "out.mp4")] == pytest.approx([0, 0.1, 0.2, 0.3], abs=0.001)


@pytest.mark.usefixtures("without_pyav")
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.avi"])
def test_without_pyav_frames_are_repeated_to_keep_time(tmp_path: Path, name: str) -> None:
    """Twelve frames at 10 a second, by which the rate is measured; then nothing for a second, then one more."""
    frames = [grey(i / 10, 50) for i in range(12)] + [grey(2.1, 200)]
    recorder = record(tmp_path / name, frames)
    assert recorder.encoder == ""  # closed
    assert probe(tmp_path / name).fps == pytest.approx(10, abs=0.01)
    assert [level for _, level in shown(tmp_path / name)] == pytest.approx([50] * 21 + [200], abs=10)


@pytest.mark.usefixtures("without_pyav")
def test_without_pyav_frames_that_come_in_a_burst_are_left_out(tmp_path: Path) -> None:
    frames = [grey(i / 10, 50) for i in range(12)] + [grey(1.21 + i / 1000, 200) for i in range(20)]
    record(tmp_path / "out.avi", frames)
    assert len(shown(tmp_path / "out.avi")) == 13


def test_h264_where_pyav_is_there(tmp_path: Path) -> None:
    """What browsers play; OpenCV's wheels write MPEG-4."""
    with Recorder(tmp_path / "out.mp4") as recorder:
        recorder.write(grey(0, live=False), NONE)
        assert recorder.encoder.startswith(("h264", "libx264", "libopenh264"))
    assert len(list(open_source(tmp_path / "out.mp4"))) == 1


def test_an_encoder_that_is_there_by_name_only_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is NVIDIA's where no GPU is; then the first that works, hardware before software."""
    for hardware, taken in ((("h264_nowhere", "rawvideo", "mpeg4"), "mpeg4"), (("h264_nowhere",), "libx264")):
        monkeypatch.setattr(timed, "HARDWARE", hardware)
        with Recorder(tmp_path / "out.mp4") as recorder:
            recorder.write(grey(0, live=False), NONE)
            assert recorder.encoder == taken
        assert len(list(open_source(tmp_path / "out.mp4"))) == 1


def test_what_a_jetson_encodes_by() -> None:
    """Text only: neither its encoder nor an OpenCV with GStreamer is here."""
    text = jetson_pipeline(Path('/data/a "b".mkv'), (720, 1280), 29.97)
    assert text.startswith("appsrc ! video/x-raw,format=BGR,framerate=2997/100 ! ")
    assert "! nvv4l2h264enc bitrate=4147200 ! h264parse ! matroskamux ! " in text
    assert text.endswith('filesink location="/data/a \\"b\\".mkv"')


def test_a_full_disk(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    frames = [Frame(np.roll(noise, 31 * i, 0), i) for i in range(60)]
    with file_size_limit(20_000), pytest.raises(OutputError, match=r"out\.mp4"):
        record(tmp_path / "out.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_a_camera_of_12_fps_gives_a_video_as_long_as_it_was_watched(tmp_path: Path) -> None:
    """In both ways at once: PyAV's times in .mp4, OpenCV's constant rate in .avi; in `run`, which assumes 30."""
    tiny_model(tmp_path / "m.onnx")
    results: list[float] = []
    with Detector.load(build(tmp_path / "m.onnx", tmp_path / "m.edge").path, threads=1) as detector:
        outs = [tmp_path / "out.mp4", tmp_path / "out.avi"]
        source = "test://?size=64x48&fps=12&frames=0&live=1"
        run(detector, source, outs, max_frames=48, on_frame=lambda frame, _: results.append(frame.timestamp_ns / S))
    wall_s = results[-1] - results[0] + (results[-1] - results[0]) / (len(results) - 1)  # the last one lasts too
    assert 3 < wall_s < 60
    for out in outs:
        assert seconds(out) == pytest.approx(wall_s, rel=0.1)
