"""Weights as INT8 codes and scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_retina.weights import LEAST_SCALE, LEVELS, bias_shift, half_scale, quantize_weight

RNG = np.random.default_rng(0)


def conv(rows: Any) -> np.ndarray:
    """(O, I, 1, 1) of O lists of I."""
    return np.asarray(rows, np.float32)[:, :, None, None]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, 1.0),
        (0.1, 1638 / 2**14),  # between 2^-4 and 2^-3 float16 steps by 2^-14
        (0.0, 2.0**-14),
        (1e-9, 2.0**-14),
        (2.0**-14, 2.0**-14),
        (2.0**-14 * (1 + 2**-10), 2.0**-14 * (1 + 2**-10)),
        (1e9, 65504.0),
    ],
)
def test_half_scales_by_hand(scale, expected):
    found = half_scale(scale)
    assert found.dtype == np.float32
    assert float(found) == expected


@given(st.floats(0, 1e6))
def test_half_scales_are_exact_in_float16_and_normal(scale):
    found = half_scale(np.array([scale]))
    assert found.astype(np.float16).astype(np.float32) == found
    assert found >= LEAST_SCALE
    if LEAST_SCALE <= scale <= 65504:
        assert abs(float(found[0]) - scale) <= scale * 2**-11


def test_codes_by_hand():
    """Two channels with a scale of their own: 127 codes to 127 and to 31.75, steps of 1 and 0.25."""
    found = quantize_weight(conv([[127, -63.4, 0.6], [-31.75, 0.12, 0.13]]), search=False)
    assert found.scales.tolist() == [1.0, 0.25]
    assert found.codes[:, :, 0, 0].tolist() == [[127, -63, 1], [-127, 0, 1]]
    assert found.codes.dtype == np.int8
    assert found.codes.shape == (2, 3, 1, 1)
    assert found.scales.dtype == np.float32
    assert found.dequantized()[:, :, 0, 0].tolist() == [[127, -63, 1], [-31.75, 0, 0.25]]


def test_codes_are_those_of_the_rounded_scale():
    """1 / 127 is no float16: the scale is the next one, and the codes belong to it."""
    found = quantize_weight(conv([[1.0, 0.5]]), search=False)
    assert found.scales[0] == np.float32(np.float16(1 / 127))
    assert found.scales[0] != np.float32(1 / 127)
    assert found.codes.ravel().tolist() == [127, round(0.5 / float(np.float16(1 / 127)))]


def test_a_channel_of_zeros_and_one_below_the_least_scale():
    """63 * 2^-14 wants a scale below 2^-14 and gets 2^-14: 63 codes are left of 127. 2^-16 rounds to nothing."""
    found = quantize_weight(conv([[0, 0], [63 * 2.0**-14, 2.0**-14], [2.0**-16, 0]]))
    assert found.scales.tolist() == [LEAST_SCALE] * 3
    assert found.codes[:, :, 0, 0].tolist() == [[0, 0], [63, 1], [0, 0]]


def test_63_levels():
    found = quantize_weight(conv([[63.0, -63.0, 1.4]]), search=False, levels=63)
    assert found.scales.tolist() == [1.0]
    assert found.codes.ravel().tolist() == [63, -63, 1]
    weight = RNG.standard_normal((8, 16, 3, 3)).astype(np.float32)
    assert np.abs(quantize_weight(weight, levels=63).codes).max() == 63


def test_the_search_clips_one_outlier_of_many():
    """Seven codes for 1,000 weights of 0.4 and one of 1.

    In steps of 1/7 the 0.4 become 3/7: errors of 1000 * 0.0286^2 = 0.82. In steps of 0.93/7 they become 0.3986, which
    is 0.002, and the outlier 0.93, which is 0.0049.
    """
    weight = conv([[1.0, *[0.4] * 1000]])
    searched, plain = (quantize_weight(weight, search=search, levels=7) for search in (True, False))
    errors = [float(np.square(q.dequantized() - weight).sum()) for q in (plain, searched)]
    assert errors == pytest.approx([0.8163, 0.0069], rel=0.1)
    assert float(searched.scales[0]) == pytest.approx(0.93 / 7, rel=1e-3)


def test_the_search_minds_what_channels_carry():
    """The same, but nothing ever comes through the 0.4: the outlier is not clipped."""
    weight = conv([[1.0, *[0.4] * 1000]])
    found = quantize_weight(weight, energy=np.array([1.0, *[0.0] * 1000]), levels=7)
    assert float(found.dequantized()[0, 0, 0, 0]) == pytest.approx(1.0, abs=1e-3)


weights = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    elements=st.floats(-100, 100, width=32),
)


@settings(deadline=None)
@given(weights, st.sampled_from([LEVELS, 63]), st.integers(0, 2**32 - 1))
def test_the_search_is_never_worse_than_the_scale_that_clips_nothing(weight, levels, seed):
    energy = np.random.default_rng(seed).exponential(1, weight.shape[1])
    cost = energy[None, :, None, None]
    found = quantize_weight(weight, energy=energy, levels=levels)
    plain = quantize_weight(weight, search=False, levels=levels)
    errors = [
        (np.square(weight.astype(np.float64) - q.dequantized()) * cost).reshape(len(weight), -1).sum(1)
        for q in (found, plain)
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-6) + 1e-9).all()
    assert np.abs(found.codes.astype(int)).max(initial=0) <= levels
    np.testing.assert_array_equal(found.scales, half_scale(found.scales))


@settings(deadline=None)
@given(weights)
def test_nothing_but_half_a_step_is_lost_without_search(weight):
    found = quantize_weight(weight, search=False)
    # The scale may be rounded down by 2^-11, and then 127 codes end that much below the largest weight.
    allowed = found.scales * 0.5 + np.abs(weight).reshape(len(weight), -1).max(1) * 2**-11
    assert (np.abs(found.dequantized() - weight).reshape(len(weight), -1).max(1) <= allowed * (1 + 1e-5)).all()


def test_channels_do_not_see_each_other():
    weight = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
    whole = quantize_weight(weight)
    for channel in range(6):
        alone = quantize_weight(weight[channel : channel + 1])
        np.testing.assert_array_equal(alone.codes[0], whole.codes[channel])
        assert alone.scales[0] == whole.scales[channel]


def test_a_depthwise_weight():
    weight = RNG.standard_normal((8, 1, 3, 3)).astype(np.float32)
    found = quantize_weight(weight)
    np.testing.assert_allclose(found.dequantized(), weight, atol=0.03)


def test_no_shift_where_nothing_was_rounded():
    weight = conv([[127, 64], [-127, 1]])
    assert bias_shift(weight, quantize_weight(weight, search=False), np.array([3.0, 5.0])).tolist() == [0, 0]


def test_a_shift_by_hand():
    """Lost: 0.4 and -0.3 of the first channel, which see 10 and 2; 0.25 of the second, twice, which sees 10."""
    weight = np.float32([[[[127, 0.4]], [[0.7, 0]]], [[[127.25, 0.25]], [[0, 0]]]])
    found = quantize_weight(weight, search=False)
    found.scales[:] = 1.0
    shift = bias_shift(weight, found, np.array([10.0, 2.0]))
    assert shift.dtype == np.float32
    np.testing.assert_allclose(shift, [0.4 * 10 - 0.3 * 2, 0.25 * 10 * 2], rtol=1e-5)


def test_the_mean_of_a_constant_picture_comes_back():
    """A 3x3 convolution without padding over a constant picture: one output value, and it must be the float one."""
    weight = RNG.standard_normal((5, 7, 3, 3)).astype(np.float32)
    mean = RNG.exponential(1, 7)
    found = quantize_weight(weight, levels=7)
    exact = (weight.astype(np.float64) * mean[:, None, None]).sum((1, 2, 3))
    coded = (found.dequantized().astype(np.float64) * mean[:, None, None]).sum((1, 2, 3))
    assert np.abs(coded - exact).max() > 0.1
    np.testing.assert_allclose(coded + bias_shift(weight, found, mean), exact, atol=1e-5)
