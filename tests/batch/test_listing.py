"""Folders, patterns, files and lists, here and in stores."""

from __future__ import annotations

import os
import zipfile
from types import SimpleNamespace

import fsspec
import pytest

from edge_retina.batch.listing import SourceFile, _of_info, list_sources
from edge_retina.errors import InputError, UsageError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """b.jpg, a.PNG, ride.mp4, notes.md, .hidden.jpg, sub/c.jpg, sub/deep/d.jpg, .git/e.jpg."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "ride.mp4", "notes.md", ".hidden.jpg", "sub/c.jpg", "sub/deep/d.jpg", ".git/e.jpg"):
        path = tmp_path / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


@pytest.fixture
def memory():
    """The same in fsspec's memory:// of this process."""
    store = fsspec.filesystem("memory")
    for name in ("b.jpg", "a.PNG", "ride.mp4", "notes.md", ".hidden.jpg", "sub/c.jpg", "sub/deep/d.jpg", ".git/e.jpg"):
        store.pipe(f"/batch/t/{name}", b"12345")
    yield "memory://batch/t"
    store.rm("/batch", recursive=True)


def names(*sources: str) -> list[str]:
    return [file.name for file in list_sources(sources)]


def test_nothing_gives_nothing():
    assert list_sources([]) == []


@pytest.mark.parametrize("source", ["empty", "empty/*.jpg", "gone", "gone.jpg", "memory://nowhere", "memory://x/*.png"])
def test_a_source_without_files_is_an_error_that_names_it(tree, source):
    (tree / "empty").mkdir()
    with pytest.raises(InputError, match="check the path") as caught:
        list_sources([source])
    assert source in str(caught.value)


def test_a_folder_is_its_files_then_its_subfolders(tree):
    assert names("t") == ["t/a.PNG", "t/b.jpg", "t/ride.mp4", "t/sub/c.jpg", "t/sub/deep/d.jpg"]
    (first, *_) = list_sources(["t"])
    assert (first.path, first.uri, first.size) == (str(tree / "t" / "a.PNG"), "", 5)
    assert first.mtime_ns == (tree / "t" / "a.PNG").stat().st_mtime_ns
    assert [file.is_video for file in list_sources(["t"])] == [False, False, True, False, False]


def test_patterns(tree):
    assert names("t/*.jpg") == ["t/b.jpg"]
    assert names("t/**/*.jpg") == ["t/b.jpg", "t/sub/c.jpg", "t/sub/deep/d.jpg"]


def test_a_file_may_have_any_name_and_comes_once(tree):
    assert names("t/notes.md", "t/b.jpg", "t", "./t/b.jpg")[:2] == ["t/notes.md", "t/b.jpg"]
    assert len(names("t", "t/b.jpg", "./t/b.jpg")) == 5
    assert names(f"file://{tree}/t/b.jpg") == [f"{tree}/t/b.jpg"]


def test_a_list_names_files_patterns_and_folders_and_keeps_what_is_not_there(tree):
    (tree / "list.txt").write_text("# ours\n\nt/b.jpg\n  t/sub  \nt/gone.jpg\n")
    files = list_sources(["list.txt"])
    assert [file.name for file in files] == ["t/b.jpg", "t/sub/c.jpg", "t/sub/deep/d.jpg", "t/gone.jpg"]
    assert [file.size for file in files] == [5, 5, 5, -1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
def test_a_pipe_is_no_file_for_reading_it_might_not_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere")
    assert [file.name for file in list_sources([str(tmp_path)])] == [str(tmp_path / "lost.jpg")]
    with pytest.raises(InputError, match="pipe or device"):
        list_sources([str(tmp_path / "pipe.jpg")])


@pytest.mark.parametrize(("content", "why"), [("", "found none in it"), ("# this\n", "found none"), (None, "list")])
def test_a_list_with_nothing_in_it(tree, content, why):
    if content is not None:
        (tree / "list.txt").write_text(content)
    with pytest.raises(InputError, match=why):
        list_sources(["list.txt"])


def test_a_store_is_listed_as_a_folder_is(memory):
    below = ["a.PNG", "b.jpg", "ride.mp4", "sub/c.jpg", "sub/deep/d.jpg"]
    assert names(memory) == [f"{memory}/{name}" for name in below]
    assert names(f"{memory}/") == [f"{memory}/{name}" for name in below]
    assert names(f"{memory}/*.jpg") == [f"{memory}/b.jpg"]
    assert names(f"{memory}/**/*.jpg") == [f"{memory}/b.jpg", f"{memory}/sub/c.jpg", f"{memory}/sub/deep/d.jpg"]
    assert [(file.name, file.size) for file in list_sources([f"{memory}/b.jpg"])] == [(f"{memory}/b.jpg", 5)]


def test_a_store_nobody_knows():
    with pytest.raises(UsageError, match="nonsense"):
        list_sources(["nonsense://there/a.jpg"])


def test_a_chain_of_stores(tree):
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.write("t/b.jpg", "in/b.jpg")
        archive.write("t/sub/c.jpg", "c.jpg")
    whole = list_sources(["zip://::a.zip"])
    assert [(file.name, file.path.strip("/"), file.uri) for file in whole] == [
        ("zip://c.jpg::a.zip", "c.jpg", "zip://::a.zip"),
        ("zip://in/b.jpg::a.zip", "in/b.jpg", "zip://::a.zip"),
    ]
    assert names("zip://in::a.zip") == ["zip://in/b.jpg::a.zip"]
    assert names("zip://**/*.jpg::a.zip") == names("zip://::a.zip")


def test_passwords_stay_out_of_names():
    info = SimpleNamespace(path="bucket/bucket.jpg", size=3, mtime_ns=None)
    made = _of_info("s3://bucket:SECRET@bucket?region=x", "bucket", info)
    assert (made.name, made.size, made.mtime_ns) == ("s3://bucket:***@bucket/bucket.jpg", 3, 0)


def test_a_video_is_known_by_its_path_whatever_stands_behind_it():
    info = SimpleNamespace(path="bucket/ride.mp4", size=3, mtime_ns=None)
    assert _of_info("s3://bucket?region=x", "bucket", info).is_video
    assert SourceFile("x", "https://there/ride.mp4?signature=x.jpg", "https://there/ride.mp4?signature=x.jpg").is_video
    assert not SourceFile("a.mp4?.jpg", "/a.mp4?.jpg").is_video
