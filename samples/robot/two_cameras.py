"""Two cameras, one detector: whatever is there at the same time is detected together, and neither waits for the other.

    python samples/robot/two_cameras.py model.edge 0 rtsp://camera/stream

Prints a line per result: which camera, which of its frames, how old it is, and what is in it. A camera that stops is
connected again while the other goes on.
"""

from __future__ import annotations

import argparse

from edge_retina import Detections, Detector, Frame
from edge_retina.events import Event
from edge_retina.stream import Named, run


def show(frame: Frame, detections: Detections) -> None:
    """One result as a line of text."""
    age_ms = frame.age_ms()
    age = "" if age_ms is None else f" {age_ms:.0f} ms old"
    print(f"{frame.camera} {frame.index}{age}: {', '.join(d.name for d in detections) or 'nothing'}", flush=True)


def tell(event: Event) -> None:
    """A change of a camera's state as a line of text."""
    print(f"{event.camera} is {event.kind} {event.reason}".rstrip(), flush=True)


def main() -> None:
    """Detect in both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("left", help="camera number, video or other source URI")
    parser.add_argument("right", help="the other one")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--max-frames", type=int, help="of both together")
    options = parser.parse_args()
    cameras = [Named(options.left, "left"), Named(options.right, "right")]
    with Detector.load(options.bundle) as detector:
        summary = run(
            detector,
            cameras,
            [],
            min_score=options.min_score,
            max_frames=options.max_frames,
            on_frame=show,
            on_event=tell,
        )
    for name, counts in summary.cameras.items():
        print(f"{name}: {counts.captured} captured, {counts.processed} worked on, {counts.dropped} skipped")


if __name__ == "__main__":
    main()
