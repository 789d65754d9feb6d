"""torchvision's RetinaNet as its users run it: its own preprocessing and post-processing, eager or compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from edge_retina.errors import InputError
from edge_retina.peers.processing import Found
from edge_retina.spec import DetectorSpec
from edge_retina.types import U8

__all__ = ["in_torchvision"]


def in_torchvision(
    checkpoint: Path, spec: DetectorSpec, threads: int, *, compiled: bool = False
) -> tuple[str, Callable[[U8], Found]]:
    """retinanet_resnet50_fpn or _v2 with a checkpoint's weights. compiled: backbone and head by torch.compile.

    Raises InputError for a checkpoint of another model.
    """
    torch.set_num_threads(threads)
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
    shortest, longest = spec.shortest_side or (min(spec.input_size), max(spec.input_size))
    options = {"num_classes": spec.num_classes, "min_size": shortest, "max_size": longest}
    limits = {
        "score_thresh": spec.score_threshold,
        "nms_thresh": spec.nms_iou,
        "detections_per_img": spec.max_detections,
        "topk_candidates": spec.top_k,
    }
    for make in (retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2):
        model = make(weights=None, weights_backbone=None, **options, **limits)
        try:
            model.load_state_dict(weights)
            break
        except RuntimeError:
            continue
    else:
        raise InputError(f"{checkpoint}: wanted the state_dict of torchvision's retinanet_resnet50_fpn or _v2")
    model.eval()
    if compiled:
        model.backbone = torch.compile(model.backbone)
        model.head = torch.compile(model.head)

    def call(frame: U8) -> Found:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1).float().div_(255)
            found = model([picture])[0]
            return Found(found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy())

    return f"torch {torch.__version__}, torchvision {torchvision.__version__}", call
