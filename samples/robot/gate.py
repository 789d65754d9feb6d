"""Count who comes and goes through a gate: tracks over a line, in both directions.

    pip install 'edge-retina[track]'
    python samples/robot/gate.py model.edge rtsp://camera/stream 0,50%,100%,50%

Prints a line per crossing and, at the end, the count. Drawn from left to right, the line is crossed "in" downwards.
"""

from __future__ import annotations

import argparse
from collections import Counter

from edge_retina import Detector
from edge_retina.events import Event
from edge_retina.stream import run
from edge_retina.tracking import Tracker
from edge_retina.watch import Outline, Watch


def tell(event: Event) -> None:
    """A crossing as a line of text; other events, as of a camera that goes and comes back, by their name."""
    if event.kind == "line":
        row = event.data
        print(f"{row['name']} {row['id']} went {row['direction']}: {row['in']} in, {row['out']} out", flush=True)
    elif event.kind not in ("track", "zone"):
        print(f"{event.camera}: {event.kind} {event.reason}".rstrip(), flush=True)


def main() -> None:
    """Count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("source", help="camera number, video or other source URI")
    parser.add_argument("line", help="x,y,x,y in pixels or percent of the frame")
    parser.add_argument("--min-score", type=float, default=0.3)
    parser.add_argument("--max-frames", type=int)
    options = parser.parse_args()
    watch = Watch(Tracker(), [Outline.parse(f"gate={options.line}")])
    limits = {"min_score": options.min_score, "max_frames": options.max_frames}
    with Detector.load(options.bundle) as detector:
        run(detector, options.source, [], steps=[watch], on_event=tell, **limits)
    counts = sum(watch.crossings.values(), start=Counter())
    print(f"{counts['in']} in, {counts['out']} out, {sum(watch.seen.values())} seen")


if __name__ == "__main__":
    main()
