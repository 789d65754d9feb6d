"""The trial run: what a model has to show before it is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import rewritten, tiny_model
from onnx import helper, numpy_helper

from edge_retina.check import check, head_names, head_session
from edge_retina.errors import ModelError, RuntimeFailure


def tiny(change=lambda graph: None, frame_size=None, **options):
    model, spec = rewritten(tiny_model(**options)[0], frame_size)
    change(model.graph)
    return model.SerializeToString(), spec


def test_nothing():
    _, spec = tiny()
    with pytest.raises((RuntimeFailure, ModelError)):
        check(onnx.ModelProto().SerializeToString(), spec)


@pytest.mark.parametrize("frame_size", [None, (48, 80), (1, 1)])
def test_batches_are_exact(frame_size):
    data, spec = tiny(frame_size=frame_size)
    assert check(data, spec, frame_size).batch_max is None


@pytest.mark.parametrize("levels", [1, 3])
def test_heads_by_name(levels):
    data, spec = tiny(levels=levels)
    names = head_names(spec)
    assert names == [f"{kind}_{level}" for kind in ("logits", "deltas") for level in range(levels)]
    frame = np.zeros((1, 40, 30, 3), np.uint8)
    heads = head_session(data, spec).run(names, {"frames": frame})
    shapes = [(1, channels, h, w) for channels in (9, 12) for h, w in spec.level_shapes]
    assert [head.shape for head in heads] == shapes
    assert all(head.dtype == np.float32 for head in heads)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_heads_that_are_not_finite(value):
    def spoil(graph):
        bias = next(t for t in graph.initializer if t.name == "model/classes.bias")
        bias.CopyFrom(numpy_helper.from_array(np.full(9, value, np.float32), bias.name))

    data, spec = tiny(spoil)
    with pytest.raises(ModelError, match="NaN or infinity on a frame of noise, in logits_0"):
        check(data, spec)


def behind_the_stem(graph, op, values, *, add=False):
    """Put a node with a constant in there, whose result is added to the stem's or takes its place."""
    stem = next(node for node in graph.node if node.output[0] == "model/stem")
    stem.output[0] = "before"
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), "values"))
    made = "mixed" if add else "model/stem"
    at = list(graph.node).index(stem) + 1
    graph.node.insert(at, helper.make_node(op, ["before", "values"], [made]))
    if add:
        graph.node.insert(at + 1, helper.make_node("Add", ["before", made], ["model/stem"]))


def test_frames_that_influence_each_other():
    """The mean over a batch is another than that of a frame alone: single frames only."""
    data, spec = tiny(lambda graph: behind_the_stem(graph, "ReduceMean", [0], add=True))
    assert check(data, spec).batch_max == 1


def test_single_frames_only():
    """A batch that the graph refuses."""
    data, spec = tiny(lambda graph: behind_the_stem(graph, "Reshape", [1, 6, 8, 8]))
    assert check(data, spec).batch_max == 1


def test_another_batch_only():
    data, spec = tiny(lambda graph: behind_the_stem(graph, "Reshape", [4, 6, 8, 8]))
    with pytest.raises(ModelError, match="does not run on a single frame; if it was exported for another fixed batch"):
        check(data, spec)
