"""Frames per second of `run` on a video file, against a bare ONNX Runtime loop over the same trunk.

    python benchmarks/stream.py [--rounds 5] [--frames 200]

The bare loop feeds the exported trunk (heads out, nothing after) with the same frames, preprocessed before the clock
starts and held in memory: what a user would have at best without us, and without detections. Rounds alternate between
the two, so that both see the same machine; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edge_retina import Detector, build, open_source
from edge_retina.geometry import fit_frame
from edge_retina.stream import frames_at_once, run

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "digits"


def preprocessed(frames: list[np.ndarray], detector: Detector) -> list[np.ndarray]:
    """Network inputs (1, 3, H, W) as the graph would make them."""
    import cv2

    spec, inputs = detector.spec, []
    for frame in frames:
        fit = fit_frame(spec, *frame.shape[:2])
        canvas = np.full((*spec.input_size, 3), spec.pad_value, np.float32)
        resized = cv2.resize(frame[..., ::-1].astype(np.float32), fit.content[::-1])
        canvas[: fit.content[0], : fit.content[1]] = resized
        inputs.append(np.ascontiguousarray(((canvas - spec.mean) / spec.std).transpose(2, 0, 1)[None], np.float32))
    return inputs


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    model, video = SAMPLES / "digits.onnx", SAMPLES / "pan.mp4"
    bare = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = bare.get_inputs()[0].name
    frames = [frame.image for frame in open_source(video, max_frames=options.frames)]
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(model, Path(folder) / "digits.edge")
        detector = Detector.load(bundle.path, parallel=frames_at_once(video))
        inputs = preprocessed(frames, detector)
        ours, theirs = [], []
        for round_number in range(options.rounds + 1):
            start = time.perf_counter()
            for x in inputs:
                bare.run(None, {name: x})
            bare_fps = len(inputs) / (time.perf_counter() - start)
            run_fps = run(detector, video, [Path(folder) / "out.jsonl"], max_frames=options.frames).fps
            if round_number:  # the first round warms up
                theirs.append(bare_fps)
                ours.append(run_fps)
    ratio = statistics.median(ours) / statistics.median(theirs)
    facts = {"run_fps": ours, "bare_fps": theirs}
    print(json.dumps({"ratio": round(ratio, 3), **{k: [round(v, 1) for v in values] for k, values in facts.items()}}))


if __name__ == "__main__":
    main()
