"""Lines and zones: worked out by hand on paper with squares; y points down."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_retina.errors import UsageError
from edge_retina.zones import Line, LineWatch, Zone, ZoneWatch, distance_to_edge, is_inside, side_of

# From left to right at y = 10; "in" is downwards.
LEVEL = Line("gate", (0, 10), (100, 10))
SQUARE = ((10, 10), (30, 10), (30, 30), (10, 30))
# An L: the square 0..20 without its upper right quarter.
L_SHAPE = ((0, 0), (10, 0), (10, 10), (20, 10), (20, 20), (0, 20))


def crossings(line: Line, points, margin: float = 2.0) -> list[str]:
    watch = LineWatch(line, margin)
    return [change.what for point in points if (change := watch.move(1, point))]


def test_no_point_no_crossing():
    assert crossings(LEVEL, []) == []
    watch = LineWatch(LEVEL, 2)
    watch.forget(1)


@pytest.mark.parametrize(
    ("line", "point", "distance"),
    [
        (LEVEL, (50, 13), 3),
        (LEVEL, (50, 4), -6),
        (LEVEL, (500, 10), 0),
        (Line("down", (5, 0), (5, 9)), (2, 4), 3),  # drawn downwards, its right is the picture's left
        (Line("back", (9, 10), (0, 10)), (3, 12), -2),
        (Line("slope", (0, 0), (30, 40)), (-4, 3), 5),  # 3-4-5: the normal is (-4, 3) / 5
    ],
)
def test_side_of(line, point, distance):
    assert side_of(line, point) == pytest.approx(distance)


@pytest.mark.parametrize(
    ("ys", "found"),
    [
        ([0, 20], ["in"]),
        ([20, 0], ["out"]),
        ([0, 5, 9, 11, 15], ["in"]),
        ([0, 20, 0, 20], ["in", "out", "in"]),
        ([0, 11.9], []),  # not yet further than the margin
        ([0, 12], []),  # not further, just as far
        ([0, 12.1], ["in"]),
        ([0, 11, 9, 11, 9, 11, 13], ["in"]),  # trembles on the line
        ([0, 11, 9, 11, 9, 5], []),  # and goes back
        ([0, 13, 9, 11, 9, 13], ["in"]),  # over it, then trembles
        ([9, 11, 9, 13], []),  # from nowhere: first sure of below
        ([11, 13, 5], ["out"]),
        ([0, 10, 20], ["in"]),  # exactly on it once
        ([20, 10, 0], ["out"]),
        ([0, 10, 0], []),
        ([0, 10, 10, 10, 12.5], ["in"]),
    ],
)
def test_over_a_level_line(ys, found):
    assert crossings(LEVEL, [(50, y) for y in ys]) == found


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ([(150, 0), (150, 20)], []),  # past the end
        ([(110, 0), (90, 20)], ["in"]),  # meets the line at (100, 10), its very end
        ([(112, 0), (90, 20)], []),  # at (101, 10)
        ([(50, 0), (150, 0), (150, 20), (50, 20)], []),  # round the end
        ([(50, 0), (150, 0), (150, 20), (50, 20), (50, 0)], ["out"]),  # round it and back through
        ([(50, 0), (50, 11), (150, 11), (150, 20)], ["in"]),  # through the gate, along it in the margin, away
        ([(50, 0), (150, 9), (150, 11), (50, 20)], []),  # met the straight line outside the gate
        ([(-20, 0), (50, 20)], ["in"]),
    ],
)
def test_only_between_its_ends(points, found):
    assert crossings(LEVEL, points) == found


def test_tracks_do_not_mix_and_forgotten_ones_begin_anew():
    watch = LineWatch(LEVEL, 2)
    assert watch.move(1, (50, 0)) is None
    assert watch.move(2, (50, 20)) is None
    change = watch.move(2, (50, 0))
    assert (change.name, change.track_id, change.what) == ("gate", 2, "out")
    watch.forget(1)
    assert watch.move(1, (50, 20)) is None


@given(st.lists(st.floats(-1.9, 1.9), max_size=30), st.booleans())
def test_jitter_within_the_margin_is_one_crossing_whatever_it_does(offsets, returns):
    ys = [0, *(10 + offset for offset in offsets), 0 if returns else 20]
    assert crossings(LEVEL, [(50, y) for y in ys]) == ([] if returns else ["in"])


@given(st.lists(st.tuples(st.floats(-50, 150), st.floats(-20, 40)), max_size=40), st.floats(0, 6.25))
def test_turned_and_moved_it_counts_the_same(points, angle):
    cos, sin = math.cos(angle), math.sin(angle)

    def turn(point):
        return (cos * point[0] - sin * point[1] + 7, sin * point[0] + cos * point[1] - 3)

    # Off the knife's edge, where rounding would decide.
    points = [(x, y) for x, y in points if min(abs(y - 10), abs(y - 8), abs(y - 12), abs(x), abs(x - 100)) > 1e-6]
    turned = Line("gate", turn(LEVEL.start), turn(LEVEL.end))
    steps = itertools.pairwise(points)
    meets = [a[0] + (10 - a[1]) * (b[0] - a[0]) / (b[1] - a[1]) for a, b in steps if (a[1] < 10) != (b[1] < 10)]
    if all(min(abs(x), abs(x - 100)) > 1e-6 for x in meets):
        assert crossings(turned, [turn(point) for point in points]) == crossings(LEVEL, points)


@given(st.lists(st.tuples(st.floats(-50, 150), st.floats(-20, 40)), max_size=40))
def test_every_way_in_has_a_way_out_between(points):
    found = crossings(Line("whole", (-1000, 10), (1000, 10)), points)
    assert all(a != b for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("end", [(0, 10), (math.nan, 1), (math.inf, 1)])
def test_a_line_needs_length(end):
    with pytest.raises(UsageError, match="two different points"):
        Line("gate", (0, 10), end)


# ---- zones


@pytest.mark.parametrize(
    ("points", "point", "inside", "distance"),
    [
        (SQUARE, (20, 20), True, 10),
        (SQUARE, (11, 29), True, 1),
        (SQUARE, (9, 20), False, 1),
        (SQUARE, (20, 5), False, 5),
        (SQUARE, (7, 6), False, 5),  # from the corner: 3-4-5
        (SQUARE, (7, 10), False, 3),  # level with a corner
        (SQUARE[::-1], (20, 20), True, 10),  # drawn the other way round
        (L_SHAPE, (15, 5), False, 5),  # in the notch
        (L_SHAPE, (5, 5), True, 5),
        (L_SHAPE, (15, 15), True, 5),
        (L_SHAPE, (9, 11), True, math.sqrt(2)),  # by the inner corner
    ],
)
def test_inside_and_how_far_from_the_edge(points, point, inside, distance):
    assert is_inside(points, point) is inside
    assert distance_to_edge(points, point) == pytest.approx(distance)


def moves(points, margin: float = 2.0) -> list[str]:
    watch = ZoneWatch(Zone("yard", SQUARE), margin)
    changes = [watch.move(1, point, first=index == 0) for index, point in enumerate(points)]
    return [change.what for change in changes if change]


@pytest.mark.parametrize(
    ("xs", "found"),
    [
        ([], []),
        ([0, 20, 50], ["enter", "leave"]),
        ([20], ["enter"]),  # born inside
        ([10.5], ["enter"]),
        ([9.5, 10.5, 11.9], []),  # inside, but not further than the margin
        ([9.5, 12.1], ["enter"]),
        ([20, 9, 8.1], ["enter"]),
        ([20, 7.9], ["enter", "leave"]),
        ([0, 12.5, 9, 11, 9, 11, 9, 11], ["enter"]),  # trembles on the edge
        ([0, 50], []),  # through it between two frames: never seen inside
    ],
)
def test_in_and_out_of_a_zone(xs, found):
    assert moves([(x, 20) for x in xs]) == found


def test_a_track_that_is_gone_leaves():
    watch = ZoneWatch(Zone("yard", SQUARE), 2)
    assert watch.forget(1) is None
    watch.move(1, (20, 20))
    assert watch.inside == {1}
    assert watch.forget(1).what == "leave"
    assert watch.inside == set()


def test_a_narrow_zone_still_has_an_inside():
    watch = ZoneWatch(Zone("slot", ((0, 0), (100, 0), (100, 4), (0, 4))), 8)
    assert watch.margin == pytest.approx(0.4)
    assert watch.move(1, (50, 2)).what == "enter"


@given(st.lists(st.floats(-1.9, 1.9), max_size=30))
def test_jitter_on_an_edge_is_one_entry(offsets):
    assert moves([(0, 20), (13, 20), *((10 + offset, 20) for offset in offsets)]) == ["enter"]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), "found 0"),
        (((0, 0), (1, 1)), "found 2"),
        (((0, 0), (1, 1), (math.nan, 0)), "found 3"),
        (((0, 0), (1, 1), (2, 2)), "without an area"),
        (((0, 0), (0, 0), (0, 0)), "without an area"),
        (((0, 0), (10, 10), (10, 0), (0, 10)), "sides that cross|without an area"),
        (((0, 0), (20, 20), (20, 0), (5, 20)), "sides that cross"),
        (((0, 0), (10, 0), (10, 10), (5, 0), (0, 10)), "sides that cross"),  # a corner on another side
    ],
)
def test_a_zone_needs_corners_in_order(points, message):
    with pytest.raises(UsageError, match=message):
        Zone("yard", points)
