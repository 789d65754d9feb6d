from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_retina.calibrate.pick import Picker, Selection, _farthest_first, pick
from edge_retina.errors import UsageError
from edge_retina.sources import open_source
from edge_retina.types import U8, Frame

DIGITS = Path(__file__).resolve().parents[2] / "calib" / "digits"


def picture(seed: int) -> U8:
    """Blobs of random colours, different for each seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, (64, 48), interpolation=cv2.INTER_LINEAR), np.uint8)


def plain(value: int) -> U8:
    return np.full((48, 64, 3), value, np.uint8)


def frames(*images: U8) -> list[Frame]:
    return [Frame(image, index) for index, image in enumerate(images)]


def indices(selection: Selection) -> list[int]:
    return [picked.index for picked in selection.picked]


# ---- nothing to choose from


def test_of_nothing() -> None:
    found = pick([], 3)
    assert found == Selection((), 0, 0, 0, 3)
    assert found.smallest_distance is None


@pytest.mark.parametrize(("count", "every"), [(0, 1), (1, 0)])
def test_nothing_wanted(count: int, every: int) -> None:
    with pytest.raises(UsageError, match="choose 1 frame or more"):
        pick([], count, every=every)


def test_of_black_and_blown_out_frames() -> None:
    noise = np.random.default_rng(0).integers(0, 8, (48, 64, 3), dtype=np.uint8)
    found = pick(frames(plain(0), noise, plain(255)), 2)
    assert (found.picked, found.seen, found.blank, found.near_duplicates) == ((), 3, 3, 0)


def test_night_with_a_lamp_is_not_black() -> None:
    night = plain(0)
    night[10:14, 10:14] = 200  # half a percent of the area
    assert indices(pick(frames(plain(0), night), 2)) == [1]


# ---- the order of choice, by hand


def test_farthest_first_by_hand() -> None:
    points = np.array([[0, 0], [10, 0], [0, 4], [1, 0], [-10, 0]], np.float32)
    # Nearest to the origin, then 10 away (the earlier of two), 10, 4, and 1 from the first.
    assert _farthest_first(points, 9) == ([0, 1, 4, 2, 3], [0, 0, 0, 0, 0], [0, 10, 10, 4, 1])
    assert _farthest_first(points, 2) == ([0, 1], [0, 0], [0, 10])


def test_farthest_first_of_equal_points_takes_each_once() -> None:
    assert _farthest_first(np.zeros((3, 2), np.float32), 3) == ([0, 1, 2], [0, 0, 0], [0, 0, 0])


def test_distances_fall_and_the_last_is_the_smallest_of_all_pairs() -> None:
    points = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    order, near, distances = _farthest_first(points, 12)
    assert distances[1:] == sorted(distances[1:], reverse=True)
    pairs = [np.linalg.norm(points[a] - points[b]) for i, a in enumerate(order) for b in order[:i]]
    assert distances[-1] == pytest.approx(min(pairs))
    for rank in range(1, 12):
        to_earlier = [float(np.linalg.norm(points[order[rank]] - points[b])) for b in order[:rank]]
        assert order[int(np.argmin(to_earlier))] == near[rank]
        assert min(to_earlier) == pytest.approx(distances[rank])


# ---- what is chosen, and why


def test_the_changes_of_a_static_scene_are_chosen(tmp_path: Path) -> None:
    """A video of 200 frames, as a codec leaves them: one scene, and at 60, 120 and 180 something else for 3 frames."""
    scene, changes = picture(0), {60: picture(1), 120: picture(2), 180: picture(3)}
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    rng = np.random.default_rng(0)
    for index in range(200):
        image = changes.get(index - index % 60, scene) if index % 60 < 3 else scene
        video.write(np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8))
    video.release()
    found = pick(open_source(tmp_path / "v.avi"), 16)
    assert sorted(indices(found)) == [0, 60, 120, 180]
    assert (found.seen, found.near_duplicates, found.wanted) == (200, 196, 16)


def test_a_small_change_counts_where_nothing_else_changes() -> None:
    scene = cv2.resize(picture(0), (640, 480))
    visited = scene.copy()
    visited[300:400, 100:160] = 255 - visited[300:400, 100:160]  # 2 % of the area
    assert indices(pick(frames(*[scene] * 5, visited, *[scene] * 5), 4)) == [0, 5]


def test_reasons_by_hand() -> None:
    halves = [np.repeat(plain(60 + i)[:, :32], 2, 1) for i in range(0, 20, 4)]
    for image in halves:
        image[:, 32:] += 120  # so that the board's contrast is nothing new
    board = np.indices((48, 64)).sum(0) % 8 // 4 * 120 + 60
    texture = np.repeat(board.astype(np.uint8)[:, :, None], 3, 2)
    red = plain(0)
    red[:, :] = (60, 60, 235)
    found = {p.index: p for p in pick(frames(*halves, texture, red, plain(20), plain(240)), 5).picked}
    first = next(iter(found.values()))
    assert (first.reason, first.distance) == ("most typical of all", None)
    assert first.index < 5
    assert {index: found[index].reason for index in (5, 6, 7, 8)} == {
        5: "densest texture so far",
        6: "most colourful so far",
        7: "darkest so far",
        8: "brightest so far",
    }
    assert found[7].brightness == pytest.approx(20 / 255, abs=1e-4)
    assert found[5].contrast == pytest.approx(60 / 255, abs=0.01)
    assert found[6].colour > 60
    assert [found[index].colour for index in (7, 8)] == [0, 0]


def test_every_extreme_is_one() -> None:
    field = {
        "darkest": ("brightness", -1),
        "brightest": ("brightness", 1),
        "lowest contrast": ("contrast", -1),
        "highest contrast": ("contrast", 1),
        "smoothest": ("texture", -1),
        "densest texture": ("texture", 1),
        "least colourful": ("colour", -1),
        "most colourful": ("colour", 1),
    }
    picked = pick(open_source(DIGITS), 40).picked
    claims = 0
    for rank, this in enumerate(picked):
        if this.reason.endswith(" so far"):
            name, sign = field[this.reason.removesuffix(" so far")]
            assert all(sign * getattr(this, name) > sign * getattr(other, name) for other in picked[:rank])
            claims += 1
    assert claims >= 5


def test_what_is_no_extreme_is_held_against_its_neighbour() -> None:
    left, right, both = plain(40), plain(40), plain(40)
    left[:, :32] = right[:, 32:] = 220
    both[:, 16:48] = 220
    found = pick([Frame(left, 0, name="left.png"), Frame(right, 1, name="right.png")], 2)
    assert [p.reason for p in found.picked] == ["most typical of all", "unlike left.png in layout"]
    assert pick(frames(left, right), 2).picked[1].reason == "unlike frame 0 in layout"


def test_the_choice_is_the_same_each_time() -> None:
    source = "test://?frames=60&size=64x48"
    once, again = (pick(open_source(source), 8) for _ in range(2))
    assert once == again
    assert len(once.picked) == 8
    assert once.smallest_distance == min(p.distance for p in once.picked if p.distance is not None)


def test_each_kth_frame() -> None:
    told: list[int] = []
    found = pick(frames(*[picture(i) for i in range(7)]), 9, every=3, on_frame=lambda frame: told.append(frame.index))
    assert sorted(indices(found)) == [0, 3, 6]
    assert (found.seen, told) == (3, list(range(7)))


def test_more_wanted_than_there_are() -> None:
    found = pick(frames(*[picture(i) for i in range(4)]), 10)
    assert (sorted(indices(found)), found.wanted) == ([0, 1, 2, 3], 10)


def test_thinning_keeps_what_differs_most() -> None:
    picker = Picker()
    images = [picture(0), *[plain(value) for value in range(60, 220, 10)]]
    assert [picker.add(frame) for frame in frames(*images)] == [True] * 17
    assert picker.thin(17) == set()
    gone = picker.thin(4)
    assert (len(picker), len(gone)) == (4, 13)
    kept = {p.index for p in picker.choose(9).picked}
    assert kept == set(range(17)) - gone
    assert 0 in kept
    assert picker.choose(9).seen == 17
