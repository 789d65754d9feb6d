"""The class and box subnets of a detectron2 RetinaNet, found by their names or by the weights that levels share."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import constant, row_heads

__all__ = ["Subnets", "subnets"]

# modeling/meta_arch/retinanet.py, RetinaNetHead: parts of the names of its last layers.
_CLS, _BOX = "cls_score", "bbox_pred"
# Parts of the names that other trainers give their layers.
_OTHERS = ("bbox_head", "retina_cls", "classification_head", "cls_logits", "class_net", "cls_head")


@dataclass(frozen=True, eq=False)
class Subnets:
    """The last Conv of both subnets on every level, in the graph's order; named: by detectron2's names."""

    cls: tuple[gs.Node, ...]
    box: tuple[gs.Node, ...]
    named: bool

    @property
    def anchors(self) -> int:
        """Anchors per cell, A."""
        return _channels(self.box[0]) // 4

    @property
    def classes(self) -> int:
        """Class channels per anchor, K."""
        return _channels(self.cls[0]) // self.anchors


def subnets(graph: gs.Graph) -> Subnets | None:
    """Two 3 x 3 convolutions after which no other comes, each with one weight on all of several levels, else None.

    Not where levels are joined as rows (torchvision), scores leave the last Conv by a Sigmoid (ODTK), or names are
    another trainer's. Raises SpecError where nothing tells the class from the box subnet.
    """
    groups = _last_convs(graph)
    if len(groups) != 2 or len(groups[0]) != len(groups[1]) or len(groups[0]) < 2 or row_heads(graph):
        return None
    convs = [conv for group in groups for conv in group]
    if any(constant(conv.inputs[1]).shape[2:] != (3, 3) for conv in convs):  # type: ignore[union-attr]
        return None
    if any(reader.op == "Sigmoid" for conv in convs for reader in conv.outputs[0].outputs):
        return None
    first, second = (_names(group) for group in groups)
    if any(other in name for name in first | second for other in _OTHERS):
        return None
    for cls, box, pair in ((first, second, groups), (second, first, groups[::-1])):
        if any(_CLS in name for name in cls) and any(_BOX in name for name in box):
            return _checked(Subnets(pair[0], pair[1], named=True))
    fitting = [Subnets(a, b, named=False) for a, b in (groups, groups[::-1]) if _fits(_channels(a[0]), _channels(b[0]))]
    if len(fitting) == 2:
        # Focal loss starts class biases at -log(99) and leaves them negative; box biases stay about 0.
        biases = [constant(tensor) for found in fitting for tensor in found.cls[0].inputs[2:]]
        if len(biases) != 2 or biases[0] is None or biases[1] is None:
            return None
        return fitting[0] if biases[0].mean() < biases[1].mean() else fitting[1]
    return fitting[0] if fitting else None


def _last_convs(graph: gs.Graph) -> list[tuple[gs.Node, ...]]:
    """The Convs that no other Conv depends on, grouped by the value of their weight, in the graph's order."""
    before: set[int] = set()  # tensors that a Conv depends on
    last: list[gs.Node] = []
    for node in reversed(graph.nodes):
        leads = any(id(tensor) in before for tensor in node.outputs)
        if node.op == "Conv" and not leads:
            last.append(node)
        if node.op == "Conv" or leads:
            before.update(id(tensor) for tensor in node.inputs)
    groups: dict[bytes, list[gs.Node]] = {}
    for conv in reversed(last):
        weight = constant(conv.inputs[1])
        if weight is None:
            return []
        groups.setdefault(weight.tobytes(), []).append(conv)
    return [tuple(group) for group in groups.values()]


def _names(convs: tuple[gs.Node, ...]) -> set[str]:
    return {name for conv in convs for name in (conv.name, *(tensor.name for tensor in conv.inputs[1:]))}


def _channels(conv: gs.Node) -> int:
    weight = constant(conv.inputs[1])
    assert weight is not None
    return len(weight)


def _fits(cls: int, box: int) -> bool:
    """Whether cls = A * K and box = A * 4 channels for some A and K."""
    return box % 4 == 0 and cls % (box // 4) == 0


def _checked(found: Subnets) -> Subnets:
    cls, box = _channels(found.cls[0]), _channels(found.box[0])
    if not _fits(cls, box):
        raise SpecError(
            f"detectron2 RetinaNet: {box} box channels (A x 4) and {cls} class channels (A x K) do not agree"
        )
    return found
