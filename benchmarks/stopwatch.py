"""Does `edge-retina bench` say what a clock on the wall says?

    python benchmarks/stopwatch.py model.edge [--short 50] [--long 250] [--rounds 7]

The stopwatch knows nothing of bench: it times whole processes, one that runs a few frames, one that runs many more,
and divides the difference by the difference in frames, which leaves out start, loading and warm-up. Each round has both
and `edge-retina bench`, so that all see the same machine; compared are bench's mean and the stopwatch's: the ratio is
the median over rounds. ONNX Runtime's time a frame is what is measured on both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# A process of its own: loads the bundle and runs so many frames, held in memory, as a program of a user would.
_PROGRAM = """
import sys
from edge_retina import Detector, open_source
images = [frame.image for frame in open_source(sys.argv[3], max_frames=16)]
with Detector.load(sys.argv[1], target="ort") as detector:
    for number in range(int(sys.argv[2])):
        detector(images[number % len(images)])
"""


def slope(frames: tuple[int, int], seconds: tuple[float, float]) -> float:
    """Milliseconds a frame, from two runs of so many frames that took so long.

    >>> slope((10, 110), (1.5, 3.5))
    20.0
    """
    return (seconds[1] - seconds[0]) * 1000 / (frames[1] - frames[0])


def whole_process(bundle: Path, frames: int, source: str) -> float:
    """Seconds from the start to the end of a process that runs so many frames."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", _PROGRAM, str(bundle), str(frames), source], check=True)
    return time.perf_counter() - start


def by_bench(bundle: Path, frames: int, source: str) -> float:
    """The mean milliseconds a frame that `edge-retina bench` tells."""
    words = ["bench", str(bundle), "--frames", str(frames), "--source", source, "--target", "ort", "--no-profile"]
    command = [sys.executable, "-m", "edge_retina", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["configurations"][0]["mean_ms"])


def compare(bundle: Path, frames: tuple[int, int], rounds: int, source: str) -> dict[str, object]:
    """Both clocks, round by round, and the median of their ratios."""
    outside, inside = [], []
    for number in range(rounds):
        # Every second round the other way about: a machine that grows slower or faster favours neither.
        steps = [
            lambda: whole_process(bundle, frames[0], source),
            lambda: by_bench(bundle, frames[1], source),
            lambda: whole_process(bundle, frames[1], source),
        ]
        found = [step() for step in (steps if number % 2 == 0 else steps[::-1])]
        first, told, second = found if number % 2 == 0 else found[::-1]
        outside.append(slope(frames, (first, second)))
        inside.append(told)
    ratios = [mine / theirs for mine, theirs in zip(inside, outside, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "bench_ms": [round(ms, 3) for ms in inside],
        "stopwatch_ms": [round(ms, 3) for ms in outside],
        "frames": list(frames),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--short", type=int, default=50)
    parser.add_argument("--long", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--source", default="test://?size=640x480&frames=16")
    options = parser.parse_args(arguments)
    if not 0 < options.short < options.long:
        parser.error(f"wants 0 < --short < --long, found {options.short} and {options.long}")
    print(json.dumps(compare(options.bundle, (options.short, options.long), options.rounds, options.source)))


if __name__ == "__main__":
    main()
