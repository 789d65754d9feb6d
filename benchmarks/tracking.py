"""How stable track ids are, against the true digits of a panning video; and what the tracker ought to be given.

    python benchmarks/tracking.py                     the shipped clip, one of three the settings were chosen on
    python benchmarks/tracking.py --seed 1 --seed 2   other walls, rendered here; pip install 'edge-retina[digits]'

A digit's stay in view is one true object: it may come back with another id. Shown are rows of score 0.3 or more. As in
CLEAR MOT (Bernardin and Stiefelhagen, 2008) an object keeps the row of its last id where that still overlaps by half,
else takes the best free one; a switch is an object whose id is not the one it had before.

Columns: every: of the clip each such frame is given, as a slow detector would see a camera; least: rows below it are
not looked at; stays: true objects; switches; ids: given out per stay with any, at best 1; tracked: share of
true boxes that are shown with an id.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_retina import Detections, Detector, Frame, build, open_source
from edge_retina.tracking import Tracker
from edge_retina.types import U8

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits"
SHOWN, HALF = 0.3, 0.5
LEAST = (0.1, 0.2, 0.3, 0.5)
FURTHEST = 20.0  # pixels that a digit's box moves from one frame to the next, at most


@dataclass
class Score:
    """What became of the true objects. boxes: true ones, tracked: of these shown with an id."""

    boxes: int = 0
    tracked: int = 0
    switches: int = 0
    ids: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    _last: dict[int, int] = field(default_factory=dict)

    def add(self, boxes: np.ndarray, stays: list[int], shown: Detections) -> None:
        """Match one frame's true boxes to the rows that are shown with an id."""
        assert shown.track_ids is not None
        overlaps, rows = _overlaps(boxes, shown.xyxy), shown.track_ids
        overlaps[:, rows < 0] = 0
        self.boxes += len(boxes)
        old = [(i, j) for i, stay in enumerate(stays) for j in np.flatnonzero(rows == self._last.get(stay, -2))]
        best = sorted(np.argwhere(overlaps >= HALF).tolist(), key=lambda pair: -overlaps[pair[0], pair[1]])
        done: tuple[set[int], set[int]] = (set(), set())
        for i, j in [*old, *best]:
            if overlaps[i, j] < HALF or i in done[0] or j in done[1]:
                continue
            done[0].add(i)
            done[1].add(j)
            number = int(rows[j])
            self.tracked += 1
            self.switches += self._last.setdefault(stays[i], number) != number
            self._last[stays[i]] = number
            self.ids[stays[i]].add(number)

    def row(self) -> dict[str, float]:
        """Plain values, as the module says."""
        per_stay = sum(map(len, self.ids.values())) / max(1, len(self.ids))
        return {"switches": self.switches, "ids": round(per_stay, 3), "tracked": round(self.tracked / self.boxes, 3)}


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each of a (N, 4) with each of b (M, 4)."""
    corner, other = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(other - corner, 0, None).prod(2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    return np.asarray(inner / (area_a[:, None] + area_b[None] - inner))


def stays_of(truth: list[list[list[float]]]) -> list[list[int]]:
    """For each true box of each frame the number of its stay: that of the box before from which it moved least."""
    stays: list[list[int]] = []
    before: list[tuple[np.ndarray, int]] = []
    count = 0
    for boxes in truth:
        now: list[tuple[np.ndarray, int]] = []
        for box in map(np.array, boxes):
            moves = [(float(np.abs(box - old).max()), number) for old, number in before]
            least, number = min(moves, default=(np.inf, -1))
            if least > FURTHEST:
                count += 1
                number = count
            now.append((box, number))
        stays.append([number for _, number in now])
        before = now
    return stays


def rendered(seed: int) -> Iterator[tuple[U8, list[list[float]]]]:
    """Frames and true boxes of a wall that nothing was chosen on."""
    sys.path.insert(0, str(DIGITS))
    import pan

    rng = np.random.default_rng(seed)
    wall, outlines, digits = pan.build_wall(rng)
    total = pan.FPS * pan.SECONDS
    for i in range(total):
        camera = pan.camera_at(i / total, wall.shape[1])
        yield pan.shoot(wall, camera, rng, i / total), pan.see(outlines, digits, camera)[0]


def main() -> None:
    """Measure, a line of JSON per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="render this wall in place of the shipped clip")
    parser.add_argument("--every", type=int, action="append", help="give each such frame [1, 3]")
    options = parser.parse_args()
    shipped = json.loads((DIGITS / "pan.json").read_text())
    fps = shipped["fps"]
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(DIGITS / "digits.onnx", Path(folder) / "digits.edge")
        with Detector.load(bundle.path) as detector:
            for seed in options.seed or [None]:
                if seed is None:
                    truth = [row["boxes"] for row in shipped["frames"]]
                    everything = [detector(frame.image) for frame in open_source(DIGITS / "pan.mp4")]
                else:
                    pairs = [(detector(image), boxes) for image, boxes in rendered(seed)]
                    everything, truth = [found for found, _ in pairs], [boxes for _, boxes in pairs]
                report("pan.mp4" if seed is None else f"seed {seed}", everything, truth, fps, options.every or [1, 3])


def report(clip: str, everything: list[Detections], truth: list[list[list[float]]], fps: int, every: list[int]) -> None:
    """Track with each setting, and print."""
    stays = stays_of(truth)
    for step in every:
        for least in LEAST:
            tracker, score = Tracker(fps=fps / step, least_score=least), Score()
            for i in range(0, len(everything), step):
                frame = Frame(np.zeros((1, 1, 3), np.uint8), i, i * 10**9 // fps)
                tracked = tracker.update(frame, everything[i])
                score.add(np.array(truth[i]).reshape(-1, 4), stays[i], tracked.mask(min_score=SHOWN))
            count = len({number for row in stays for number in row})
            print(json.dumps({"clip": clip, "every": step, "least": least, "stays": count, **score.row()}), flush=True)


if __name__ == "__main__":
    main()
