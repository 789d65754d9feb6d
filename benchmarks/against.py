"""A torchvision RetinaNet-R50-FPN, 91 classes, 640x640, whose random weights give realistic numbers of candidates.

    python benchmarks/against.py FOLDER      # writes r50.onnx, r50.pth, frame.png; needs torch and torchvision

The last class convolution is scaled so that about 3000 pairs of anchor and class pass the score threshold on the frame,
as they do on a street scene, and NMS has its work. The frame is square, for torchvision pads less of an oblong one.
Then:

    edge-retina bench FOLDER/r50.onnx --precision fp32,int8 --calib FOLDER --source FOLDER/frame.png --threads 2
        --against --checkpoint FOLDER/r50.pth
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.models.detection import retinanet_resnet50_fpn

from edge_retina.importer import export_torchvision

PASSING, SIDE = 3000, 640
# Of the box deltas, so that boxes differ from their anchors as trained ones do.
DELTA_DEVIATION = 0.3


def main() -> None:
    """Make the model and its frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 91, "min_size": SIDE, "max_size": SIDE}
    model = retinanet_resnet50_fpn(**options).eval()
    noise = np.random.default_rng(0).integers(0, 256, (960, 960, 3), dtype=np.uint8)
    frame = cv2.GaussianBlur(noise, (0, 0), 2)
    cv2.imwrite(str(folder / "frame.png"), frame)
    picture = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1).float() / 255
    scores, boxes = model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg
    with torch.inference_mode():
        heads = model.head(list(model.backbone(model.transform([picture])[0].tensors).values()))
        prior = scores.bias[0].item()
        highest = torch.sort(heads["cls_logits"].flatten() - prior, descending=True).values
        threshold = math.log(model.score_thresh / (1 - model.score_thresh))
        scores.weight.mul_((threshold - prior) / highest[PASSING].item())
        boxes.weight.mul_(DELTA_DEVIATION / heads["bbox_regression"].std().item())
    torch.save(model.state_dict(), folder / "r50.pth")
    export_torchvision(model, folder / "r50.onnx", size=(SIDE, SIDE), dynamo=False)


if __name__ == "__main__":
    main()
