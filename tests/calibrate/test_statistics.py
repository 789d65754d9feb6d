"""Statistics of a tensor, gathered frame by frame."""

from __future__ import annotations

import numpy as np
import pytest

from edge_retina.calibrate.statistics import SAMPLE, Accumulator
from edge_retina.errors import ModelError


def gathered(*frames: np.ndarray) -> Accumulator:
    made = Accumulator()
    for frame in frames:
        made.add("t", frame.astype(np.float32))
    return made


def test_zeros():
    found = gathered(np.zeros((1, 3, 2, 2))).result()
    assert found.maximum == 0.0
    assert found.histogram.counts.sum() == 12
    for per_channel in (found.mean, found.energy, found.peak):
        assert per_channel.tolist() == [0, 0, 0]
        assert per_channel.dtype == np.float64


def test_two_frames_by_hand():
    first = np.array([[1.0, -3.0], [0.5, 0.5]]).reshape(1, 2, 1, 2)
    second = np.array([[2.0, 0.0], [0.0, -1.5]]).reshape(1, 2, 1, 2)
    found = gathered(first, second).result()
    assert found.maximum == 3.0
    assert found.mean.tolist() == [0.0, -0.125]  # (-1 + 1) / 2, (0.5 - 0.75) / 2
    assert found.energy.tolist() == [3.5, 0.6875]  # (5 + 2) / 2, (0.25 + 1.125) / 2
    assert found.peak.tolist() == [3.0, 1.5]
    assert found.histogram.counts.sum() == 8


def test_frames_of_different_sizes_count_alike():
    """One pixel of 4 and four of 1: the mean of both frames' means."""
    found = gathered(np.full((1, 1, 1, 1), 4.0), np.ones((1, 1, 2, 2))).result()
    assert found.mean.tolist() == [2.5]
    assert found.energy.tolist() == [8.5]


def test_a_small_tensor_is_seen_whole():
    values = np.random.default_rng(0).standard_normal((1, 16, 64, 64)).astype(np.float32)
    assert values.size == SAMPLE
    found = gathered(values).result()
    assert found.histogram.counts.sum() == values.size
    np.testing.assert_allclose(found.mean, values.mean((0, 2, 3), dtype=np.float64), atol=1e-9)
    np.testing.assert_allclose(found.energy, np.square(values).mean((0, 2, 3), dtype=np.float64), rtol=1e-6)
    np.testing.assert_array_equal(found.peak, np.abs(values).max((0, 2, 3)))


def test_of_a_large_tensor_only_a_sample_but_every_maximum():
    values = np.random.default_rng(0).standard_normal((1, 8, 256, 256)).astype(np.float32)
    values[0, 5, 17, 33] = -99.0
    found = gathered(*[values] * 10).result()
    assert found.maximum == 99.0
    assert found.peak[5] == 99.0
    assert found.histogram.counts.sum() <= 10 * SAMPLE
    assert found.histogram.counts.sum() > 5 * SAMPLE
    # Some 80,000 values of the channel: their mean is within six standard deviations of 1 / 280.
    assert np.abs(found.mean[:5]).max() < 0.02
    np.testing.assert_allclose(found.energy[:5], 1.0, atol=0.03)


@pytest.mark.parametrize("side", [32, 63, 64, 65, 80, 160])
@pytest.mark.parametrize("frames", [1, 4])
def test_a_sample_shows_all_rows_and_columns_of_a_frame(side, frames):
    """Values that grow from left to right or from top to bottom: their mean is that of a frame."""
    ramp = np.broadcast_to(np.linspace(0, 1, side), (1, 256, side, side))
    for values in (ramp, ramp.transpose(0, 1, 3, 2)):
        assert gathered(*[values] * frames).result().mean[0] == pytest.approx(0.5, abs=0.01)


def test_what_lies_on_a_diagonal_counts_as_much_as_the_rest():
    """Sampling every k-th position of 65 * 65, k = 66 or 64, would see nothing else, or nothing of it."""
    stripes = np.broadcast_to(np.eye(65) * 65, (1, 256, 65, 65))
    assert gathered(*[stripes] * 10).result().mean[0] == pytest.approx(1.0, abs=0.2)


def test_more_channels_than_a_sample_has_values():
    found = gathered(*[np.full((1, 3 * SAMPLE, 1, 1), 2.0)] * 3).result()
    assert (found.mean == 2.0).all()
    assert found.histogram.counts.sum() == 9 * SAMPLE


def test_the_same_frames_give_the_same():
    frames = [np.random.default_rng(i).standard_normal((1, 32, 96, 96)) for i in range(3)]
    first, second = gathered(*frames).result(), gathered(*frames).result()
    np.testing.assert_array_equal(first.histogram.counts, second.histogram.counts)
    np.testing.assert_array_equal(first.mean, second.mean)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_has_no_code_is_an_error(value):
    made = gathered(np.ones((1, 2, 2, 2)))
    bad = np.ones((1, 2, 2, 2), np.float32)
    bad[0, 1, 0, 1] = value
    with pytest.raises(ModelError, match="'backbone/relu' is NaN or infinite on calibration frame 1"):
        made.add("backbone/relu", bad)


def test_the_largest_float32_overflows_nothing():
    found = gathered(np.full((1, 1, 4, 4), 3.4028235e38)).result()
    assert found.mean[0] == pytest.approx(3.4028235e38)
    assert found.energy[0] == pytest.approx(3.4028235e38**2)
