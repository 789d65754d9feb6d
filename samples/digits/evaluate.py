"""AP of the shipped model on the shipped test scenes, through the bundle; with a checkpoint also through PyTorch.

    python samples/digits/evaluate.py                                      # the bundle, on any CPU
    python samples/digits/evaluate.py --precision fp16 --precision int8    # and others; int8 also as TensorRT has it
    python samples/digits/evaluate.py --checkpoint runs/main/digits.pt     # and PyTorch; writes torch.npz

torch.npz holds the PyTorch model's own detections on every test scene and the sha256 of the ONNX they belong to; the
tests hold the bundle against it where no PyTorch is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.progress import Progress, track

from edge_retina import Detector, build
from edge_retina.evaluate import average_precision, coco_images, detect, read_coco
from edge_retina.lowering import lower_bundle
from edge_retina.runtime.ort import OrtRuntime
from edge_retina.stream import frames_at_once

HERE = Path(__file__).resolve().parent
MODEL, TEST, TORCH = HERE / "digits.onnx", HERE / "test", HERE / "torch.npz"
CALIB = HERE.parent.parent / "calib" / "digits"
CATEGORIES = tuple(range(1, 11))


def bundle_results(model: Path = MODEL, scenes: Path = TEST) -> list[dict[str, Any]]:
    """COCO result rows of the model, built into a bundle, run through Detector."""
    results = []
    with tempfile.TemporaryDirectory() as folder, Detector.load(build(model, Path(folder) / "m.edge").path) as detector:
        for image in track(read_coco(scenes / "annotations.json")["images"], "bundle"):
            found = detector(cv2.imread(str(scenes / image["file_name"])))
            results += found.to_coco(image["id"], CATEGORIES)
    return results


def precision_results(precision: str, scenes: Path = TEST) -> dict[str, list[dict[str, Any]]]:
    """COCO result rows of the shipped model in another precision, by what ran it."""
    with tempfile.TemporaryDirectory() as folder:
        calib = CALIB if precision == "int8" else None
        bundle = build(MODEL, Path(folder) / "m.edge", precision=precision, calib=calib)
        with Detector.load(bundle.path, parallel=frames_at_once(scenes)) as detector:
            ways = {precision: _rows(detector, scenes, precision)}
        if precision == "int8":
            name = "int8, lowered for TensorRT"
            lowered = lower_bundle(bundle, "tensorrt", plugin=False)
            ways[name] = _rows(Detector(bundle, _Plain(lowered)), scenes, name)
    return ways


class _Plain(OrtRuntime):
    """ONNX Runtime without optimisations: those of 1.32 change the results of an FP16 graph with Q/DQ nodes."""

    def __init__(self, model: bytes) -> None:
        self.parallel, self._names = frames_at_once(TEST), ["boxes", "scores", "labels", "count"]
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _rows(detector: Detector, scenes: Path, name: str) -> list[dict[str, Any]]:
    images = coco_images(read_coco(scenes / "annotations.json"), scenes)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=len(images))
        rows = detect(detector, images, on_image=lambda *_: bar.advance(task))
    return [row | {"category_id": CATEGORIES[row["category_id"]]} for row in rows]


def torch_results(checkpoint: Path, scenes: Path = TEST) -> list[dict[str, Any]]:
    """COCO result rows of the PyTorch model of a checkpoint, with its own post-processing."""
    import torch

    from edge_retina.importer import import_model, load_onnx
    from edge_retina.train.data import load_coco
    from edge_retina.train.model import PRESETS, RetinaNet
    from edge_retina.train.predict import coco_results

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = RetinaNet(PRESETS[state["preset"]], len(state["labels"])).eval()
    model.load_state_dict(state["ema"])
    # The shipped input size may be larger than the one trained at last: the network is fully convolutional.
    spec = import_model(load_onnx(MODEL)).spec
    examples, _, ids = load_coco(scenes)
    return coco_results(model, examples, spec, ids, torch.device("cpu"))


def save_results(results: list[dict[str, Any]], path: Path) -> None:
    """Result rows as compact arrays."""
    np.savez_compressed(
        path,
        model=hashlib.sha256(MODEL.read_bytes()).hexdigest(),
        image_id=np.array([r["image_id"] for r in results], np.int16),
        category_id=np.array([r["category_id"] for r in results], np.int8),
        bbox=np.array([r["bbox"] for r in results], np.float32),
        score=np.array([r["score"] for r in results], np.float32),
    )


def load_results(path: Path = TORCH) -> tuple[str, list[dict[str, Any]]]:
    """The ONNX's sha256 and the result rows that save_results wrote."""
    with np.load(path) as data:
        rows = zip(*(data[key].tolist() for key in ("image_id", "category_id", "bbox", "score")), strict=True)
        keys = ("image_id", "category_id", "bbox", "score")
        return str(data["model"]), [dict(zip(keys, row, strict=True)) for row in rows]


def main() -> None:
    """Measure and print one JSON line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--precision", action="append", choices=("fp16", "int8"), default=[])
    options = parser.parse_args()
    truth = read_coco(TEST / "annotations.json")
    ways = {"bundle": bundle_results()}
    for precision in options.precision:
        ways |= precision_results(precision)
    if options.checkpoint:
        ways["torch"] = torch_results(options.checkpoint)
        save_results(ways["torch"], TORCH)
    for name, results in ways.items():
        print(json.dumps({"way": name, **{k: round(v, 4) for k, v in average_precision(truth, results).items()}}))


if __name__ == "__main__":
    main()
