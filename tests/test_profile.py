from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina.errors import UsageError
from edge_retina.profile import MAX_BATCH, MAX_SIDE, Profile

SHAPES = st.tuples(st.integers(1, MAX_BATCH), st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE))


def test_nothing_is_no_profile() -> None:
    with pytest.raises(
        UsageError, match=r"^profile: least wants \(batch 1\.\.64, height and width 1\.\.16384\), found"
    ):
        Profile((), (), ())  # type: ignore[arg-type]


def test_any_frame_size() -> None:
    profile = Profile.for_frames(None, 4)
    assert (profile.least, profile.usual, profile.most) == ((1, 64, 64), (1, 720, 1280), (4, 2160, 3840))
    assert profile.text == "1x64x64..1x720x1280..4x2160x3840"
    assert profile.shapes() == ((1, 64, 64, 3), (1, 720, 1280, 3), (4, 2160, 3840, 3))


def test_one_frame_size() -> None:
    profile = Profile.for_frames((480, 640))
    assert profile.least == profile.usual == profile.most == (1, 480, 640)
    assert Profile.for_frames((480, 640), 8).text == "1x480x640..1x480x640..8x480x640"


def test_one_frame_size_may_be_small_or_large() -> None:
    assert Profile.for_frames((32, 16384)).text == "1x32x16384..1x32x16384..1x32x16384"


def test_usual_is_cut_to_most() -> None:
    assert Profile.for_frames(None, most=(480, 1920)).text == "1x64x64..1x480x1280..1x480x1920"
    assert Profile.for_frames(None, most=(32, 32)).text == "1x32x32..1x32x32..1x32x32"


def test_usual_may_be_below_64() -> None:
    assert Profile.for_frames(None, usual=(48, 640)).text == "1x48x64..1x48x640..1x2160x3840"


def test_holds_its_edges() -> None:
    profile = Profile((1, 64, 64), (1, 720, 1280), (4, 2160, 3840))
    assert profile.holds(1, 64, 64)
    assert profile.holds(4, 2160, 3840)
    for frames in [(0, 64, 64), (5, 64, 64), (1, 63, 64), (1, 64, 63), (1, 2161, 64), (1, 64, 3841)]:
        assert not profile.holds(*frames)


@pytest.mark.parametrize(
    "shape",
    [(0, 1, 1), (65, 1, 1), (1, 0, 1), (1, 1, 16385), (1, 1), (1, 1, 1, 1), (True, 1, 1), (1.0, 1, 1), [1, 1, 1], None],
)
def test_nonsense_is_named(shape: Any) -> None:
    with pytest.raises(UsageError, match="usual"):
        Profile((1, 1, 1), shape, (64, 16384, 16384))


def test_nonsense_for_frames() -> None:
    for arguments in [((0, 5), 1), ((5,), 1), ((5, 5), 65), (None, 0), (None, 65)]:
        with pytest.raises(UsageError, match=r"^profile: "):
            Profile.for_frames(*arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"profile: most wants"):
        Profile.for_frames(None, most=(0, 0))
    with pytest.raises(UsageError, match=r"profile: usual wants"):
        Profile.for_frames(None, usual=(99999, 1))


def test_order_is_checked() -> None:
    with pytest.raises(UsageError, match=r"least wants no number above that of usual, found 1x65x64 and 1x64x64$"):
        Profile((1, 65, 64), (1, 64, 64), (1, 64, 64))
    with pytest.raises(UsageError, match=r"usual wants no number above that of most, found 2x64x64 and 1x99x99$"):
        Profile((1, 64, 64), (2, 64, 64), (1, 99, 99))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "1x64x64",
        "1xax64..1x64x64..1x64x64",
        "1x64x64..1x64x64",
        "1x64x64..1x64x64..1x64x64\n",
        "1x64x64..1x64x64..1x64x64..1x64x64",
        "1x64x64..1x64x64..0x64x64",
        "1x64x64..1x64x64..1x64x999999999",
        "1x64..1x64x64..1x64x64",
        "٤x64x64..٤x64x64..٤x64x64",
        "2x64x64..1x64x64..1x64x64",
    ],
)
def test_other_text_is_no_profile(text: str) -> None:
    with pytest.raises(UsageError, match=r"^profile: "):
        Profile.from_text(text)


@settings(deadline=None)
@given(st.tuples(SHAPES, SHAPES, SHAPES), SHAPES)
def test_a_profile_holds_what_lies_between(shapes: tuple[Any, ...], frames: tuple[int, int, int]) -> None:
    least, usual, most = (tuple(column) for column in zip(*map(sorted, zip(*shapes, strict=True)), strict=True))
    profile = Profile(least, usual, most)  # type: ignore[arg-type]
    assert profile.holds(*least)
    assert profile.holds(*usual)
    assert profile.holds(*most)
    assert profile.holds(*frames) == all(low <= n <= high for low, n, high in zip(least, frames, most, strict=True))
    assert Profile.from_text(profile.text) == profile


def test_a_profile_covers_what_it_takes_all_of() -> None:
    small, large = Profile.for_frames(None, 2, most=(480, 640)), Profile.for_frames(None, 4)
    assert large.covers(small)
    assert large.covers(large)
    assert not small.covers(large)
    assert not large.covers(Profile.for_frames((32, 32)))
    assert not large.covers(Profile.for_frames((480, 640), 5))
