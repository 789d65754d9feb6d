"""Statistics of a tensor, gathered frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
from readings import reading

from edge_retina.calibrate.probes import Reading
from edge_retina.calibrate.statistics import Accumulator
from edge_retina.errors import ModelError


def gathered(*frames: np.ndarray) -> Accumulator:
    made = Accumulator()
    for frame in frames:
        made.add("t", reading(frame))
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


def test_an_extreme_outside_the_sample_counts():
    made = Accumulator()
    rows = np.ones((2, 3), np.float32)
    for peak in (1.0, 9.0):
        made.add("t", Reading(np.array([1.0, peak]), np.array([1.0, 0.5]), rows))
    found = made.result()
    assert found.maximum == 9.0
    assert found.peak.tolist() == [1.0, 9.0]
    assert found.mean.tolist() == [1.0, 0.5]
    assert found.histogram.counts.sum() == 12


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
        made.add("backbone/relu", reading(bad))


def test_a_mean_tells_of_nan_where_the_extremes_passed_over_it():
    one = np.ones(1, np.float32)
    with pytest.raises(ModelError, match="frame 0"):
        Accumulator().add("t", Reading(one, one * np.nan, one[:, None]))


def test_the_largest_float32_overflows_nothing():
    found = gathered(np.full((1, 1, 4, 4), 3.4028235e38)).result()
    assert found.mean[0] == pytest.approx(3.4028235e38)
    assert found.energy[0] == pytest.approx(3.4028235e38**2)
