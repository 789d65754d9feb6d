"""Two outs never in one place, and none over what is yet to be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_retina.errors import OutputError, UsageError
from edge_retina.outs import check_outs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing() -> None:
    check_outs([], [])
    check_outs([], ["a.mp4"])


def test_places_of_their_own() -> None:
    outs = [
        "-",
        "display://",
        "a.jsonl",
        "a.mp4",
        "b/",
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8081",
        Path("c.png"),
    ]
    check_outs(outs, ["in.mp4", "pictures/1.jpg"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.jsonl", "a.jsonl"),
        ("a.jsonl", "./x/../a.jsonl"),
        ("a.jsonl", Path("a.jsonl").absolute),
        ("a b.mp4", "file://a%20b.mp4"),
        ("a.jsonl", "a.jsonl?rotate=1MB"),
        ("b", "b/"),
        ("b/", "b/?on=zone"),
        ("-", "-"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_two_in_one_place(one: str, other: object) -> None:
    with pytest.raises(UsageError, match="two outs would write to the same place"):
        check_outs([one, other() if callable(other) else str(other)], [])


def test_through_a_link(folder: Path) -> None:
    (folder / "real.mp4").touch()
    os.symlink("real.mp4", "link.mp4")
    with pytest.raises(UsageError, match="same place"):
        check_outs(["real.mp4", "link.mp4"], [])
    with pytest.raises(OutputError, match="is or holds the source itself"):
        check_outs(["link.mp4"], ["real.mp4"])


@pytest.mark.parametrize("out", ["in.mp4", "file://in.mp4", "x/../in.mp4"])
def test_over_the_source(out: str) -> None:
    with pytest.raises(OutputError, match="would be lost; use another folder or name"):
        check_outs([out], ["in.mp4"])


def test_into_the_folder_of_the_pictures(folder: Path) -> None:
    with pytest.raises(OutputError, match="would be lost"):
        check_outs(["pictures/"], ["pictures/1.jpg"])
    check_outs(["pictures/boxes/"], ["pictures/1.jpg"])
    check_outs(["videos/"], ["videos/1.mp4"])  # results are not named after a video
    # Where links to pictures lie, and where those lead.
    (folder / "far").mkdir()
    (folder / "near").mkdir()
    (folder / "far" / "1.jpg").touch()
    os.symlink("../far/1.jpg", "near/1.jpg")
    for out in ("far/", "near/"):
        with pytest.raises(OutputError, match="would be lost"):
            check_outs([out], ["near/1.jpg"])


def test_no_password_in_a_message() -> None:
    outs = ["post+http://u:canary@h/x"] * 2
    with pytest.raises(UsageError, match=r"post\+http://u:\*\*\*@h/x: two outs"):
        check_outs(outs, [])
