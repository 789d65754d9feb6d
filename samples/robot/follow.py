"""Turn towards the largest detection: the loop of a robot that embeds edge-retina.

    python samples/robot/follow.py model.edge 0              # camera 0
    python samples/robot/follow.py demo-out/digits.edge samples/digits/pan.mp4 --name 8

Prints one steering command per frame: -1 (left) .. 1 (right), 0 when nothing is in sight.
"""

from __future__ import annotations

import argparse

from edge_retina import Detections, Detector


def steer(detections: Detections) -> float:
    """Horizontal place of the largest detection, -1 at the left edge of the frame, 1 at the right; 0 without one."""
    if len(detections) == 0:
        return 0.0
    x1, y1, x2, y2 = detections.xyxy.T
    largest = int(((x2 - x1) * (y2 - y1)).argmax())
    centre = (x1[largest] + x2[largest]) / 2
    return round(float(2 * centre / detections.shape[1] - 1), 3)


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
            print(frame.index, steer(wanted), flush=True)


if __name__ == "__main__":
    main()
