"""Count what is in a folder of pictures, in batches.

Type:

    python samples/robot/count.py demo-out/digits.edge samples/digits/test
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from edge_retina import Detector, Frame, open_source

BATCH = 8
MIN_SCORE = 0.5


def batches(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """The frames in lists of BATCH; the last may be shorter."""
    while batch := list(islice(frames, BATCH)):
        yield batch


def main() -> None:
    """Count."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    bundle, folder = sys.argv[1:]
    counts: Counter[str] = Counter()
    with Detector.load(bundle) as detector:
        for batch in batches(open_source(folder)):
            for detections in detector.batch([frame.image for frame in batch]):
                counts.update(d.name for d in detections.mask(min_score=MIN_SCORE))
    for name, count in sorted(counts.items()):
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
