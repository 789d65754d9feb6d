"""Heads of any layout made canonical in NumPy, and decoded: held against the rewriting of the graph."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from decoder import make_spec, random_heads
from matching import match
from models import tiny_model

from edge_retina.errors import RuntimeFailure
from edge_retina.geometry import Geometry
from edge_retina.importer import HeadLayout, Imported, Source, import_model
from edge_retina.verify.heads import Heads, canonical

SPEC = make_spec()
NAMES = ("logits_0", "logits_1"), ("deltas_0", "deltas_1")

# Value by value: what the docstring of HeadLayout says of each layout.
LAYOUTS = [
    HeadLayout(),
    HeadLayout(heads="nhwc"),
    HeadLayout(heads="rows"),
    HeadLayout(heads="joined"),
    HeadLayout(class_major=True),
    HeadLayout(heads="nhwc", class_major=True, delta_order=(1, 0, 3, 2)),
    HeadLayout(heads="joined", delta_order=(1, 0, 3, 2)),
    HeadLayout(delta_order=(2, 0, 1, 3), activated=True),
]


def stored(head: np.ndarray, layout: HeadLayout, anchors: int, order: tuple[int, ...]) -> np.ndarray:
    """One level [1, A * C, H, W] as the layout keeps it; channel c of an anchor stands at order[c]."""
    _, channels, height, width = head.shape
    values = channels // anchors
    result = np.zeros((1, height, width, channels), np.float32)
    for a in range(anchors):
        for c in range(values):
            place = order[c] * anchors + a if layout.class_major else a * values + order[c]
            result[..., place] = head[:, a * values + c]
    if layout.heads == "nchw":
        return result.transpose(0, 3, 1, 2)
    return result if layout.heads == "nhwc" else result.reshape(1, height * width * anchors, values)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_canonical(layout: HeadLayout) -> None:
    logits, deltas = random_heads(SPEC, np.random.default_rng(0))
    per_level = [len(cell) for cell in SPEC.cell_anchors]
    plain = tuple(range(SPEC.num_classes))
    kept = [stored(level, layout, a, plain) for level, a in zip(logits, per_level, strict=True)]
    offsets = [stored(level, layout, a, layout.delta_order) for level, a in zip(deltas, per_level, strict=True)]
    if layout.activated:
        kept = [1 / (1 + np.exp(-level)) for level in kept]
    if layout.heads == "joined":
        kept, offsets = [np.concatenate(kept, axis=1)], [np.concatenate(offsets, axis=1)]
    names = [names[: len(kept)] for names in NAMES]
    ours, theirs = canonical(Imported(SPEC, "images", names[0], names[1], layout), kept, offsets)
    for level in range(SPEC.num_levels):
        np.testing.assert_allclose(ours[level], logits[level][0], atol=1e-4 if layout.activated else 0)
        np.testing.assert_array_equal(theirs[level], deltas[level][0])


def tiny() -> tuple[gs.Graph, Imported]:
    model, _ = tiny_model()
    source = Source(model, "0" * 64)
    return source.graph, import_model(source)


def test_a_graph_up_to_its_heads() -> None:
    graph, found = tiny()
    heads = Heads(graph, found)
    picture = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    boxes, scores, labels = heads(picture, Geometry((64, 64), (64, 64), (0, 0)))
    assert len(boxes) == len(scores) == len(labels) > 5
    doubled, *_ = heads(picture, Geometry((128, 128), (64, 64), (0, 0)))
    np.testing.assert_allclose(doubled, 2 * boxes, rtol=1e-6)


def test_heads_inside_a_float16_graph() -> None:
    """Their type stands nowhere in the file and is inferred."""
    graph, found = tiny()
    picture = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    geometry = Geometry((64, 64), (64, 64), (0, 0))
    wanted = Heads(graph.copy(), found)(picture, geometry)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            tensor.values = tensor.values.astype(np.float16)
        elif tensor in graph.inputs:
            tensor.dtype = np.dtype(np.float16)
        else:
            tensor.dtype = None
    heads = list(graph.outputs)
    graph.outputs = [gs.Variable(f"{head.name}/out", np.float16) for head in heads]
    for head, out in zip(heads, graph.outputs, strict=True):
        graph.nodes.append(gs.Node("Identity", out.name, inputs=[head], outputs=[out]))
    boxes, scores, labels = Heads(graph, found)(picture, geometry)
    report = match((boxes, scores, labels), wanted, px=1.0, score=0.01, threshold=found.spec.score_threshold)
    assert report.matched > 0.8 * len(wanted[1])


def test_a_graph_that_does_not_run() -> None:
    graph, found = tiny()
    for node in graph.nodes:
        if node.op == "Relu":
            node.op = "Perm"
    with pytest.raises(RuntimeFailure, match="refuses the model"):
        Heads(graph, found)
