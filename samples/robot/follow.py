"""Turn towards the nearest object and drive up to it: the loop of a robot that embeds edge-retina.

    python samples/robot/follow.py model.edge 0              # camera 0
    python samples/robot/follow.py demo-out/digits.edge samples/digits/pan.mp4 --name 8

Prints a velocity command per frame: its index, the turn, -1 (full left) .. 1 (full right), and the speed, 0 .. 1.
Without an object in sight, or with a picture that is too old to act on, both are 0: the robot stops.
"""

from __future__ import annotations

import argparse

from edge_retina import Detections, Detector, Frame

OLDEST_MS = 500.0
ARRIVED = 0.6  # of the frame's height: what looks so large is near enough


def steer(detections: Detections) -> tuple[float, float]:
    """Turn and speed towards the detection that looks largest, which of one kind is the nearest; 0, 0 without one."""
    if len(detections) == 0:
        return 0.0, 0.0
    height, width = detections.shape
    x1, y1, x2, y2 = detections.xyxy.T
    nearest = int(((x2 - x1) * (y2 - y1)).argmax())
    turn = float((x1[nearest] + x2[nearest]) / width - 1)
    speed = max(0.0, 1 - float(y2[nearest] - y1[nearest]) / (ARRIVED * height)) * (1 - abs(turn))
    return round(turn, 3), round(speed, 3)


def command(frame: Frame, detections: Detections) -> tuple[float, float]:
    """What to do about a frame; nothing about one that is old."""
    age_ms = frame.age_ms()
    too_old = frame.stale or (age_ms is not None and age_ms > OLDEST_MS)
    return (0.0, 0.0) if too_old else steer(detections)


def main() -> None:
    """Follow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("source", help="camera number, video or other source URI")
    parser.add_argument("--name", help="follow only this label")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--max-frames", type=int)
    options = parser.parse_args()
    with Detector.load(options.bundle) as detector:
        for frame, detections in detector.stream(options.source, max_frames=options.max_frames):
            wanted = detections.mask(min_score=options.min_score, names=[options.name] if options.name else None)
            print(frame.index, *command(frame, wanted), flush=True)


if __name__ == "__main__":
    main()
