"""Lines that tracked objects cross and zones they enter: plane geometry with hysteresis, for one camera.

A track counts as beyond a line, or as in or out of a zone, only when it is further than a margin from it; in between it
stays what it was. So what trembles on a line is counted once, when it has made up its mind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edge_retina.errors import UsageError

__all__ = ["Change", "Line", "LineWatch", "Point", "Zone", "ZoneWatch", "distance_to_edge", "is_inside", "side_of"]

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A line from `start` to `end`, pixels. "in" is from its left to its right, seen by one who walks along it.

    Drawn from left to right, "in" is downwards; drawn downwards, "in" is towards the left. Raises UsageError for a
    line without length.
    """

    name: str
    start: Point
    end: Point

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.start, *self.end))) or self.start == self.end:
            raise UsageError(f"line {self.name}: wanted two different points, found {self.start} and {self.end}")


@dataclass(frozen=True, slots=True)
class Zone:
    """A polygon, pixels, convex or not. Raises UsageError for fewer than 3 points, no area or sides that cross."""

    name: str
    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        points = self.points
        if len(points) < 3 or not all(map(math.isfinite, itertools.chain(*points))):
            raise UsageError(f"zone {self.name}: wanted 3 points or more, found {len(points)}")
        doubled = sum(ax * by - bx * ay for (ax, ay), (bx, by) in _sides(points))
        sides = list(_sides(points))
        crossing = any(
            _cross(*sides[i], *sides[j])
            for i in range(len(sides))
            for j in range(i + 2, len(sides))
            if (i, j) != (0, len(sides) - 1)  # neighbours share a corner
        )
        if doubled == 0 or crossing:
            what = "sides that cross" if crossing else "points without an area between them"
            raise UsageError(f"zone {self.name}: found {what}; give its corners in order, one side after the other")


@dataclass(frozen=True, slots=True)
class Change:
    """What one track did to one line or zone. what: "in" or "out" across a line, "enter" or "leave" of a zone."""

    name: str
    track_id: int
    what: Literal["in", "out", "enter", "leave"]


def side_of(line: Line, point: Point) -> float:
    """Pixels from the straight line through `line`: above 0 on its right, below 0 on its left."""
    (x1, y1), (x2, y2) = line.start, line.end
    return ((x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)) / math.hypot(x2 - x1, y2 - y1)


def is_inside(points: Sequence[Point], point: Point) -> bool:
    """True inside a polygon, by the number of sides that a ray to the right meets."""
    x, y = point
    inside = False
    for (ax, ay), (bx, by) in _sides(points):
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
    return inside


def distance_to_edge(points: Sequence[Point], point: Point) -> float:
    """Pixels to the nearest point of a polygon's outline."""
    return min(_distance(a, b, point) for a, b in _sides(points))


def _sides(points: Sequence[Point]) -> Iterable[tuple[Point, Point]]:
    return zip(points, [*points[1:], points[0]], strict=True)


def _distance(a: Point, b: Point, point: Point) -> float:
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = dx * dx + dy * dy
    along = 0.0 if length == 0 else ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / length
    along = min(1.0, max(0.0, along))
    return math.hypot(point[0] - a[0] - along * dx, point[1] - a[1] - along * dy)


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """True where the segments a-b and c-d meet."""

    def turn(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    c_side, d_side, a_side, b_side = turn(a, b, c), turn(a, b, d), turn(c, d, a), turn(c, d, b)
    if c_side * d_side < 0 and a_side * b_side < 0:
        return True
    touching = ((c_side, a, b, c), (d_side, a, b, d), (a_side, c, d, a), (b_side, c, d, b))
    return any(side == 0 and _distance(p, q, r) == 0 for side, p, q, r in touching)


@dataclass(slots=True)
class _Passage:
    """A track's way over a line: the side it is on for sure (0: none yet), where it is, whether it met the line."""

    side: int
    point: Point
    met: bool = False


@dataclass(slots=True)
class LineWatch:
    """Who goes over a line. margin: pixels to be beyond it."""

    line: Line
    margin: float
    _passages: dict[int, _Passage] = field(default_factory=dict)

    def move(self, track_id: int, point: Point) -> Change | None:
        """The crossing that ends with this track at this point, if one does.

        A track counts where its way over the straight line meets the part between the ends; past an end it goes round.
        """
        distance = side_of(self.line, point)
        sure = 0 if abs(distance) <= self.margin else (1 if distance > 0 else -1)
        passage = self._passages.setdefault(track_id, _Passage(sure, point))
        before = side_of(self.line, passage.point)
        if (before < 0) != (distance < 0):
            share = before / (before - distance)
            met = (
                passage.point[0] + share * (point[0] - passage.point[0]),
                passage.point[1] + share * (point[1] - passage.point[1]),
            )
            passage.met = _between(self.line, met)
        passage.point = point
        if sure == 0 or sure == passage.side:
            return None
        came, passage.side = passage.side, sure
        if came == 0 or not passage.met:
            return None
        what: Literal["in", "out"] = "in" if sure > 0 else "out"
        return Change(self.line.name, track_id, what)

    def forget(self, track_id: int) -> None:
        """A track that is gone does not come back under its number."""
        self._passages.pop(track_id, None)


def _between(line: Line, point: Point) -> bool:
    dx, dy = line.end[0] - line.start[0], line.end[1] - line.start[1]
    along = ((point[0] - line.start[0]) * dx + (point[1] - line.start[1]) * dy) / (dx * dx + dy * dy)
    return 0.0 <= along <= 1.0


@dataclass(slots=True)
class ZoneWatch:
    """Who is in a zone. margin: pixels inside or outside for a change, at most a tenth of the zone's shorter side.

    A track first seen inside has entered.
    """

    zone: Zone
    margin: float
    inside: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        xs, ys = zip(*self.zone.points, strict=True)
        # Or a narrow zone would have no inside.
        self.margin = min(self.margin, 0.1 * min(max(xs) - min(xs), max(ys) - min(ys)))

    def move(self, track_id: int, point: Point, *, first: bool = False) -> Change | None:
        """The change that this track at this point makes. first: it was not seen before, so no margin applies."""
        now, was = is_inside(self.zone.points, point), track_id in self.inside
        if now == was or not (first or distance_to_edge(self.zone.points, point) > self.margin):
            return None
        if now:
            self.inside.add(track_id)
            return Change(self.zone.name, track_id, "enter")
        self.inside.remove(track_id)
        return Change(self.zone.name, track_id, "leave")

    def forget(self, track_id: int) -> Change | None:
        """A track that is gone; it leaves if it was inside."""
        if track_id not in self.inside:
            return None
        self.inside.remove(track_id)
        return Change(self.zone.name, track_id, "leave")
