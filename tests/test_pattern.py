from __future__ import annotations

import time

import numpy as np
import pytest

from edge_retina.errors import UsageError
from edge_retina.sources import SourceInfo, open_source, probe


def test_pattern_is_deterministic() -> None:
    uri = "test://?size=64x48&fps=20&frames=3&seed=5"
    first, again = list(open_source(uri)), list(open_source(uri))
    assert [f.timestamp_ns for f in first] == [0, 50_000_000, 100_000_000]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].image, first[1].image)
    assert not np.array_equal(first[0].image, next(open_source("test://?size=64x48&seed=6")).image)
    assert {(f.image.shape, f.live, f.source) for f in first} == {((48, 64, 3), False, uri)}
    assert probe(uri) == SourceInfo(live=False, fps=20.0, shape=(48, 64), frames=3)


def test_pattern_defaults_sizes_and_no_end() -> None:
    assert len(list(open_source("test://"))) == 300
    assert next(open_source("test://?size=1x1")).image.shape == (1, 1, 3)
    assert len(list(open_source("test://?frames=0&size=8x8", max_frames=301))) == 301
    assert probe("test://?frames=0").frames is None


def test_live_pattern_keeps_time() -> None:
    start = time.monotonic()
    frames = list(open_source("test://?size=8x8&fps=50&frames=4&live=1"))
    assert time.monotonic() - start >= 3 / 50
    assert all(f.live for f in frames)
    assert frames[-1].timestamp_ns - frames[0].timestamp_ns >= 0.03 * 1e9


@pytest.mark.parametrize(
    "query",
    [
        "?size=640",
        "?size=0x5",
        "?size=axb",
        "?size=99999x1",
        "?fps=0",
        "?fps=nan",
        "?fps=inf",
        "?frames=-1",
        "?seed=x",
        "?live=2",
        "?colour=red",
        "640x480",
    ],
)
def test_pattern_options_that_make_no_sense(query: str) -> None:
    with pytest.raises(UsageError, match=r"write it as test://\?size=640x480&fps=30&frames=300&seed=0&live=0"):
        open_source(f"test://{query}")
