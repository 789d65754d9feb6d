"""DeepForest's RetinaNet to ONNX, with the model's own labels, thresholds and preprocessing in the metadata."""

from __future__ import annotations

import os
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.importer.exporters.torchvision import export_torchvision
from edge_retina.spec import DetectorSpec

__all__ = ["export_deepforest"]

# conf/config.yaml: the patch that predict_tile cuts, which the transform enlarges to its shortest side.
_PATCH_SIDE = 800


def export_deepforest(
    model: Any, path: str | os.PathLike[str], *, size: tuple[int, int] = (_PATCH_SIDE, _PATCH_SIDE), **options: Any
) -> DetectorSpec:
    """Export the raw heads of a DeepForest RetinaNet to ONNX with its DetectorSpec; returns the spec.

    model: deepforest.main.deepforest or a RetinaNetHub. size: (H, W) of the network input; 800 x 800 is what becomes of
    a square patch. options: for torch.onnx.export, such as dynamo=True. Not in the export: tiles of large rasters, and
    the suppression across classes that predict_image adds for a model of several. Raises SpecError for another
    architecture, or labels that are not numbered 0, 1, ...
    """
    net = model.model if hasattr(model, "numeric_to_label_dict") else model
    table = getattr(model, "label_dict", None) or getattr(net, "label_dict", None) or {}
    labels = sorted(table, key=table.__getitem__)
    if [table[name] for name in labels] != list(range(len(labels))):
        raise SpecError(f"DeepForest: wanted label_dict to number the labels 0, 1, ..., found {dict(table)}")
    return export_torchvision(net, path, size=size, labels=labels or None, family="deepforest", **options)
