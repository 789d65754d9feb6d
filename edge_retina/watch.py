"""Tracking as a step of a stream: numbers on detections, and events for tracks, lines and zones.

Events, each with its camera and the index of the frame:
"track": {"id", "name", "state": "new" or "gone", "now": tracks in sight}; gone: "frames" and "seconds" it was seen;
"line": {"line", "id", "name", "direction": "in" or "out", "in", "out": so far};
"zone": {"zone", "id", "name", "state": "enter" or "leave", "inside": tracks now in it}; leave: "seconds" it was inside.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_retina.errors import UsageError
from edge_retina.events import Event
from edge_retina.sources import redact
from edge_retina.tracking import Track, TrackChange, Tracker
from edge_retina.types import Detections, Frame
from edge_retina.zones import Line, LineWatch, Point, Zone, ZoneWatch

__all__ = ["Outline", "Watch"]

Tell = Callable[[Event], None]

# Of the frame's diagonal: about what a steady box trembles by.
_MARGIN = 0.01
_ANY_SHAPE = (1000, 1000)
_NUMBER = re.compile(r"(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)(%?)")


@dataclass(frozen=True, slots=True)
class Outline:
    """A line or zone as it is given, before the size of the frame is known.

    camera: the one it is meant for, None for all. numbers: x, y, x, y ...; with True percent of the frame's side.
    """

    name: str
    camera: str | None
    numbers: tuple[tuple[float, bool], ...]

    @classmethod
    def parse(cls, text: str) -> Outline:
        """`gate=10%,50%,90%,50%` or, for one camera, `front/gate=0,240,640,240`. Raises UsageError."""
        full_name, _, values = text.rpartition("=")
        camera, slash, name = full_name.rpartition("/")
        found = [_NUMBER.fullmatch(value.strip()) for value in values.split(",")]
        if not name.strip() or None in found or len(found) % 2 or len(found) < 4:
            wanted = "NAME=x,y,x,y..., pixels or percent, such as gate=0,50%,100%,50%"
            raise UsageError(f"wanted {wanted}, found {redact(text)!r}")
        numbers = tuple((float(match[1]), match[2] == "%") for match in found if match)
        return cls(name.strip(), camera if slash else None, numbers)

    def points(self, shape: tuple[int, int]) -> tuple[Point, ...]:
        """Its points in pixels of a frame (H, W)."""
        sides = (shape[1], shape[0])
        values = [value * sides[i % 2] / 100 if share else value for i, (value, share) in enumerate(self.numbers)]
        return tuple(zip(values[::2], values[1::2], strict=True))


@dataclass(slots=True)
class _View:
    """Lines and zones in one camera's frames of one size."""

    shape: tuple[int, int]
    lines: list[LineWatch]
    zones: list[ZoneWatch]
    entered: dict[tuple[str, int], float] = field(default_factory=dict)


class Watch:
    """A step for edge_retina.stream.run: call it with each frame, `finish` it at the end.

    lines, zones: what to watch in each camera. margin: pixels beyond a line that count [1 % of the frame's diagonal].
    foot: an object is where the middle of its box's lower edge is; False: the middle of the box.
    Raises UsageError for two lines, or two zones, of one name and camera, and for outlines that
    enclose nothing.
    """

    def __init__(
        self,
        tracker: Tracker,
        lines: Sequence[Outline] = (),
        zones: Sequence[Outline] = (),
        *,
        margin: float | None = None,
        foot: bool = True,
    ) -> None:
        for outlines in (lines, zones):
            names = Counter((outline.camera, outline.name) for outline in outlines)
            if twice := [name for (_, name), count in names.items() if count > 1]:
                raise UsageError(f"{twice[0]} is given twice; name each line and zone differently")
        for outline in lines:  # to hear at once of those that mean nothing
            if len(outline.numbers) != 4:
                raise UsageError(f"line {outline.name}: wanted 2 points, found {len(outline.numbers) // 2}")
            Line(outline.name, *outline.points(_ANY_SHAPE))
        for outline in zones:
            Zone(outline.name, outline.points(_ANY_SHAPE))
        self._tracker, self._lines, self._zones = tracker, tuple(lines), tuple(zones)
        self._margin, self._foot = margin, foot
        self._views: dict[str, _View] = {}
        self._seen: Counter[str] = Counter()
        self._crossings: dict[tuple[str, str], Counter[str]] = {}
        self._in_sight: Counter[str] = Counter()
        self._last_frame: dict[str, int] = {}

    @property
    def seen(self) -> Counter[str]:
        """Tracks that have ended, by name."""
        return Counter(self._seen)

    @property
    def crossings(self) -> dict[tuple[str, str], Counter[str]]:
        """Crossings "in" and "out" by camera and line."""
        return {key: Counter(counts) for key, counts in self._crossings.items()}

    def __call__(self, frame: Frame, detections: Detections, tell: Tell) -> Detections:
        """The detections with track_ids; what happened is told. Raises UsageError for a zone without area."""
        tracked, change = self._tracker.follow(frame, detections)
        self._last_frame[frame.camera] = frame.index
        self._tell_tracks(frame.camera, change, tell)
        view = self._view(frame.camera, (frame.image.shape[0], frame.image.shape[1]), tell)
        for track in change.here:
            self._move(view, track, track in change.new, tell)
        return tracked

    def finish(self, tell: Tell) -> None:
        """Tell of the tracks that were still followed."""
        for change in self._tracker.finish():
            if change.gone:
                self._tell_tracks(change.gone[0].camera, change, tell)

    def _tell_tracks(self, camera: str, change: TrackChange, tell: Tell) -> None:
        for track in change.gone:
            self._in_sight[camera] -= 1
            self._seen[track.name] += 1
            self._leave(track, tell)
            length = {"frames": track.frames, "seconds": round(track.seconds, 3)}
            self._tell(tell, "track", track, {"state": "gone", "now": self._in_sight[camera], **length})
        for track in change.new:
            self._in_sight[camera] += 1
            self._tell(tell, "track", track, {"state": "new", "now": self._in_sight[camera]})

    def _leave(self, track: Track, tell: Tell) -> None:
        view = self._views.get(track.camera)
        if view is None:
            return
        for line in view.lines:
            line.forget(track.id)
        for zone in view.zones:
            if zone.forget(track.id):
                self._tell_zone(view, zone, track, "leave", tell)

    def _move(self, view: _View, track: Track, first: bool, tell: Tell) -> None:
        x1, y1, x2, y2 = track.box
        point = ((x1 + x2) / 2, y2 if self._foot else (y1 + y2) / 2)
        for line in view.lines:
            if change := line.move(track.id, point):
                counts = self._crossings.setdefault((track.camera, change.name), Counter())
                counts[change.what] += 1
                so_far = {"in": counts["in"], "out": counts["out"]}
                self._tell(tell, "line", track, {"line": change.name, "direction": change.what, **so_far})
        for zone in view.zones:
            if moved := zone.move(track.id, point, first=first):
                self._tell_zone(view, zone, track, moved.what, tell)

    def _tell_zone(self, view: _View, zone: ZoneWatch, track: Track, what: str, tell: Tell) -> None:
        key = (zone.zone.name, track.id)
        data: dict[str, Any] = {"zone": zone.zone.name, "state": what, "inside": len(zone.inside)}
        if what == "enter":
            view.entered[key] = track.last_s
        else:
            data["seconds"] = round(track.last_s - view.entered.pop(key), 3)
        self._tell(tell, "zone", track, data)

    def _tell(self, tell: Tell, kind: str, track: Track, data: dict[str, Any]) -> None:
        who = {"frame": self._last_frame[track.camera], "id": track.id, "name": track.name}
        tell(Event(kind, track.camera, data={**who, **data}))

    def _view(self, camera: str, shape: tuple[int, int], tell: Tell) -> _View:
        """The camera's lines and zones in frames of that shape. Raises UsageError for a zone that encloses nothing.

        Not where frames had another size before: the run goes on without that zone, and tells so.
        """
        view = self._views.get(camera)
        if view is not None and view.shape == shape:
            return view
        margin = _MARGIN * (shape[0] ** 2 + shape[1] ** 2) ** 0.5 if self._margin is None else self._margin
        new = _View(shape, [], [])
        outlines = [(outline, True) for outline in self._lines] + [(outline, False) for outline in self._zones]
        for outline, is_line in outlines:
            if outline.camera not in (None, camera):
                continue
            try:
                if is_line:
                    new.lines.append(LineWatch(Line(outline.name, *outline.points(shape)), margin))
                else:
                    new.zones.append(ZoneWatch(Zone(outline.name, outline.points(shape)), margin))
            except UsageError as exc:
                if view is None:
                    raise
                tell(Event("size", camera, reason=f"not watched in frames of this size: {exc}"))
        self._views[camera] = new
        return new
