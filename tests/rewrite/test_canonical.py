"""Heads of every layout become the same detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from models import tiny_model

from edge_retina.errors import ModelError, SpecError
from edge_retina.importer import HeadLayout, Imported, Source, heads_from_dict, heads_to_dict, import_model
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.canonical import canonical_heads
from edge_retina.rewrite.emit import Emitter

FRAME = np.random.default_rng(3).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)


def tiny() -> tuple[gs.Graph, Imported]:
    source = Source(tiny_model()[0], "")
    return source.graph, import_model(source)


def detections(graph: gs.Graph, found: Imported) -> list[np.ndarray]:
    model = rewrite(graph, found).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": FRAME})


def laid_out(layout: HeadLayout) -> tuple[gs.Graph, Imported]:
    """The tiny model with its heads turned into a layout, the other way round than the pass does it."""
    graph, found = tiny()
    emit, tensors = Emitter(graph, "other"), graph.tensors()
    kinds = []
    for names, channels in ((found.logits, found.spec.num_classes), (found.deltas, 4)):
        heads = []
        for name, (height, width), cell in zip(names, found.spec.level_shapes, found.spec.cell_anchors, strict=True):
            x, anchors = tensors[name], len(cell)
            if layout.activated and channels != 4:
                x = emit("Sigmoid", x)
            if channels == 4 and layout.delta_order != (0, 1, 2, 3):
                stored = np.argsort(layout.delta_order)  # stored[i] is the canonical delta at place i
                x = emit("Gather", x, (np.arange(anchors)[:, None] * 4 + stored).reshape(-1), axis=1)
            if layout.class_major:
                grid = emit.reshape(x, (1, anchors, channels, height * width))
                x = emit.reshape(emit("Transpose", grid, perm=[0, 2, 1, 3]), (1, -1, height, width))
            if layout.heads != "nchw":
                x = emit("Transpose", x, perm=[0, 2, 3, 1])
            if layout.heads in ("rows", "joined"):
                x = emit.reshape(x, (1, -1, channels))
            heads.append(x)
        if layout.heads == "joined":
            heads = [emit("Concat", *heads, axis=1)]
        for head in heads:
            head.dtype = np.dtype(np.float32)
        graph.outputs += heads
        kinds.append(tuple(head.name for head in heads))
    trunk = tensors[found.trunk_input]
    if layout.input == "nhwc":
        nhwc = gs.Variable("nhwc", np.float32, [1, 64, 64, 3])
        inner = emit("Transpose", nhwc, perm=[0, 3, 1, 2])
        for node in list(trunk.outputs):
            node.inputs = [inner if t is trunk else t for t in node.inputs]
        graph.inputs, trunk = [nhwc], nhwc
        graph.toposort()
    return graph, Imported(found.spec, trunk.name, kinds[0], kinds[1], layout)


def test_a_canonical_model_is_left_alone():
    graph, found = tiny()
    nodes = len(graph.nodes)
    assert canonical_heads(graph, found) is found
    assert len(graph.nodes) == nodes


@pytest.mark.parametrize(
    "layout",
    [
        HeadLayout(heads="nhwc"),
        HeadLayout(heads="rows"),
        HeadLayout(heads="joined"),
        HeadLayout(input="nhwc"),
        HeadLayout(delta_order=(1, 0, 3, 2)),
        HeadLayout(delta_order=(3, 0, 1, 2), heads="joined"),
        HeadLayout(class_major=True),
        HeadLayout(class_major=True, heads="nhwc", delta_order=(1, 0, 3, 2), input="nhwc"),
        HeadLayout(activated=True),
        HeadLayout(activated=True, heads="joined"),
    ],
    ids=str,
)
def test_every_layout_gives_the_same_detections(layout):
    wanted = detections(*tiny())
    found = detections(*laid_out(layout))
    assert wanted[3][0] > 10
    np.testing.assert_array_equal(found[3], wanted[3])
    np.testing.assert_array_equal(found[2], wanted[2])
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-3)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-5)


def test_channels_are_put_in_order_in_the_weights():
    """ty tx th tw straight from the Convs costs nothing when it runs: no node more than in the canonical model."""
    graph, found = tiny()
    nodes = len(graph.nodes)
    swapped = np.array([a * 4 + c for a in range(3) for c in (1, 0, 3, 2)])
    weights = {t.name: t for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    for name in ("boxes.weight", "boxes.bias"):
        weights[name].values = weights[name].values[swapped]
    new = canonical_heads(graph, replace(found, layout=HeadLayout(delta_order=(1, 0, 3, 2))))
    assert len(graph.nodes) == nodes
    assert new.layout == HeadLayout()
    for ours, wanted in zip(detections(graph, new), detections(*tiny()), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_certain_scores_keep_their_order_and_stay_finite():
    graph, found = laid_out(HeadLayout(activated=True))
    shape = [1, 9, 8, 8]
    zeros_and_ones = (np.arange(np.prod(shape)) % 2).reshape(shape).astype(np.float32)
    graph.tensors()[found.logits[0]].inputs[0].inputs[0] = gs.Constant("sure", np.where(zeros_and_ones > 0, 200, -200))
    graph.tensors()["sure"].values = graph.tensors()["sure"].values.astype(np.float32)
    boxes, scores, _, count = detections(graph, found)
    assert np.isfinite(boxes).all()
    assert count[0] > 0
    assert scores.max() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("part", ["trunk_input", "logits", "deltas"])
def test_a_tensor_that_is_not_there(part):
    graph, found = laid_out(HeadLayout(heads="rows"))
    named = "nowhere" if part == "trunk_input" else ("nowhere", "nowhere")
    with pytest.raises(ModelError, match="no tensor 'nowhere'"):
        canonical_heads(graph, replace(found, **{part: named}))


def test_heads_as_a_dict_and_back():
    _, found = laid_out(HeadLayout(heads="joined", delta_order=(1, 0, 3, 2), input="nhwc"))
    assert heads_from_dict(found.spec, heads_to_dict(found)) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": 1}, "wants an object with trunk_input"),
        ({"logits": ["a"]}, "wants 2 logits and 2 deltas, found 1 and 2"),
        ({"heads": "joined"}, "joined wants 1 logits and 1 deltas, found 2 and 2"),
        ({"heads": "sideways"}, "heads wants one of nchw, nhwc, rows, joined, found 'sideways'"),
        ({"input": "chw"}, "input wants one of nchw, nhwc"),
        ({"delta_order": [0, 1, 2]}, r"delta_order wants 0, 1, 2, 3 in some order, found \[0, 1, 2\]"),
        ({"delta_order": [1.0, 0.0, 3.0, 2.0]}, "delta_order wants 0, 1, 2, 3 in some order"),
        ({"delta_order": [False, True, 2, 3]}, "delta_order wants 0, 1, 2, 3 in some order"),
        ({"delta_order": 3}, "delta_order four numbers"),
        ({"class_major": "yes"}, "class_major wants true or false"),
        ({"class_major": True, "heads": "rows"}, "class_major goes with nchw and nhwc"),
        ({"logits": 5}, "want lists of tensor names"),
        ({"logits": [1, 2]}, "want names of tensors"),
    ],
)
def test_a_wrong_dict(change, message):
    _, found = tiny()
    with pytest.raises(SpecError, match=message):
        heads_from_dict(found.spec, heads_to_dict(found) | change)


def test_a_spec_of_a_graph_that_no_family_knows():
    graph, found = laid_out(HeadLayout(heads="joined", delta_order=(1, 0, 3, 2)))
    graph.outputs = [graph.tensors()[name] for name in (*found.logits, *found.deltas)]
    source = Source(gs.export_onnx(graph), "")
    source.metadata.clear()
    again = import_model(source, overrides={**found.spec.to_dict(), "heads": heads_to_dict(found)})
    assert (again.spec, again.layout, again.logits) == (found.spec, found.layout, found.logits)
    assert again.spec.origins["mean"] == "user"
    with pytest.raises(SpecError, match="no tensor 'gone'"):
        import_model(source, overrides={**found.spec.to_dict(), "heads": {**heads_to_dict(found), "logits": ["gone"]}})
