"""The options that say what is tracked and watched, and what comes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edge_retina.commands.options import as_one
from edge_retina.errors import UsageError
from edge_retina.redaction import redact

if TYPE_CHECKING:
    from edge_retina.watch import Watch

__all__ = ["Watched", "summary_lines", "tracking_options"]

_START_SCORE = 0.5
_OPTIONS = (
    click.option("--track", is_flag=True, help="Give each object a number that it keeps."),
    click.option(
        "--line",
        "lines",
        metavar="[CAMERA/]NAME=X,Y,X,Y",
        multiple=True,
        help="Count tracks over a line, pixels or percent, such as gate=0,50%,100%,50%; repeatable.",
    ),
    click.option(
        "--zone",
        "zones",
        metavar="[CAMERA/]NAME=X,Y,X,Y,X,Y,...",
        multiple=True,
        help="Tell when tracks enter and leave an area; repeatable.",
    ),
    click.option(
        "--track-score",
        type=click.FloatRange(0, 1),
        metavar="SCORE",
        help="Score from which an object gets a number [0.5, or --min-score where that is higher].",
    ),
    click.option(
        "--margin",
        type=click.FloatRange(min=0),
        metavar="PX",
        help="How far beyond a line a track must be to count [1 % of the frame's diagonal].",
    ),
)


@dataclass(frozen=True)
class Watched:
    """The options of tracking, as they were given."""

    track: bool = False
    lines: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    track_score: float | None = None
    margin: float | None = None

    def open(self, min_score: float, cameras: Sequence[str]) -> Watch | None:
        """The step of a stream that they mean; None where nothing is tracked. min_score: of what is shown.

        cameras: their names, as frames bear them.

        Raises UsageError, MissingPackage.
        """
        if not (self.track or self.lines or self.zones):
            if self.margin is not None:
                raise UsageError("--margin is for --line and --zone, found neither; add one or leave it out")
            if self.track_score is not None:
                raise UsageError("--track-score is for --track, --line and --zone, found none; add one or leave it out")
            return None
        from edge_retina.tracking import Tracker
        from edge_retina.watch import Outline, Watch

        if self.margin is not None and not math.isfinite(self.margin):
            raise UsageError(f"--margin wants pixels, found {self.margin}")
        lines, zones = tuple(map(Outline.parse, self.lines)), tuple(map(Outline.parse, self.zones))
        for outline in (*lines, *zones):
            # Two sources of one name: "front" and "front (2)".
            if outline.camera not in (None, *cameras, *(f"{name} (2)" for name in cameras)):
                there = f"there are: {', '.join(cameras)}" if cameras else "name the source, as --source front=ride.mp4"
                raise UsageError(
                    f"{outline.name} is for a camera {redact(outline.camera or '')!r}, found none; {there}"
                )
        start_score = max(_START_SCORE, min_score) if self.track_score is None else self.track_score
        return Watch(Tracker(start_score=start_score), lines, zones, margin=self.margin)


def summary_lines(watch: Watch) -> list[str]:
    """What was seen, a line of text each: tracks by name, crossings by camera and line."""
    seen = ", ".join(f"{count} {name}" for name, count in watch.seen.most_common())
    lines = [f"tracks: {seen or 'none'}"]
    for (camera, line), counts in sorted(watch.crossings.items()):
        where = f"{camera} {line}" if camera else line
        lines.append(f"{where}: {counts['in']} in, {counts['out']} out")
    return lines


def tracking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of tracking; the command gets them as one argument, `watched`."""
    return as_one(command, "watched", Watched, _OPTIONS)
