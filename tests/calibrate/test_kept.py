"""Readings that wait in a file."""

import tempfile

import numpy as np
import pytest

from edge_retina.calibrate.kept import Kept
from edge_retina.calibrate.probes import Reading
from edge_retina.errors import OutputError


def reading(seed: int, channels: int = 3, count: int = 5) -> Reading:
    rng = np.random.default_rng(seed)
    return Reading(*(rng.normal(size=size).astype(np.float32) for size in (channels, channels, (channels, count))))


def same(one: Reading, other: Reading) -> bool:
    return all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip((one.peak, one.mean, one.sample), (other.peak, other.mean, other.sample), strict=True)
    )


def reader(frames: dict[int, dict[str, Reading]], asked: list[int]):
    def read(_frame: np.ndarray, turn: int) -> dict[str, Reading]:
        asked.append(turn)
        return frames[turn]

    return read


FRAME = np.zeros((1, 1, 3), np.uint8)


def test_what_was_not_kept_is_read():
    frames, asked = {4: {"a": reading(1)}}, []
    with Kept(reader(frames, asked), ()) as kept:
        assert kept.read(FRAME, 4) is frames[4]
        assert kept.read(FRAME, 4) is frames[4]
    assert asked == [4, 4]


def test_what_was_kept_comes_back_in_any_order_without_being_read_again():
    frames, asked = {7: {"a": reading(1), "b": reading(2, 1, 900)}, 0: {"a": reading(3)}, 3: {}}, []
    with Kept(reader(frames, asked), (7, 0, 3)) as kept:
        for index, turn in enumerate(frames):
            assert kept.keep(FRAME, index) is frames[turn]
            assert same(kept.read(FRAME, 7)["a"], frames[7]["a"])  # between writes
        for turn in (0, 7, 3, 0, 7):
            found = kept.read(FRAME, turn)
            assert list(found) == list(frames[turn])
            assert all(same(found[name], frames[turn][name]) for name in found)
    assert asked == [7, 0, 3]


def test_a_full_disk_is_told_with_the_folder():
    with Kept(reader({0: {"a": reading(1)}}, []), [0]) as kept:
        kept._file.close()
        kept._file = open("/dev/full", "w+b", buffering=0)  # noqa: SIM115
        with pytest.raises(OutputError, match=rf"{tempfile.gettempdir()}.*No space left.*TMPDIR"):
            kept.keep(FRAME, 0)
