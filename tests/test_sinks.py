from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina.errors import OutputError, UsageError
from edge_retina.events import Event
from edge_retina.sinks import Sink, open_sink
from edge_retina.sources import open_source, probe
from edge_retina.types import Detections, Frame

NAMES = ("cat", "dog")
ALL_FILES = ("out.jsonl", "out.mp4", "out.avi", "out.mkv", "out.jpg", "out.png")


def frame(index: int = 0, shape: tuple[int, int] = (48, 64), name: str = "", source: str = "test://") -> Frame:
    return Frame(np.full((*shape, 3), 100, np.uint8), index, index * 1000, source, name)


def none(shape: tuple[int, int] = (48, 64)) -> Detections:
    return Detections.empty(shape, NAMES)


def dog(shape: tuple[int, int] = (48, 64)) -> Detections:
    box = np.array([[1.234, 2, 30, 40]], np.float32)
    return Detections(box, np.array([0.5], np.float32), np.array([1], np.int32), NAMES, shape)


def run(uri: str | Path, frames: list[Frame], error: BaseException | None = None) -> None:
    with open_sink(uri) as sink:
        for one in frames:
            sink.write(one, none((one.image.shape[0], one.image.shape[1])))
        if error is not None:
            raise error


def noise(count: int) -> list[Frame]:
    """Frames that compress badly."""
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    return [Frame(image, index) for index in range(count)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As a full disk: writing behind `size` bytes of any file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- for every file


@pytest.mark.parametrize("name", ALL_FILES)
def test_no_frame_no_file(tmp_path: Path, name: str) -> None:
    with open_sink(tmp_path / name):
        pass
    assert files(tmp_path) == []
    (tmp_path / name).write_text("old")
    with open_sink(tmp_path / name):
        pass
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize("name", ALL_FILES)
def test_one_frame_in_a_folder_that_is_made(tmp_path: Path, name: str) -> None:
    with open_sink(str(tmp_path / "a" / "b" / name)) as sink:
        sink.write(frame(), dog())
    assert files(tmp_path / "a" / "b") == [name]
    sink.close()
    sink.abort()
    assert (tmp_path / "a" / "b" / name).stat().st_size > 0


@pytest.mark.parametrize("name", ALL_FILES)
def test_interrupted_run_keeps_what_is_valid(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / name, [frame()], KeyboardInterrupt())
    assert files(tmp_path) == [name]


@pytest.mark.parametrize("name", ALL_FILES)
def test_interrupted_before_the_first_frame(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt), open_sink(tmp_path / name):
        raise KeyboardInterrupt
    assert files(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize("name", [name for name in ALL_FILES if name != "out.jsonl"])
def test_abort_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    sink = open_sink(tmp_path / name)
    sink.write(frame(), dog())
    sink.abort()
    sink.close()
    assert files(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize("name", [*ALL_FILES, "out/"])
def test_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (f"{tmp_path}/file", "/proc/nowhere"):
        with pytest.raises(OutputError, match=f"cannot write {folder}"):
            open_sink(f"{folder}/{name}")


@pytest.mark.parametrize("name", ["out.jsonl", "out.avi", "out.mp4", "out.mkv", "out.png"])
def test_disk_full_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    frames = noise(1 if name == "out.png" else 12)
    if name == "out.jsonl":
        frames = [frame(name="n" * 3000)]  # one line that does not fit
    with file_size_limit(3000), pytest.raises(OutputError):
        run(tmp_path / name, frames)
    assert files(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize("name", ["clip.avi", "still.png"])
def test_source_is_never_replaced(tmp_path: Path, name: str) -> None:
    with open_sink(tmp_path / name) as sink:
        sink.write(frame(), none())
    before = (tmp_path / name).read_bytes()
    for source in (str(tmp_path / name), f"file://{tmp_path / name}"):
        read = next(open_source(source))
        with pytest.raises(OutputError, match="is the source itself"), open_sink(tmp_path / name) as sink:
            sink.write(read, none())
    assert (tmp_path / name).read_bytes() == before


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.png").symlink_to(tmp_path / "disk" / "real.png")
    with open_sink(tmp_path / "out.png") as sink:
        sink.write(frame(), none())
    assert (tmp_path / "out.png").is_symlink()
    assert files(tmp_path / "disk") == ["real.png"]


@pytest.mark.parametrize("uri", ["", "out.txt", "rtsp://user:hunter2@host/x", "csi://0", "out.mov"])
def test_uri_nobody_understands(uri: str) -> None:
    with pytest.raises(UsageError, match=r"no sink understands .*display://.*\.jsonl") as error:
        open_sink(uri)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_fps_that_makes_no_sense(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UsageError, match="fps"):
        open_sink(tmp_path / "out.mp4", fps=fps)


# ---- JSON lines


def test_jsonl_rows(tmp_path: Path) -> None:
    with open_sink(f"file://{tmp_path}/a%20b.jsonl") as sink:
        sink.write(frame(0, name="p.png", source="photos/"), dog())
        sink.write(frame(1, shape=(3, 5)), none((3, 5)))
    assert rows(tmp_path / "a b.jsonl") == [
        {
            "source": "photos/",
            "frame": 0,
            "timestamp_ns": 0,
            "name": "p.png",
            "width": 64,
            "height": 48,
            "detections": [{"box": [1.23, 2.0, 30.0, 40.0], "score": 0.5, "label": 1, "name": "dog"}],
        },
        {"source": "test://", "frame": 1, "timestamp_ns": 1000, "width": 5, "height": 3, "detections": []},
    ]


def test_jsonl_can_be_followed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")
    with open_sink(path) as sink:
        assert path.read_text() == "old\n"
        for count in (1, 2, 3):
            sink.write(frame(count), none())
            assert len(rows(path)) == count
            assert path.read_text().endswith("\n")


def test_jsonl_keeps_whole_lines_when_the_disk_fills(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_sink(path) as sink:
        sink.write(frame(0), none())
        with file_size_limit(path.stat().st_size + 10), pytest.raises(OutputError, match="cannot write"):
            sink.write(frame(1), none())
        assert len(rows(path)) == 1
        sink.write(frame(2), none())  # room again
    assert [row["frame"] for row in rows(path)] == [0, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_jsonl_to_a_device(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    with open_sink(tmp_path / "out.jsonl") as sink, pytest.raises(OutputError, match="No space left"):
        sink.write(frame(), none())
    assert Path("/dev/full").is_char_device()


def test_jsonl_name_that_is_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    with open_sink(tmp_path / "out.jsonl") as sink:
        sink.write(frame(name=name), none())
    assert rows(tmp_path / "out.jsonl")[0]["name"] == name


def test_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with open_sink("-") as sink:
        sink.write(frame(), dog())
        assert json.loads(capsys.readouterr().out)["frame"] == 0


STDOUT_PROGRAM = """
import sys
import numpy as np
from edge_retina.errors import OutputError
from edge_retina.sinks import StopStream, open_sink
from edge_retina.types import Detections, Frame
try:
    with open_sink("-") as sink:
        for index in range(100_000):
            sink.write(Frame(np.zeros((2, 2, 3), np.uint8), index), Detections.empty((2, 2)))
except (StopStream, OutputError) as exc:
    print(type(exc).__name__, file=sys.stderr)
"""


def test_reader_of_stdout_goes_away() -> None:
    child = subprocess.Popen([sys.executable, "-c", STDOUT_PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    with child:
        assert json.loads(child.stdout.readline())["frame"] == 0
        child.stdout.close()
        assert child.stderr.read() == b"StopStream\n"
    assert child.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_on_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-c", STDOUT_PROGRAM], stdout=full, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, b"OutputError\n")


# ---- video


@pytest.mark.parametrize("fps", [29.97, 12.5, 60.0, 0.5])
@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.mkv"])
def test_video_keeps_rate_size_and_count(tmp_path: Path, name: str, fps: float) -> None:
    path = tmp_path / name
    with open_sink(path, fps=fps) as sink:
        for index in range(5):
            sink.write(frame(index), dog())
    info = probe(path)
    assert info.fps == pytest.approx(fps, abs=0.01)
    assert (info.shape, info.frames) == ((48, 64), 5)
    read = list(open_source(path))
    assert len(read) == 5
    assert read[0].image[30, 1].std() > 30  # the coloured edge of the box on grey


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.mkv"])
@pytest.mark.parametrize(("first", "video"), [((1, 1), (2, 2)), ((47, 63), (48, 64)), ((48, 63), (48, 64))])
def test_odd_sizes_are_padded_to_even(
    tmp_path: Path, name: str, first: tuple[int, int], video: tuple[int, int]
) -> None:
    with open_sink(tmp_path / name) as sink:
        sink.write(frame(0, first), none(first))
    assert probe(tmp_path / name).shape == video


def test_frame_of_another_size_is_letterboxed(tmp_path: Path) -> None:
    path = tmp_path / "out.avi"
    with open_sink(path) as sink:
        sink.write(frame(0, (48, 64)), none())
        sink.write(frame(1, (96, 64)), none((96, 64)))  # into 48 x 32, bars of 16 at both sides
    second = list(open_source(path))[1].image
    assert second.shape == (48, 64, 3)
    assert second[24, 4].max() < 10
    assert abs(int(second[24, 32, 0]) - 100) < 5


def test_size_that_cannot_be_encoded(tmp_path: Path) -> None:
    shape = (2, 70_000)
    with pytest.raises(OutputError, match="70000 x 2"), open_sink(tmp_path / "out.mp4") as sink:
        sink.write(frame(0, shape), none(shape))
    assert files(tmp_path) == []


def test_truncated_recording_is_noticed(tmp_path: Path) -> None:
    """A full disk late in an AVI: its header still claims every frame."""
    with file_size_limit(30_000), pytest.raises(OutputError, match="wrote 40 frames, but "):
        run(tmp_path / "out.avi", noise(40))
    assert files(tmp_path) == []


# ---- images


def test_folder_names(tmp_path: Path) -> None:
    with open_sink(f"{tmp_path}/out/") as sink:
        sink.write(frame(0, name="a.png"), dog())
        sink.write(frame(1, name="b.gif"), none())
        sink.write(frame(2), none())
        sink.write(frame(3, name="a.png"), none())
        sink.write(frame(4, name="../evil.jpg"), none())
    assert files(tmp_path / "out") == ["a.png", "a_000003.png", "b.jpg", "evil.jpg", "frame_000002.jpg"]
    assert files(tmp_path) == ["out"]
    image = cv2.imread(str(tmp_path / "out" / "a.png"))
    assert image is not None
    assert image.shape == (48, 64, 3)
    assert image[30, 1].tolist() != [100, 100, 100]


def test_folder_forms(tmp_path: Path) -> None:
    (tmp_path / "exists.d").mkdir()
    for uri in (tmp_path / "plain", f"{tmp_path}/slash.d/", tmp_path / "exists.d"):
        with open_sink(uri) as sink:
            sink.write(frame(), none())
        assert files(Path(uri)) == ["frame_000000.jpg"]


def test_folder_of_the_source_is_protected(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    for source in (f"{tmp_path}/", f"{tmp_path}/*.png", str(tmp_path / "a.png")):
        with pytest.raises(OutputError, match="is the source itself"), open_sink(tmp_path) as sink:
            sink.write(next(open_source(source)), none((4, 4)))
    assert files(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("pattern", ["*/*.png", "**/*.png", "?/p*"])
def test_a_folder_of_a_deep_glob_is_protected(tmp_path: Path, pattern: str) -> None:
    # Once the path was put together from the URI, and g/a/p.png was lost.
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a" / "p.png"), np.zeros((4, 4, 3), np.uint8))
    before = (tmp_path / "a" / "p.png").read_bytes()
    with pytest.raises(OutputError, match="is the source itself"), open_sink(tmp_path / "a") as sink:
        sink.write(next(open_source(f"{tmp_path}/{pattern}")), none((4, 4)))
    assert files(tmp_path / "a") == ["p.png"]
    assert (tmp_path / "a" / "p.png").read_bytes() == before


def test_second_run_replaces_the_first(tmp_path: Path) -> None:
    for value in (10, 200):
        with open_sink(tmp_path / "out") as sink:
            sink.write(Frame(np.full((8, 8, 3), value, np.uint8), name="a.png"), none((8, 8)))
    image = cv2.imread(str(tmp_path / "out" / "a.png"))
    assert image is not None
    assert image[0, 0, 0] == 200


def test_single_image_takes_one_frame(tmp_path: Path) -> None:
    (tmp_path / "out.jpg").write_text("old")
    with pytest.raises(OutputError, match=r"second frame; use a folder instead: .*/out/"):
        run(tmp_path / "out.jpg", [frame(0), frame(1)])
    assert (tmp_path / "out.jpg").read_text() == "old"


def test_image_too_large_for_its_format(tmp_path: Path) -> None:
    shape = (1, 70_000)  # JPEG and WebP end at 65535 and 16383
    with pytest.raises(OutputError, match="encode"), open_sink(tmp_path / "out.webp") as sink:
        sink.write(frame(0, shape), none(shape))
    assert files(tmp_path) == []


def test_error_of_the_run_is_not_hidden_by_closing(tmp_path: Path) -> None:
    class Broken(Sink):
        def write(self, frame: Frame, detections: Detections) -> None: ...

        def close(self) -> None:
            raise OutputError("second")

        def abort(self) -> None: ...

    with pytest.raises(ZeroDivisionError), Broken():
        raise ZeroDivisionError
    with pytest.raises(OutputError), Broken():
        pass


# ---- page


def test_page_is_served_and_its_port_given_back() -> None:
    with open_sink("http://127.0.0.1:0") as sink:
        sink.write(frame(), dog())
        sink.event(Event("live", "test://"))
        sink.write(frame(1), none())
    sink.close()
    sink.abort()
