import numpy as np
import pytest
from matching import match

BOX, OTHER = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
NONE = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))


def rows(*items):
    """(box, score, label) tuples as three lists."""
    return tuple(map(list, zip(*items, strict=True)))


def test_nothing_matches_nothing():
    report = match(NONE, NONE)
    assert report.ok
    assert (report.matched, report.ignored, report.worst_px) == (0, 0, 0.0)


@pytest.mark.parametrize("swap", [False, True])
def test_one_against_nothing_is_not_ok(swap):
    one = rows((BOX, 0.9, 1))
    report = match(NONE, one) if swap else match(one, NONE)
    assert not report.ok
    assert (report.missing, report.extra) == (((0,), ()) if swap else ((), (0,)))


def test_order_does_not_matter():
    a, b = (BOX, 0.9, 1), (OTHER, 0.9, 2)
    assert match(rows(a, b), rows(b, a)).matched == 2


@pytest.mark.parametrize(
    ("box", "score", "label", "ok"),
    [
        ([0.05, 0, 10, 10], 0.9, 1, True),
        ([0.15, 0, 10, 10], 0.9, 1, False),  # too far
        (BOX, 0.90005, 1, True),
        (BOX, 0.9002, 1, False),  # another score
        (BOX, 0.9, 2, False),  # another label
    ],
)
def test_tolerances(box, score, label, ok):
    report = match(rows((box, score, label)), rows((BOX, 0.9, 1)))
    assert report.ok is ok
    assert ("missing" in report.details) is not ok


def test_zero_area_boxes_match_themselves():
    flat = [5.0, 7.0, 5.0, 9.0]
    assert match(rows((flat, 0.5, 0)), rows((flat, 0.5, 0))).matched == 1


def test_a_row_is_used_once():
    report = match(rows((BOX, 0.9, 1), (BOX, 0.9, 1)), rows((BOX, 0.9, 1)))
    assert (report.matched, report.extra) == (1, (1,))


def test_the_closest_pair_goes_first():
    left, middle, right = ([x, 0.0, 10.0, 10.0] for x in (0.0, 0.06, 0.13))
    report = match(rows((middle, 0.9, 1), (left, 0.9, 1)), rows((left, 0.9, 1), (right, 0.9, 1)))
    assert report.matched == 2
    assert report.worst_px == pytest.approx(0.07)


def test_rows_at_the_threshold_may_be_on_one_side_only():
    report = match(rows((BOX, 0.9, 1), (OTHER, 0.05005, 1)), rows((BOX, 0.9, 1)), threshold=0.05)
    assert report.ok
    assert report.ignored == 1


def test_rows_at_the_limit_may_differ():
    found, wanted = rows((BOX, 0.9, 1), (OTHER, 0.4, 1)), rows((BOX, 0.9, 1), ([0, 0, 3, 3], 0.40003, 1))
    assert not match(found, wanted).ok
    assert match(found, wanted, limit=2).ok
    # Two of three possible rows: nothing was cut off.
    assert not match(found, wanted, limit=3).ok


def test_the_worst_pair_by_overlap():
    flat = [5.0, 7.0, 5.0, 9.0]
    assert match(rows((flat, 0.5, 0)), rows((flat, 0.5, 0))).worst_iou == 1.0  # a box without area overlaps nothing
    # 10 x 10 against 10 x 9.95: 99.5 / 100.
    found = rows((flat, 0.5, 0), (BOX, 0.9, 1), ([0.0, 0.0, 10.0, 9.95], 0.9, 2))
    wanted = rows((flat, 0.5, 0), (BOX, 0.9, 1), ([0.0, 0.0, 10.0, 10.0], 0.9, 2))
    assert match(found, wanted).worst_iou == pytest.approx(0.995)


def test_rows_far_below_a_threshold_or_beyond_a_limit_are_missed():
    """What a wrong threshold or limit leaves out is not "at the cut-off"."""
    wanted = rows((BOX, 0.9, 1), (OTHER, 0.4, 1), ([0, 0, 3, 3], 0.3, 1))
    only = rows((BOX, 0.9, 1))
    assert match(only, wanted, threshold=0.9).missing == (1, 2)
    assert match(only, wanted, limit=1).missing == (1, 2)
    assert match(wanted, only, limit=1).extra == (1, 2)


def test_only_when_both_sides_are_full_does_the_limit_explain_anything():
    found, wanted = rows((BOX, 0.9, 1), (OTHER, 0.4, 1)), rows((BOX, 0.9, 1))
    assert match(found, wanted, limit=2).extra == (1,)
