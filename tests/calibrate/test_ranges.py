"""ranges.json: what is written comes back the same, and what was not written by us is refused."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readings import reading

from edge_retina.calibrate.histogram import BINS, METHODS, Histogram, best_range
from edge_retina.calibrate.ranges import Binding, Ranges
from edge_retina.calibrate.statistics import Accumulator, TensorStatistics
from edge_retina.errors import InputError

BOUND = Binding("m" * 64, "p" * 64, "c" * 64, 3)


def statistics(seed: int = 0, channels: int = 3, gain: float = 1.0) -> TensorStatistics:
    values = np.random.default_rng(seed).standard_normal((1, channels, 4, 5)) * gain
    found = Accumulator()
    found.add("t", reading(values))
    return found.result()


def some(**tensors: TensorStatistics) -> Ranges:
    factors = {"s": np.float32([0.5, 1.0, 0.25])}
    return Ranges(BOUND, factors, tensors or {"t": statistics()}, ("few pictures",))


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def floats(*values: float) -> str:
    return packed(np.array(values, "<f4").tobytes())


def counts(values: Any) -> str:
    return packed(zlib.compress(np.asarray(values, "<i8").tobytes()))


def test_nothing_in_it():
    empty = Ranges(BOUND, {}, {})
    found = Ranges.from_json(empty.to_json({}))
    assert (found.binding, found.factors, found.statistics, found.warnings) == (BOUND, {}, {}, ())
    assert found.maxima() == {}


def test_there_and_back_again():
    before = some(t=statistics(0), u=statistics(1, channels=7, gain=1e-30), v=statistics(2, gain=1e30))
    after = Ranges.from_json(before.to_json({"t": 1.5}))
    assert after.binding == before.binding
    assert after.warnings == before.warnings
    np.testing.assert_array_equal(after.factors["s"], before.factors["s"])
    assert after.maxima() == before.maxima()
    for name, wanted in before.statistics.items():
        found = after.statistics[name]
        assert found.maximum == wanted.maximum
        np.testing.assert_array_equal(found.histogram.counts, wanted.histogram.counts)
        for key in ("mean", "energy", "peak"):
            # Through float32, which a peak is already; what that cannot hold becomes its largest number.
            rounded = np.float32(np.minimum(getattr(wanted, key), np.finfo(np.float32).max))
            np.testing.assert_array_equal(getattr(found, key), rounded)
        assert all(best_range(found.histogram, m) == best_range(wanted.histogram, m) for m in METHODS)
    # Once through the file, the file stays as it is.
    assert Ranges.from_json(after.to_json({"t": 1.5})).to_json({"t": 1.5}) == before.to_json({"t": 1.5})


def test_what_a_reader_finds_in_it():
    data = json.loads(some().to_json({"t": 1.5}))
    assert data["format"] == 1
    assert data["binding"] == {"model": "m" * 64, "preprocessing": "p" * 64, "pictures": "c" * 64, "count": 3}
    assert data["tensors"]["t"]["range"] == 1.5
    assert data["tensors"]["t"]["maximum"] == statistics().maximum
    assert data["warnings"] == ["few pictures"]


def test_a_tensor_of_zeros():
    zero = Accumulator()
    zero.add("t", reading(np.zeros((1, 2, 3, 3))))
    found = Ranges.from_json(some(t=zero.result()).to_json({})).statistics["t"]
    assert found.maximum == 0
    assert found.histogram.counts.sum() == found.histogram.counts[0] == 18


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, ""),
        ({"model": "x"}, "model"),
        ({"preprocessing": "x"}, "preprocessing"),
        ({"pictures": "x"}, "pictures"),
        ({"count": 4}, "count"),
        ({"model": "x", "pictures": "x", "count": 4}, "model, pictures, count"),
        ({"pictures": None}, "pictures of a camera, which do not come back"),
    ],
)
def test_what_differs(change, differs):
    other = Binding(**{**BOUND.__dict__, **change})
    assert BOUND.differs(other) == differs
    assert other.differs(BOUND) == differs


def test_pictures_of_a_camera_differ_from_themselves():
    camera = Binding("m", "p", None, 3)
    assert camera.differs(camera).startswith("pictures of a camera")


# What was not written by us


def spoilt(change: Callable[[dict[str, Any]], Any]) -> bytes:
    data = json.loads(some().to_json({}))
    change(data)
    return json.dumps(data).encode()


def tensor(**values: Any) -> bytes:
    return spoilt(lambda data: data["tensors"]["t"].update(values))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b'"ranges"',
        b"{}",
        b"\xff\xfe",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"format": 1}',
        spoilt(lambda data: data.pop("binding")),
        spoilt(lambda data: data.update(binding=None)),
        spoilt(lambda data: data.update(binding={"model": "x"})),
        spoilt(lambda data: data["binding"].update(more=1)),
        spoilt(lambda data: data.update(factors=[])),
        spoilt(lambda data: data.update(factors={"s": 7})),
        spoilt(lambda data: data.update(factors={"s": "?"})),
        spoilt(lambda data: data.update(factors={"s": ""})),
        spoilt(lambda data: data.update(factors={"s": packed(b"odd")})),
        spoilt(lambda data: data.update(factors={"s": floats(1, 0)})),
        spoilt(lambda data: data.update(factors={"s": floats(1, -2)})),
        spoilt(lambda data: data.update(factors={"s": floats(1, np.nan)})),
        spoilt(lambda data: data.update(factors={"s": floats(np.inf)})),
        spoilt(lambda data: data.update(tensors=None)),
        spoilt(lambda data: data.update(tensors={"t": None})),
        spoilt(lambda data: data.update(tensors={"t": "text"})),
        spoilt(lambda data: data.update(warnings=None)),
        spoilt(lambda data: data.pop("warnings")),
        tensor(maximum=None),
        tensor(maximum="a lot"),
        tensor(maximum=-1),
        tensor(maximum=float("nan")),
        tensor(maximum=float("inf")),
        tensor(maximum=1e39),
        tensor(maximum=5e-324),
        tensor(maximum=10**400),
        tensor(histogram=None),
        tensor(histogram=""),
        tensor(histogram="é"),
        tensor(histogram=packed(b"not deflated")),
        tensor(histogram=counts([])),
        tensor(histogram=counts(np.ones(BINS - 1))),
        tensor(histogram=counts(np.ones(BINS + 1))),
        tensor(histogram=counts(np.zeros(BINS))),
        tensor(histogram=counts(np.full(BINS, -1))),
        tensor(histogram=counts(np.full(BINS, 2**62))),
        tensor(histogram=packed(zlib.compress(np.ones(BINS, "<i8").tobytes())[:-2])),
        tensor(mean=floats()),
        tensor(mean=floats(1, 2)),
        tensor(energy=floats(1, 2, np.nan)),
        tensor(energy=floats(1, 2, -1)),
        tensor(peak=floats(1, 2, -1)),
        tensor(peak=floats(1, 2, np.inf)),
        tensor(peak=packed(b"12345")),
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(InputError, match=r"^that\.json: wanted calibrated ranges, found .*; calibrate anew$"):
        Ranges.from_json(text, "that.json")


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_another_format(number):
    with pytest.raises(InputError, match=re.escape(f"has format {number}, wanted 1; calibrate anew")):
        Ranges.from_json(spoilt(lambda data: data.update(format=number)))


def test_a_bomb_does_not_go_off(monkeypatch):
    """64 MB of zeros deflate to 64 KB; no more of it is inflated than a histogram has."""
    deflate = zlib.compressobj(9)
    bomb = b"".join([*(deflate.compress(bytes(1 << 24)) for _ in range(4)), deflate.flush()])
    inflated = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self) -> None:
            self.real = real()

        def decompress(self, data: bytes, most: int) -> bytes:
            inflated.append(len(found := self.real.decompress(data, most)))
            return found

        @property
        def eof(self) -> bool:
            return self.real.eof

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(InputError, match="wanted calibrated ranges"):
        Ranges.from_json(tensor(histogram=packed(bomb)))
    assert inflated == [8 * BINS + 1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PLACES = [
    *(("tensors", "t", key) for key in ("histogram", "maximum", "mean", "energy", "peak", "range")),
    *((key,) for key in ("binding", "factors", "tensors", "warnings", "format")),
    ("binding", "count"),
    ("factors", "s"),
    ("tensors", "t"),
]


@given(st.sampled_from(PLACES), JSON)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_in_any_place_is_read_or_refused(place, value):
    data = json.loads(some().to_json({}))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        found = Ranges.from_json(json.dumps(data).encode())
    except InputError:
        return
    for each in found.statistics.values():
        assert all(0 <= best_range(each.histogram, method) <= each.maximum for method in METHODS)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_read_or_refused(text):
    with pytest.raises(InputError):
        Ranges.from_json(text)


@given(st.integers(0, 2**40), st.floats(2.0**-149, 2.0**127, width=32), st.integers(0, BINS - 1))
@settings(max_examples=50, deadline=None)
def test_whatever_is_accepted_has_a_range(count, maximum, bin_):
    """Counts in any bin, even beyond the maximum: no division by zero, no overflow, also with another of its kind."""
    values = np.zeros(BINS, np.int64)
    values[bin_] = count
    if not count:
        return
    text = tensor(maximum=maximum, histogram=counts(np.minimum(values, 2**40)))
    histogram = Ranges.from_json(text).statistics["t"].histogram
    both = histogram.merge(Histogram(histogram.counts.copy(), 1.0))
    assert (both.counts >= 0).all()
    for each in (histogram, both):
        assert all(np.isfinite(best_range(each, method)) for method in METHODS)
