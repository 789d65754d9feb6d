"""Parts of JSON lines: whole lines, nothing lost but what is to go, names that never change again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina.errors import OutputError, UsageError
from edge_retina.events import Event
from edge_retina.rotate import RotatingLines, Rotation, parts_of
from edge_retina.sinks import open_sink
from edge_retina.types import Detections, Frame

IMAGE = np.zeros((4, 6, 3), np.uint8)


def frame(index: int, padding: int = 0) -> Frame:
    return Frame(IMAGE, index, source="x" * padding)


def write(sink, *indices: int, padding: int = 400) -> None:
    for index in indices:
        sink.write(frame(index, padding), Detections.empty((4, 6)))


def indices(path: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def listing(folder: Path) -> dict[str, list[int]]:
    return {path.name: indices(path) for path in sorted(folder.iterdir())}


def test_no_line_no_file(tmp_path):
    with open_sink(f"{tmp_path}/out.jsonl?rotate=1kB"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_parts_of_nothing(tmp_path):
    assert parts_of(tmp_path / "no folder" / "out.jsonl") == []


def test_a_line_that_no_longer_fits_begins_the_next_part(tmp_path):
    # A line is 400 and some bytes: two fit into 1000, three do not.
    with open_sink(f"{tmp_path}/out.jsonl?rotate=1kB") as sink:
        write(sink, 0, 1, 2, 3, 4)
    assert listing(tmp_path) == {"out.000001.jsonl": [0, 1], "out.000002.jsonl": [2, 3], "out.jsonl": [4]}


def test_the_limit_is_exact(tmp_path):
    with RotatingLines(tmp_path / "probe.jsonl", Rotation(10**6)) as sink:
        write(sink, 0)
    length = (tmp_path / "probe.jsonl").stat().st_size
    for most, parts in ((2 * length, 1), (2 * length - 1, 2)):
        folder = tmp_path / str(most)
        with RotatingLines(folder / "out.jsonl", Rotation(most)) as sink:
            write(sink, 0, 1)
        assert len(list(folder.iterdir())) == parts


def test_a_line_longer_than_a_part_has_one_to_itself(tmp_path):
    with open_sink(f"{tmp_path}/out.jsonl?rotate=1kB") as sink:
        write(sink, 0)
        write(sink, 1, padding=5000)
        write(sink, 2)
    assert listing(tmp_path) == {"out.000001.jsonl": [0], "out.000002.jsonl": [1], "out.jsonl": [2]}


def test_the_oldest_go_and_the_numbers_go_on(tmp_path):
    with open_sink(f"{tmp_path}/out.jsonl?rotate=1kB&keep=2") as sink:
        write(sink, *range(9))
    assert listing(tmp_path) == {"out.000003.jsonl": [4, 5], "out.000004.jsonl": [6, 7], "out.jsonl": [8]}
    with open_sink(f"file://{tmp_path}/out.jsonl?rotate=1kB&keep=2") as sink:
        # Until its first line is there, a new run changes nothing.
        assert [path.name for path in parts_of(tmp_path / "out.jsonl")] == ["out.000003.jsonl", "out.000004.jsonl"]
        write(sink, 9)
    assert listing(tmp_path) == {"out.000004.jsonl": [6, 7], "out.000005.jsonl": [8], "out.jsonl": [9]}


def test_only_parts_of_this_file_are_removed(tmp_path):
    others = ["out.00001.jsonl", "out.x00001.jsonl", "shout.000001.jsonl", "out.000001.json", "out.1.jsonl", "oXjsonl"]
    for name in others:
        (tmp_path / name).write_text("")
    with open_sink(f"{tmp_path}/out.jsonl?rotate=1kB&keep=1") as sink:
        write(sink, *range(7))
    assert {path.name for path in tmp_path.iterdir()} == {*others, "out.000003.jsonl", "out.jsonl"}


def test_events_count_and_stand_between_the_frames(tmp_path):
    with open_sink(f"{tmp_path}/out.jsonl?rotate=1MB") as sink:
        write(sink, 0)
        sink.event(Event("down", "front", reason="unplugged"))
        write(sink, 1)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row.get("event", row.get("frame")) for row in rows] == [0, "down", 1]
    assert (rows[1]["camera"], rows[1]["reason"]) == ("front", "unplugged")


def test_closing_twice_and_abort_keep_what_is_written(tmp_path):
    sink = open_sink(f"{tmp_path}/out.jsonl?rotate=1kB")
    write(sink, 0)
    sink.close()
    sink.close()
    sink.abort()
    assert listing(tmp_path) == {"out.jsonl": [0]}
    write(sink, 1)  # after closing it goes on in a new part
    sink.close()
    assert listing(tmp_path) == {"out.000001.jsonl": [0], "out.jsonl": [1]}


def test_a_failed_write_leaves_whole_lines(tmp_path, monkeypatch):
    sink = open_sink(f"{tmp_path}/out.jsonl?rotate=1kB")
    write(sink, 0)
    write(sink, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OutputError, match="No space"):
            write(sink, 2)
    write(sink, 3)
    sink.close()
    assert listing(tmp_path) == {"out.000001.jsonl": [0, 1], "out.jsonl": [3]}


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_at_any_time_every_file_holds_whole_lines(tmp_path):
    program = f"""
import numpy as np
from edge_retina.sinks import open_sink
from edge_retina.types import Detections, Frame
sink = open_sink("{tmp_path}/out.jsonl?rotate=1kB&keep=5")
print("on", flush=True)
for index in range(10**9):
    sink.write(Frame(np.zeros((4, 6, 3), np.uint8), index, source="x" * 300), Detections.empty((4, 6)))
"""
    last = -1
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                child.wait(0.15)
            except subprocess.TimeoutExpired:
                child.kill()
        parts = parts_of(tmp_path / "out.jsonl")
        # Killed between removing and renaming there may be one more or less.
        assert 4 <= len(parts) <= 6
        for part in parts:
            assert part.read_bytes().endswith(b"\n")
            found = indices(part)
            assert found == list(range(found[0], found[-1] + 1))
        number = int(parts[-1].name.split(".")[1])
        assert number > last
        last = number


def test_the_source_is_not_written_over(tmp_path):
    (tmp_path / "out.jsonl").write_text("")
    with open_sink(f"{tmp_path}/out.jsonl?rotate=1kB") as sink, pytest.raises(OutputError, match="source itself"):
        sink.write(Frame(IMAGE, path=str(tmp_path / "out.jsonl")), Detections.empty((4, 6)))


@pytest.mark.parametrize(
    ("query", "rotation"),
    [
        ("rotate=1000", Rotation(1000, 10)),
        ("rotate=1k", Rotation(1000, 10)),
        ("rotate=100MB", Rotation(100_000_000, 10)),
        ("rotate=1.5GiB&keep=3", Rotation(1_610_612_736, 3)),
        ("keep=1&rotate=2kib", Rotation(2048, 1)),
    ],
)
def test_what_options_mean(query, rotation):
    assert Rotation.parse(query) == rotation


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("rotate=999", "1000 bytes or more"),
        ("rotate=-1MB", "found '-1MB'"),
        ("rotate=1TB", "found '1TB'"),
        ("rotate=nan", "found 'nan'"),
        ("rotate=", "found rotate="),
        ("rotate=1MB&rotate=2MB", "given twice"),
        ("rotate=1MB&keep=0", "1 to 999999, found '0'"),
        ("rotate=1MB&keep=two", "found 'two'"),
        ("rotate=1MB&max=2", "found max=;"),
        ("keep=2", "add rotate="),
        ("x", "found x="),
    ],
)
def test_options_that_mean_nothing(query, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        open_sink(f"{tmp_path}/out.jsonl?{query}")
    assert list(tmp_path.iterdir()) == []


def test_a_path_object_has_no_options(tmp_path):
    with pytest.raises(UsageError, match="no sink understands"):
        open_sink(tmp_path / "out.jsonl?rotate=1MB")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_cannot_be_rotated(tmp_path):
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    with pytest.raises(UsageError, match="no file and cannot be rotated"):
        RotatingLines(Path("/dev/full"), Rotation(1000))


@settings(max_examples=40, deadline=None)
@given(paddings=st.lists(st.integers(0, 1500), max_size=30), keep=st.integers(1, 5), most=st.integers(1000, 3000))
def test_whatever_is_written_the_newest_stays_in_order(tmp_path_factory, paddings, keep, most):
    folder = tmp_path_factory.mktemp("parts")
    with RotatingLines(folder / "out.jsonl", Rotation(most, keep)) as sink:
        for index, padding in enumerate(paddings):
            write(sink, index, padding=padding)
    files = [*parts_of(folder / "out.jsonl"), *folder.glob("out.jsonl")]
    assert len(list(folder.iterdir())) == len(files) <= keep + 1
    found = [index for path in files for index in indices(path)]
    assert found == list(range(len(paddings)))[len(paddings) - len(found) :]
    assert all(path.stat().st_size <= most or len(indices(path)) == 1 for path in files)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        open_sink(f"{tmp_path}/file/out.jsonl?rotate=1MB")
