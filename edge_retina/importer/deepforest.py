"""DeepForest's RetinaNet: torchvision's, for the crowns of trees seen from above, with thresholds of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.importer import torchvision
from edge_retina.importer.imported import Imported
from edge_retina.importer.torchvision_kin import with_habits

__all__ = ["recognise"]

# deepforest conf/config.yaml, and the label of its default model, weecology/deepforest-tree.
_HABITS: dict[str, Any] = {"score_threshold": 0.1, "nms_iou": 0.05}
_TREE = ("Tree",)


def recognise(
    graph: gs.Graph,
    metadata: Mapping[str, str],
    given: Mapping[str, Any] = torchvision.NOTHING,
    *,
    forced: bool = False,
) -> Imported | None:
    """The heads and spec of a DeepForest RetinaNet; None when it is not one.

    A whole export is told from torchvision's by its NMS threshold, 0.05. Raw exports of the two are the same: such a
    graph is DeepForest's when forced. given and SpecError: as for torchvision. With several classes DeepForest's
    predict_image suppresses once more, across classes; the model, and so this spec, does not. `graph` is not changed.
    """
    found = torchvision.read(graph, metadata, given, None if forced else "deepforest")
    if found is None:
        return None
    labels = _TREE if found.spec.num_classes == 1 else found.spec.labels
    return with_habits(found, "deepforest", {**_HABITS, "labels": labels})
