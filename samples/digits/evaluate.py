"""AP of the shipped model on the shipped test scenes, through the bundle; with a checkpoint also through PyTorch.

    python samples/digits/evaluate.py                                      # the bundle, on any CPU
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
from rich.progress import track

from edge_retina import Detector, build
from edge_retina.evaluate import average_precision, read_coco

HERE = Path(__file__).resolve().parent
MODEL, TEST, TORCH = HERE / "digits.onnx", HERE / "test", HERE / "torch.npz"
CATEGORIES = tuple(range(1, 11))


def bundle_results(model: Path = MODEL, scenes: Path = TEST) -> list[dict[str, Any]]:
    """COCO result rows of the model, built into a bundle, run through Detector."""
    results = []
    with tempfile.TemporaryDirectory() as folder, Detector.load(build(model, Path(folder) / "m.edge").path) as detector:
        for image in track(read_coco(scenes / "annotations.json")["images"], "bundle"):
            found = detector(cv2.imread(str(scenes / image["file_name"])))
            results += found.to_coco(image["id"], CATEGORIES)
    return results


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
    options = parser.parse_args()
    truth = read_coco(TEST / "annotations.json")
    ways = {"bundle": bundle_results()}
    if options.checkpoint:
        ways["torch"] = torch_results(options.checkpoint)
        save_results(ways["torch"], TORCH)
    for name, results in ways.items():
        print(json.dumps({"way": name, **{k: round(v, 4) for k, v in average_precision(truth, results).items()}}))


if __name__ == "__main__":
    main()
