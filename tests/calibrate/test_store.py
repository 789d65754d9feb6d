from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_retina.calibrate import store
from edge_retina.calibrate.pictures import open_calibration
from edge_retina.calibrate.store import pick_into
from edge_retina.errors import InputError, OutputError, UsageError
from edge_retina.images import read_image
from edge_retina.sources import open_source
from edge_retina.types import U8

VIDEO = "test://?frames=40&size=64x48"


def picture(seed: int) -> U8:
    """Blobs of random colours, different for each seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, (64, 48), interpolation=cv2.INTER_LINEAR), np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four JPEG scenes, the first of them twice."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, seed in enumerate((0, 0, 1, 2, 3)):
        cv2.imwrite(str(folder / f"{number}.jpg"), picture(seed))
    return folder


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- nothing to choose, nothing written


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="wanted images"):
        pick_into(tmp_path / "out", str(tmp_path / "in"), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_only_black_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="of 1 looked at all are black or blown out"):
        pick_into(tmp_path / "deep" / "out", str(tmp_path / "a.png"), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_pattern_without_end(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="never ends; give it a number of frames"):
        pick_into(tmp_path / "out", "test://?frames=0", 3)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, InputError])
def test_a_run_that_fails_leaves_nothing(tmp_path: Path, photos: Path, failure: type[BaseException]) -> None:
    def stop(what: str, done: float, total: float | None) -> None:
        if done == 3:
            raise failure

    before = all_files(tmp_path)
    with pytest.raises(failure):
        pick_into(tmp_path / "new" / "out", VIDEO, 8, on_progress=stop)
    with pytest.raises(failure):
        pick_into(tmp_path / "new" / "out", str(photos), 8, on_progress=stop)
    assert all_files(tmp_path) == before
    assert not (tmp_path / "new").exists()


# ---- what is written


def test_pictures_are_copied_byte_for_byte(tmp_path: Path, photos: Path) -> None:
    found = pick_into(tmp_path / "out", str(photos), 3)
    written = all_files(tmp_path / "out")
    names = [row["file"] for row in found["pictures"]]
    assert sorted(written) == sorted([*names, "overview/contact-sheet.png", "pick.json"])
    for name in names:
        assert written[name] == (photos / name).read_bytes()
    assert json.loads(written["pick.json"]) == found
    assert (found["source"], found["wanted"], found["chosen"], found["seen"]) == (str(photos), 3, 3, 5)
    assert (found["near_duplicates"], found["blank"]) == (1, 0)
    assert str(photos) not in json.dumps(found["pictures"])
    # In the order of choice: 3 cells of 150 x 200, 6 between and around them.
    assert read_image(tmp_path / "out" / "overview" / "contact-sheet.png").shape == (162, 624, 3)


def test_a_pick_is_a_calibration_set(tmp_path: Path, photos: Path) -> None:
    found = pick_into(tmp_path / "out", str(photos), 3)
    names = open_calibration(tmp_path / "out").names  # the sheet is not among them
    assert list(names) == sorted(row["file"] for row in found["pictures"])


def test_frames_of_a_video_are_written_without_loss(tmp_path: Path) -> None:
    found = pick_into(tmp_path / "out", VIDEO, 5)
    truth = [frame.image for frame in open_source(VIDEO)]
    for row in found["pictures"]:
        assert row["file"] == f"frame-{row['index']:06d}.png"
        np.testing.assert_array_equal(read_image(tmp_path / "out" / row["file"]), truth[row["index"]])


def test_equal_names_and_names_that_hide(tmp_path: Path) -> None:
    for name, seed in (("a/1.png", 0), ("b/1.png", 1), ("b/.2.png", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture(seed))
    coco = tmp_path / "set.json"
    coco.write_text(json.dumps({"images": [{"file_name": name} for name in ("a/1.png", "b/1.png", "b/.2.png")]}))
    found = pick_into(tmp_path / "out", str(coco), 9, images=tmp_path)
    later = next(row["index"] for row in reversed(found["pictures"]) if row["name"] == "1.png")
    assert sorted(row["file"] for row in found["pictures"]) == ["1.png", f"1_{later:06d}.png", "2.png"]


def test_each_kth_picture(tmp_path: Path, photos: Path) -> None:
    found = pick_into(tmp_path / "out", str(photos), 9, every=2)
    assert sorted(row["file"] for row in found["pictures"]) == ["0.jpg", "2.jpg", "4.jpg"]


def test_passwords_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "open_source", lambda _: open_source("test://?frames=3&live=1&fps=100&size=64x48"))
    found = pick_into(tmp_path / "out", "rtsp://me:secret@camera/1", 2, seconds=1)
    assert found["source"] == "rtsp://me:***@camera/1"
    assert "secret" not in (tmp_path / "out" / "pick.json").read_text()


def test_a_camera_is_watched_and_its_candidates_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    real = store.encode_png

    def counting(image: U8) -> bytes:
        nonlocal most
        most = max(most, sum(1 for path in tmp_path.rglob("camera-*.png")))
        return real(image)

    monkeypatch.setattr(store, "encode_png", counting)
    found = pick_into(tmp_path / "out", "test://?live=1&fps=100&frames=0&size=64x48", 2, seconds=0.5)
    assert found["chosen"] == 2
    assert most <= 8
    truth = {frame.index: frame.image for frame in open_source("test://?frames=100&size=64x48")}
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    for row in found["pictures"]:
        np.testing.assert_array_equal(read_image(tmp_path / "out" / row["file"]), truth[row["index"]])


def test_seconds_go_with_a_camera(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="--seconds goes with a camera"):
        pick_into(tmp_path / "out", str(photos), 2, seconds=5)


# ---- what may be replaced


def test_a_folder_with_something_in_it_stays(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    pick_into(out, str(photos), 1)  # empty is free
    before = all_files(out)
    with pytest.raises(UsageError, match=r"out is not empty; choose another folder .* --overwrite"):
        pick_into(out, VIDEO, 2)
    assert all_files(out) == before
    pick_into(out, VIDEO, 2, overwrite=True)
    assert sorted(all_files(out))[2:] == ["overview/contact-sheet.png", "pick.json"]
    assert len(list(out.glob("frame-*.png"))) == 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out", "photos"]


def test_what_no_pick_wrote_is_never_replaced(tmp_path: Path, photos: Path) -> None:
    before = all_files(photos)
    with pytest.raises(UsageError, match=r"holds 0\.jpg, which no pick wrote"):
        pick_into(photos, VIDEO, 2, overwrite=True)
    assert all_files(photos) == before
    pick_into(tmp_path / "out", VIDEO, 2)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        pick_into(tmp_path / "out", VIDEO, 2, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="found a file"):
        pick_into(tmp_path / "file", VIDEO, 2, overwrite=True)


def test_a_pick_does_not_replace_its_own_source(tmp_path: Path) -> None:
    pick_into(tmp_path / "out", VIDEO, 4)
    with pytest.raises(UsageError, match=r"lies in .*out, which would be replaced"):
        pick_into(tmp_path / "out", str(tmp_path / "out"), 2, overwrite=True)


def test_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="found the folder this command runs in"):
        pick_into(".", VIDEO, 2)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        pick_into(tmp_path / "file" / "out", VIDEO, 2)


def test_an_old_pick_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    pick_into(out, VIDEO, 2)
    before = all_files(tmp_path)
    real: Callable[..., Any] = store.os.replace

    def failing(source: Path, target: Path) -> None:
        if target == out and not str(source).endswith("-old"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(store.os, "replace", failing)
    with pytest.raises(OutputError, match="No space left"):
        pick_into(out, VIDEO, 3, overwrite=True)
    assert all_files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
