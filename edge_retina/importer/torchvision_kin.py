"""The two subnets of a RetinaNet built from torchvision's classes, and whose it is: torchvision's own or its kin's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import RowHead, constant, nodes_of, reaches
from edge_retina.importer.imported import Imported
from edge_retina.importer.labels import OPEN_IMAGES_264

__all__ = ["cls_and_box", "trainer_of", "with_habits"]

# ResNeXt-50 32x4d: MLPerf's backbone.
_CARDINALITY = 32
# DeepForest's nms_thresh (models/retinanet.py, conf/config.yaml): crowns hardly overlap. Nobody else's is so low.
_CROWN_IOU = 0.05


def trainer_of(graph: gs.Graph, cls: RowHead) -> str:
    """The one family among torchvision's kin that a graph belongs to: "torchvision", "deepforest" or "mlperf".

    MLPerf: 264 classes on a ResNeXt. DeepForest: a whole export whose NMS suppresses beyond an IoU of 0.05; its raw
    export is the same as torchvision's.
    """
    groups = {node.attrs.get("group", 1) for node in graph.nodes if node.op == "Conv"}
    if cls.channels == len(OPEN_IMAGES_264) and _CARDINALITY in groups:
        return "mlperf"
    suppressions = [node for node in nodes_of(graph) if node.op == "NonMaxSuppression" and len(node.inputs) > 3]
    limits = [value for node in suppressions if (value := constant(node.inputs[3])) is not None]
    if limits and all(abs(float(value.reshape(-1)[0]) - _CROWN_IOU) < 1e-6 for value in limits if value.size):
        return "deepforest"
    return "torchvision"


def with_habits(found: Imported, family: str, habits: Mapping[str, Any]) -> Imported:
    """What was found as another family's: what the graph did not say becomes that family's habit."""
    left = {name: value for name, value in habits.items() if found.spec.origins.get(name, "family") == "family"}
    spec = found.spec.override("family", **left).override(found.spec.origins["family"], family=family)
    return replace(found, spec=spec)


def cls_and_box(heads: list[RowHead]) -> tuple[RowHead, RowHead] | None:
    """The two subnets, classification first; None unless they are RetinaNet's.

    FCOS has a third head; an RPN's two are 1 x 1 and hang on one tower. Raises SpecError for 4 classes.
    """
    if len(heads) != 2 or not any(head.channels == 4 for head in heads):
        return None
    if any(head.weight.shape[2:] != (3, 3) for head in heads):
        return None
    one, other = heads
    box = other if one.channels != 4 or _is_scores(one, other) else one
    cls = one if box is other else other
    alike = len(cls.convs) == len(box.convs) and cls.anchors == box.anchors
    apart = all(c.inputs[0] is not b.inputs[0] for c, b in zip(cls.convs, box.convs, strict=False))
    return (cls, box) if alike and apart else None


def _is_scores(one: RowHead, other: RowHead) -> bool:
    """With K = 4 both heads have 4 channels: the scores go through Sigmoid or, raw, have the lower bias."""
    if other.channels != 4:
        return False
    through = [reaches(head.rows, "Sigmoid") for head in (one, other)]
    if through[0] != through[1]:
        return through[0]
    bias = [constant(tensor) for head in (one, other) for tensor in head.convs[0].inputs[2:]]
    if len(bias) != 2 or bias[0] is None or bias[1] is None:
        raise SpecError("torchvision RetinaNet: 4 classes, and nothing tells the class head from the box head")
    # Focal loss starts class biases at -log(99) and leaves them negative; box biases stay about 0.
    return bool(bias[0].mean() < bias[1].mean())
