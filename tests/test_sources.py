from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina import sources
from edge_retina.errors import InputError, UsageError
from edge_retina.sources import SourceInfo, is_live, open_source, probe, redact
from edge_retina.types import U8

SIZE = (64, 48)  # W, H


def shade(index: int) -> U8:
    return np.full((SIZE[1], SIZE[0], 3), 20 + 12 * (index % 19), np.uint8)


def make_video(path: Path, frames: int, fps: float = 25.0, fourcc: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), fps, SIZE)
    for index in range(frames):
        writer.write(shade(index))
    writer.release()
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, value in (("b.png", 2), ("a.png", 1), ("c.bmp", 3)):
        cv2.imwrite(str(folder / name), np.full((3, 4, 3), value, np.uint8))
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Real captures, noting each open and release."""
    events: list[str] = []

    class Noting:
        def __init__(self, *args: object) -> None:
            events.append("open")
            self._capture = real(*args)  # type: ignore[arg-type]

        def release(self) -> None:
            events.append("release")
            self._capture.release()

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

    real: Callable[..., cv2.VideoCapture] = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Noting)
    return events


# ---- nothing to read


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wanted images .*found 0"):
        list(open_source(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="found 1 other"):
        list(open_source(tmp_path))


def test_pattern_without_match(photos: Path) -> None:
    with pytest.raises(InputError, match="found 0 other"):
        list(open_source(f"{photos}/*.jpg"))


@pytest.mark.parametrize("name", ["empty.jpg", "empty.png", "empty.mp4"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"empty file|found 0 bytes"):
        list(open_source(tmp_path / name))


@pytest.mark.parametrize("name", ["gone.jpg", "gone.mp4", "gone/", "gone"])
def test_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(str(tmp_path / name))


def test_no_frames_wanted(captures: list[str], tmp_path: Path) -> None:
    assert list(open_source(make_video(tmp_path / "v.avi", 2), max_frames=0)) == []
    assert captures == []


# ---- URIs


@pytest.mark.parametrize("uri", ["ftp://host/x.mp4", "", "://", -1])
def test_uri_nobody_understands(uri: str | int) -> None:
    with pytest.raises(UsageError, match=r"rtsp://.*v4l2://"):
        open_source(uri)
    with pytest.raises(UsageError):
        is_live(uri)


def test_negative_max_frames() -> None:
    with pytest.raises(UsageError, match="-1"):
        open_source("test://", max_frames=-1)


@pytest.mark.parametrize(
    ("uri", "live"),
    [
        (0, True),
        ("0", True),
        ("/dev/video7", True),
        ("v4l2:///dev/video7", True),
        ("rtsp://host/x", True),
        ("rtmp://host/x", True),
        ("csi://0", True),
        ("stdin://?size=2x2", True),
        ("stdin://?size=2x2&live=0", False),
        ("HTTP://host/x.mp4", True),
        ("test://", False),
        ("test://?live=1", True),
        ("ride.mp4", False),
        ("file:///ride.mp4", False),
        (Path("0"), False),
        (Path("/dev/video0"), True),
    ],
)
def test_is_live(uri: str | int | Path, live: bool) -> None:
    assert is_live(uri) is live


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://host/x", "rtsp://host/x"),
        ("rtsp://user@host/x", "rtsp://user@host/x"),
        ("rtsp://user:pw@host:554/x", "rtsp://user:***@host:554/x"),
        ("rtsp://:pw@host/x", "rtsp://:***@host/x"),
        ("rtsp://user:p@ss/w@rd@host/x", "rtsp://user:***@host/x"),
        ("http://host:80/x", "http://host:80/x"),
        ("http://host/x?user=a&pwd=b&Token=c#d", "http://host/x?user=a&pwd=***&Token=***#d"),
        ("a:b@c.mp4", "a:b@c.mp4"),
        (
            "rtsp://host/user=a_password=b_c_channel=1_stream=0.sdp",
            "rtsp://host/user=a_password=***_channel=1_stream=0.sdp",
        ),
        ("rtmp://host/live;token=a b", "rtmp://host/live;token=*** b"),
        ("front=rtsp://user:pw@host/x", "front=rtsp://user:***@host/x"),
        ("rtsp://me@mail.com:pw@host/x", "rtsp://me@mail.com:***@host/x"),
        ("rtsp://do/main:pw@host/x", "rtsp://do/main:***@host/x"),
        ("rtsp://user:p\nw@host/x", "rtsp://user:***@host/x"),
        ("http://host/?pass=p\nw&a=b", "http://host/?pass=***\nw&a=b"),
        ("rtsp:/user:pw@host/x", "rtsp:/user:***@host/x"),
        ("file:///a:b@c.mp4", "file:///a:b@c.mp4"),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown


def test_no_password_in_messages() -> None:
    with pytest.raises(UsageError) as unknown:
        open_source("rtps://user:hunter2@host/x")
    # Nothing listens on port 9 of this machine: refused at once.
    with pytest.raises(InputError) as refused:
        next(open_source("rtsp://user:hunter2@127.0.0.1:9/x"))
    assert "hunter2" not in f"{unknown.value} {refused.value}"
    assert "user:***@127.0.0.1:9" in str(refused.value)


@pytest.mark.skipif(sys.platform != "linux", reason="device names of Linux")
def test_missing_camera() -> None:
    for uri in (991, "991", "/dev/video991", "v4l2:///dev/video991", "v4l2://991"):
        with pytest.raises(InputError, match="no camera at /dev/video991"):
            next(open_source(uri))


# ---- images


def test_folder_is_sorted(photos: Path) -> None:
    frames = list(open_source(f"{photos}/"))
    assert [(f.index, f.name, int(f.image[0, 0, 0])) for f in frames] == [
        (0, "a.png", 1),
        (1, "b.png", 2),
        (2, "c.bmp", 3),
    ]
    assert {(f.source, f.live, f.timestamp_ns, f.image.shape) for f in frames} == {(f"{photos}/", False, 0, (3, 4, 3))}


def test_glob_single_and_file_uri(photos: Path) -> None:
    assert [f.name for f in open_source(f"{photos}/*.png")] == ["a.png", "b.png"]
    assert [f.name for f in open_source(photos / "b.png")] == ["b.png"]
    spaced = photos / "d e.png"
    spaced.write_bytes((photos / "a.png").read_bytes())
    assert [f.name for f in open_source(f"file://{photos}/d%20e.png")] == ["d e.png"]
    assert [f.name for f in open_source(f"file://localhost{photos}/a.png")] == ["a.png"]
    assert [f.name for f in open_source(photos, max_frames=1)] == ["a.png"]


def test_names_that_look_like_patterns_or_lack_a_suffix(photos: Path) -> None:
    data = (photos / "a.png").read_bytes()
    for name in ("x[1].png", "ünïcode.png", "snapshot"):
        (photos / name).write_bytes(data)
        assert [f.name for f in open_source(photos / name)] == [name]


def test_neither_image_nor_video(photos: Path) -> None:
    with pytest.raises(InputError, match=r"wanted an image .*found \.txt"):
        open_source(photos / "notes.txt")


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_broken_image_in_a_folder_is_named(photos: Path, keep: float) -> None:
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))[1].tobytes()
    (photos / "b.png").write_bytes(data[: int(len(data) * keep)])
    frames = open_source(photos)
    assert next(frames).name == "a.png"
    with pytest.raises(InputError, match=r"b\.png"):
        next(frames)


@pytest.mark.parametrize("shape", [(1, 1), (6000, 8000)])
def test_smallest_and_large(tmp_path: Path, shape: tuple[int, int]) -> None:
    cv2.imwrite(str(tmp_path / "x.jpg"), np.zeros((*shape, 3), np.uint8))
    (frame,) = open_source(tmp_path / "x.jpg")
    assert frame.image.shape == (*shape, 3)


# ---- video


@pytest.mark.parametrize(("name", "fourcc"), [("v.avi", "MJPG"), ("v.mp4", "mp4v"), ("v.mkv", "mp4v")])
def test_every_frame_of_a_video(tmp_path: Path, name: str, fourcc: str, captures: list[str]) -> None:
    path = make_video(tmp_path / name, 6, fps=12.5, fourcc=fourcc)
    frames = list(open_source(str(path)))
    assert [f.index for f in frames] == [0, 1, 2, 3, 4, 5]
    assert [f.timestamp_ns for f in frames] == [0, 80_000_000, 160_000_000, 240_000_000, 320_000_000, 400_000_000]
    for frame in frames:
        assert abs(int(frame.image[20, 30, 0]) - (20 + 12 * frame.index)) < 6  # half a step of shade()
        assert (frame.image.shape, frame.name, frame.live, frame.source) == ((48, 64, 3), "", False, str(path))
        assert frame.path == str(path)
    assert captures == ["open", "release"]
    assert probe(path) == SourceInfo(live=False, fps=12.5, shape=(48, 64), frames=6, paths=(str(path),))


def test_early_close_releases(tmp_path: Path, captures: list[str]) -> None:
    frames = open_source(make_video(tmp_path / "v.avi", 5))
    assert captures == []  # nothing is opened before the first frame is asked for
    next(frames)
    frames.close()
    assert captures == ["open", "release"]


def test_max_frames_releases(tmp_path: Path, captures: list[str]) -> None:
    frames = open_source(make_video(tmp_path / "v.avi", 5), max_frames=2)
    assert [f.index for f in frames] == [0, 1]
    assert captures == ["open", "release"]
    frames = open_source(tmp_path / "v.avi", max_frames=4)
    next(frames)
    frames.close()
    assert captures == ["open", "release"] * 2


def test_error_releases(tmp_path: Path, captures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> U8:
        raise InputError("bad frame")

    monkeypatch.setattr(sources, "to_bgr8", fail)
    with pytest.raises(InputError, match="bad frame"):
        next(open_source(make_video(tmp_path / "v.avi", 5)))
    assert captures == ["open", "release"]


def test_error_thrown_in_by_the_caller_releases(tmp_path: Path, captures: list[str]) -> None:
    frames = open_source(make_video(tmp_path / "v.avi", 5))
    next(frames)
    with pytest.raises(KeyboardInterrupt):
        frames.throw(KeyboardInterrupt)
    assert captures == ["open", "release"]


def test_video_that_does_not_open_releases(tmp_path: Path, captures: list[str]) -> None:
    path = make_video(tmp_path / "v.mp4", 5, fourcc="mp4v")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # the index of an MP4 is at its end
    with pytest.raises(InputError, match="cannot open"):
        next(open_source(path))
    with pytest.raises(InputError, match="cannot open"):
        probe(path)
    assert captures == ["open", "release"] * 2


def test_truncated_video_yields_what_decodes(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.avi", 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    count = len(list(open_source(path)))
    assert 1 <= count < 10


def test_damage_in_the_middle_does_not_cost_the_rest(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", 40, fourcc="mp4v")
    data = bytearray(path.read_bytes())
    start, end = len(data) // 4, len(data) // 3
    data[start:end] = bytes(31 * i & 255 for i in range(end - start))
    path.write_bytes(data)
    frames = list(open_source(path))
    assert 10 < len(frames) <= 40
    assert frames[-1].timestamp_ns == 39 * 40_000_000
    assert [f.index for f in frames] == list(range(len(frames)))


def test_video_without_a_frame(tmp_path: Path, captures: list[str]) -> None:
    path = make_video(tmp_path / "v.mkv", 20, fourcc="mp4v")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # header only: up to the first Matroska cluster
    with pytest.raises(InputError, match=r"no frame that decodes|cannot open"):
        list(open_source(path))
    assert captures == ["open", "release"]


def test_colon_and_percent_in_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "v.avi", 2).rename(tmp_path / "concat:100%d.avi")
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source("concat:100%d.avi"))) == 2


def test_reading_prints_nothing_and_keeps_the_environment(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.avi", 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    (tmp_path / "bad.mp4").write_bytes(b"\x00" * 500)
    program = """
import contextlib, os, sys
from edge_retina.errors import InputError
from edge_retina.images import _cv_log
from edge_retina.sources import open_source
level = _cv_log.getLogLevel()
list(open_source(sys.argv[1]))
for uri in (sys.argv[2], "rtsp://127.0.0.1:9/x"):
    with contextlib.suppress(InputError):
        list(open_source(uri))
assert _cv_log.getLogLevel() == level
print(os.environ.get("OPENCV_FFMPEG_LOGLEVEL"))
"""
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "bad.mp4")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENCV_")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (result.stdout, result.stderr) == ("None\n", "")
    loud = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"OPENCV_FFMPEG_LOGLEVEL": "32"}, check=True
    )
    assert "32\n" in loud.stdout  # before or after FFmpeg's own, which is buffered apart
    assert "moov atom not found" in loud.stdout + loud.stderr


# ---- live sources, on a stand-in for the driver


class FakeCamera:
    def __init__(self, frames: int, total: float = -1.0) -> None:
        self.left, self.total, self.released = frames, total, 0

    def __call__(self, *_: object) -> FakeCamera:
        return self

    def isOpened(self) -> bool:  # OpenCV's name
        return True

    def grab(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, U8]:
        return True, np.zeros((2, 2), np.uint8)

    def get(self, _: int) -> float:
        return self.total

    def getBackendName(self) -> str:
        return "FAKE"

    def release(self) -> None:
        self.released += 1


def test_stream_that_stops_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(2)
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    frames = open_source("rtsp://user:pw@host/x#decoder=opencv")
    before = time.monotonic_ns()
    first, second = next(frames), next(frames)
    assert before <= first.timestamp_ns <= second.timestamp_ns <= time.monotonic_ns()
    assert (first.live, first.source, first.image.shape) == (True, "rtsp://user:***@host/x#decoder=opencv", (2, 2, 3))
    with pytest.raises(InputError, match="stopped after 2 frames"):
        next(frames)
    assert camera.released == 1


def test_file_behind_http_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", camera := FakeCamera(2, total=2.0))
    assert len(list(open_source("https://host/x.mp4#decoder=opencv"))) == 2
    assert camera.released == 1
    monkeypatch.setattr(cv2, "VideoCapture", camera := FakeCamera(2, total=9.0))
    with pytest.raises(InputError):
        list(open_source("https://host/x.mp4#decoder=opencv"))
    assert camera.released == 1


def test_probe_of_images_and_live_sources(photos: Path) -> None:
    paths = tuple(frame.path for frame in open_source(photos))
    assert [os.path.dirname(path) for path in paths] == [str(photos)] * 3
    assert probe(photos) == SourceInfo(live=False, frames=3, paths=paths)
    assert probe(0) == probe("rtsp://host/x") == probe("csi://0") == SourceInfo(live=True)
    assert probe("stdin://?size=4x2&live=0") == SourceInfo(live=False, shape=(2, 4))
