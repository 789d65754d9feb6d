"""The gate: what is too much, at the limit itself and where nothing was measured."""

from __future__ import annotations

import pytest

from edge_retina.accuracy import Accuracy
from edge_retina.errors import InputError
from edge_retina.gate import NOTHING_FOUND, lost, too_much
from edge_retina.proof import Measured

NOTHING = Measured(None, ())


def measured(ap: float) -> Measured:
    return Measured(Accuracy(ap, 0.9, 0.8, -1.0, 0.7, 0.6, 0.1, 0.2, 0.75, {}, 12, 34), ())


@pytest.mark.parametrize(("before", "after"), [(NOTHING, NOTHING), (NOTHING, measured(0.5)), (measured(0.5), NOTHING)])
def test_nothing_measured(before, after):
    notes = []
    assert not too_much(before, after, None, notes.append)
    assert notes == [NOTHING_FOUND]
    for limit in (0.0, 1.0):
        with pytest.raises(InputError, match=r"finds nothing in the calibration pictures; .* --eval ann\.json"):
            too_much(before, after, limit, pytest.fail)


@pytest.mark.parametrize(
    ("before", "after", "limit", "wanted"),
    [
        (0.5, 0.5, 0.0, False),
        (0.5, 0.75, 0.0, False),
        (0.75, 0.5, 0.25, False),
        (0.75, 0.5, 0.2499, True),
        (0.75, 0.0, 0.5, True),
        (0.75, 0.0, 0.7499, True),
        (0.75, 0.0, None, False),
        (0.0, 0.0, None, False),
    ],
)
def test_how_much_is_too_much(before, after, limit, wanted):
    assert too_much(measured(before), measured(after), limit, pytest.fail) is wanted


@pytest.mark.parametrize("before", [0.0, -1.0])
def test_no_accuracy_to_lose(before):
    """0, and the -1 of annotations without objects."""
    with pytest.raises(InputError, match=r"only AP 0\.0000, not more .* drop of 0\.005, .* run: edge-retina inspect"):
        too_much(measured(before), measured(before), 0.005, pytest.fail)


@pytest.mark.parametrize("before", [0.004, 0.005])
def test_a_gate_that_could_not_fail(before):
    with pytest.raises(InputError, match=rf"FP32 itself reaches only AP {before:.4f}, .* are these its labels\?"):
        too_much(measured(before), measured(0.0), 0.005, pytest.fail)
    assert too_much(measured(0.0051), measured(0.0), 0.005, pytest.fail)
    assert not too_much(measured(before), measured(0.0), None, pytest.fail)


def test_a_limit_that_allows_everything():
    """FP32 agrees with itself to 1, so this is no fault of its labels."""
    with pytest.raises(InputError, match="an allowed drop of 1 lets everything pass; allow less"):
        too_much(measured(1.0), measured(0.0), 1.0, pytest.fail)


def test_in_words():
    assert lost("INT8", measured(0.75), measured(0.5), 0.005) == (
        "INT8 costs 0.2500 AP (0.7500 -> 0.5000), allowed are 0.005"
    )
    assert lost("INT8", measured(1.0), measured(0.9964), 0.002, agreement=True) == (
        "INT8 agrees with FP32 to 0.9964 only, 0.0036 less than in full; allowed are 0.002"
    )
