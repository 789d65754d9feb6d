from __future__ import annotations

import gc
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina.calibrate import pictures
from edge_retina.calibrate.pictures import CalibrationSet, SetCheck, open_calibration, spread, stills_of, warnings_of
from edge_retina.errors import InputError, UsageError
from edge_retina.sources import open_source
from edge_retina.types import U8, Frame

DIGITS = Path(__file__).resolve().parents[2] / "calib" / "digits"


def picture(seed: int, shape: tuple[int, int] = (48, 64)) -> U8:
    """Blobs of random colours, different for each seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def save(path: Path, image: U8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def make_video(path: Path, frames: int) -> Path:
    """Frame i has the grey value 2 * i."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for index in range(frames):
        writer.write(np.full((48, 64, 3), 2 * index, np.uint8))
    writer.release()
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, seed in (("b.png", 1), ("a.png", 0), ("c.png", 2)):
        save(tmp_path / "photos" / name, picture(seed))
    return tmp_path / "photos"


def images_of(found: CalibrationSet) -> list[U8]:
    return [frame.image for frame in found.frames()]


def noisy(image: U8, sigma: float, seed: int = 0) -> U8:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.asarray(np.clip(np.rint(image + noise), 0, 255), np.uint8)


def check_of(*images: U8) -> SetCheck:
    check = SetCheck()
    for image in images:
        check.add(Frame(image))
    return check


# ---- nothing there


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted images"):
        open_calibration(tmp_path)


def test_a_coco_json_without_images(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    path.write_text('{"images": []}')
    with pytest.raises(InputError, match=r"none\.json: wanted a COCO json with images, found none"):
        open_calibration(path)


def test_no_pictures_wanted(photos: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 picture"):
        open_calibration(photos, most=0)


def test_a_check_of_nothing() -> None:
    assert SetCheck().warnings() == [
        "0 pictures are few, wanted 100 to 1000; run: edge-retina calib pick --from VIDEO -n 256 -o calib/"
    ]


# ---- which pictures


@pytest.mark.parametrize(
    ("total", "most", "indices"),
    [(0, 5, []), (1, 5, [0]), (3, 3, [0, 1, 2]), (10, 1, [5]), (10, 2, [2, 7]), (10, 4, [1, 3, 6, 8])],
)
def test_indices_lie_in_the_middle_of_equal_shares(total: int, most: int, indices: list[int]) -> None:
    assert spread(total, most) == indices


def test_a_folder_comes_sorted_and_again(photos: Path) -> None:
    found = open_calibration(str(photos))
    assert (found.count, found.names, found.uri) == (3, ("a.png", "b.png", "c.png"), str(photos))
    for _ in range(2):
        for image, seed in zip(images_of(found), (0, 1, 2), strict=True):
            np.testing.assert_array_equal(image, picture(seed))


def test_of_a_large_folder_pictures_are_taken_all_along(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"{i}.png", picture(i, (4, 4)))
    assert open_calibration(tmp_path, most=4).names == ("1.png", "3.png", "6.png", "8.png")


def test_a_video_gives_frames_from_its_whole_length(tmp_path: Path) -> None:
    found = open_calibration(make_video(tmp_path / "v.avi", 100), most=4)
    assert found.names == ("frame 12", "frame 37", "frame 62", "frame 87")
    for _ in range(2):
        assert [frame.index for frame in found.frames()] == [12, 37, 62, 87]
        assert [round(float(image.mean())) for image in images_of(found)] == pytest.approx([24, 74, 124, 174], abs=2)


def test_a_short_video_gives_all_its_frames(tmp_path: Path) -> None:
    assert open_calibration(make_video(tmp_path / "v.avi", 3)).count == 3


def test_a_test_pattern(tmp_path: Path) -> None:
    found = open_calibration("test://?frames=10&size=32x24", most=2)
    assert [frame.index for frame in found.frames()] == [2, 7]
    endless = open_calibration("test://?frames=0&size=32x24", most=3)
    assert [frame.index for frame in endless.frames()] == [0, 1, 2]


def test_a_coco_json_in_file_order(photos: Path, tmp_path: Path) -> None:
    path = photos / "set.json"
    path.write_text(json.dumps({"images": [{"file_name": "c.png"}, {"file_name": "a.png"}]}))
    assert open_calibration(path).names == ("c.png", "a.png")
    assert open_calibration(f"file://{path}").names == ("c.png", "a.png")
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(path.read_bytes())
    assert open_calibration(elsewhere, images=photos).names == ("c.png", "a.png")
    with pytest.raises(InputError, match=r"c\.png is not there; pass its folder with --calib-images"):
        open_calibration(elsewhere)
    with pytest.raises(UsageError, match=r"^--calib-images goes with a COCO json"):
        open_calibration(photos, images=photos)
    with pytest.raises(UsageError, match=r"^--images goes with a COCO json"):
        stills_of(photos, photos)


def test_a_coco_json_finds_the_folder_images_beside_it(photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "images")
    path = tmp_path / "set.json"
    path.write_text('{"images": [{"file_name": "b.png"}]}')
    assert stills_of(path) == (str(tmp_path / "images" / "b.png"),)


@pytest.mark.parametrize("text", ["", "[]", '{"images": 3}', '{"images": [{}]}', '{"images": ["a.png"]}'])
def test_a_json_that_is_no_coco(tmp_path: Path, text: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(
        InputError, match=r"set\.json: wanted a COCO json, found (no images\[\]|what is no JSON: )"
    ) as info:
        open_calibration(path)
    assert "Error(" not in str(info.value)  # a sentence, not a repr


def test_a_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*none\.json: No such file or directory; check the path"):
        open_calibration(tmp_path / "none.json")


def test_grey_and_alpha_become_bgr(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((4, 4), 7, np.uint8))
    save(tmp_path / "b.png", np.dstack([picture(0), np.zeros((48, 64), np.uint8)]))
    grey, alpha = images_of(open_calibration(tmp_path))
    assert (grey.shape, int(grey.min()), int(grey.max())) == ((4, 4, 3), 7, 7)
    np.testing.assert_array_equal(alpha, picture(0))


def test_a_damaged_picture_is_named(photos: Path) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    found = open_calibration(photos)
    with pytest.raises(InputError, match=r"b\.png: wanted an image"):
        images_of(found)


def test_a_video_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.avi", 10)
    found = open_calibration(path)
    make_video(path, 4)
    with pytest.raises(InputError, match="wanted 10 pictures, found 4"):
        images_of(found)


def test_one_picture_is_decoded_at_a_time(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = pictures.read_image
    monkeypatch.setattr(pictures, "read_image", lambda path: (read.append(Path(path).name), real(path))[1])
    frames = open_calibration(photos).frames()
    assert read == []
    next(frames)
    assert read == ["a.png"]


# ---- the size a model wants


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    save(tmp_path / "a.png", stripes)
    save(tmp_path / "b.png", np.full((4, 4, 3), 9, np.uint8))
    save(tmp_path / "c.png", np.full((2, 2, 3), 9, np.uint8))
    found = list(open_calibration(tmp_path, frame_size=(4, 4)).frames())
    assert [frame.image.shape for frame in found] == [(4, 4, 3)] * 3
    assert [frame.original_shape for frame in found] == [(8, 8), (4, 4), (2, 2)]
    assert (found[0].image == 100).all()  # averaged; nearest or linear would show stripes or one of their colours
    check = SetCheck()
    for frame in found:
        check.add(frame)
    assert "2 of 3 pictures were resized to 4x4; pictures as the camera gives them are better" in check.warnings()


# ---- digests


def test_the_digest_is_of_content_and_order_not_of_paths(photos: Path, tmp_path: Path) -> None:
    before = open_calibration(photos).digest
    parts = [hashlib.sha256((photos / name).read_bytes()).digest() for name in ("a.png", "b.png", "c.png")]
    assert before == hashlib.sha256(b"".join(parts)).hexdigest()
    moved = photos.rename(tmp_path / "moved")
    (moved / "c.png").rename(moved / "z.png")
    assert open_calibration(moved).digest == before
    (moved / "a.png").rename(moved / "y.png")
    assert open_calibration(moved).digest != before
    assert open_calibration(moved, most=2).digest != before


def test_the_digest_of_a_video_holds_the_frames_taken(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.avi", 20)
    before = open_calibration(path, most=4).digest
    assert before == open_calibration(path.rename(tmp_path / "w.avi"), most=4).digest
    assert before != open_calibration(tmp_path / "w.avi", most=5).digest
    assert before != open_calibration(make_video(path, 21), most=4).digest


def test_the_digest_of_a_test_pattern() -> None:
    uri = "test://?frames=2&size=8x8"
    assert open_calibration(uri).digest == open_calibration(uri).digest != open_calibration(f"{uri}&seed=1").digest


# ---- cameras


def test_a_camera_is_watched_once_and_gives_the_same_frames_again(tmp_path: Path) -> None:
    uri = "test://?live=1&fps=100&frames=0&size=64x48"
    found = open_calibration(uri, most=5, seconds=0.2)
    assert (found.count, found.digest) == (5, None)
    first, again = list(found.frames()), list(found.frames())
    assert all(frame.live for frame in first)
    since_first_ns = [frame.timestamp_ns - first[0].timestamp_ns for frame in first]
    assert all(at >= 0.04e9 * number for number, at in enumerate(since_first_ns))  # not the first five
    truth = {frame.index: frame.image for frame in open_source("test://?frames=100&size=64x48")}
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, truth[a.index])
        np.testing.assert_array_equal(a.image, b.image)


def test_a_slow_camera_gives_what_it_has_in_its_time() -> None:
    found = open_calibration("test://?live=1&fps=20&frames=0&size=16x16", most=500, seconds=0.2)
    assert 2 <= found.count <= 6


def test_frames_of_a_camera_go_with_their_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = open_calibration("test://?live=1&fps=200&size=16x16", most=2, frame_size=(8, 8), seconds=0.1)
    assert [frame.original_shape for frame in found.frames()] == [(16, 16)] * 2
    assert len(list(tmp_path.iterdir())) == 1
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_passwords_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "open_source", lambda _: open_source("test://?frames=1&size=8x8"))
    found = open_calibration("rtsp://me:secret@camera/1", most=1)
    assert found.uri == "rtsp://me:***@camera/1"
    assert "secret" not in repr(found)


# ---- warnings


def test_a_good_set_has_no_warnings() -> None:
    assert warnings_of(open_calibration(DIGITS)) == []


def test_near_duplicates_are_counted() -> None:
    images = [picture(seed) for seed in (0, 1, 0, 2, 0)]
    check = check_of(*images)
    assert (check.count, check.near_duplicates) == (5, 2)
    assert "2 of 5 pictures are nearly the same as an earlier one and add little" in check.warnings()


def test_grey_pictures() -> None:
    grey = [np.repeat(picture(seed)[:, :, :1], 3, 2) for seed in range(3)]
    tinted = noisy(grey[0], 1)  # as a codec leaves it
    assert (
        "all 4 pictures are grey; if the camera gives colour, calibrate on colour" in check_of(*grey, tinted).warnings()
    )
    with_colour = check_of(*grey, picture(9))
    assert with_colour.grey == 3
    assert not any("grey" in warning for warning in with_colour.warnings())


def test_few_pictures() -> None:
    images = [picture(seed, (16, 16)) for seed in range(100)]
    assert check_of(*images).warnings() == []
    assert check_of(*images[:99]).warnings()[0].startswith("99 pictures are few, wanted 100 to 1000; ")
