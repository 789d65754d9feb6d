"""A newer opset: the graph itself where it is new enough, else the same numbers under the same names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from models import tiny_model
from onnx import helper, numpy_helper

from edge_retina.errors import ModelError
from edge_retina.rewrite.opset import LEAST_OPSET, raise_opset


def richer_model(opset: int) -> onnx.ModelProto:
    """The tiny RetinaNet with operators behind its stem that were spelt otherwise in older opsets."""
    graph = (model := tiny_model(opset=opset)[0]).graph
    stem, rest = list(graph.node[:2]), list(graph.node[2:])
    added: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[Any], outputs: int = 1, **attributes: Any) -> list[str]:
        """Node named after its operator and number; arrays become initializers."""
        names = []
        for value in inputs:
            if not isinstance(value, str):
                graph.initializer.append(numpy_helper.from_array(value, f"constant_{len(graph.initializer)}"))
                value = graph.initializer[-1].name
            names.append(value)
        results = [f"{op}_{len(added)}:{i}" for i in range(outputs)]
        added.append(helper.make_node(op, names, results, f"{op}_{len(added)}", **attributes))
        return results

    (x,) = add("Resize", [stem[-1].output[0], "", "", np.array([1, 6, 16, 16])], mode="nearest")
    (x,) = add("Resize", [x, "", np.array([1, 1, 0.5, 0.5], np.float32)], mode="linear")
    (x,) = add("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    (mean,) = add("ReduceMean", [x], axes=[2, 3], keepdims=1)
    (x,) = add("Add", [x, mean])
    first, second = add("Split", [x], 2, axis=1)
    (x,) = add("Concat", [second, first], axis=1)
    (x,) = add("Pad", [x, np.array([0, 0, 1, 1, 0, 0, 1, 1])], mode="constant")
    (x,) = add("AveragePool", [x], kernel_shape=[3, 3])
    (x,) = add("Clip", [x, np.array(0.01, np.float32), ""])
    (x,) = add("BatchNormalization", [x, *(np.full(6, v, np.float32) for v in (2, 1, 0, 4))])
    for node in rest:
        node.input[:] = [x if name == stem[-1].output[0] else name for name in node.input]
    del graph.node[:]
    graph.node.extend([*stem, *added, *rest])
    onnx.checker.check_model(model, full_check=True)
    return model


def run(graph: gs.Graph) -> list[np.ndarray]:
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


@pytest.mark.parametrize("opset", [19, 20])
def test_new_enough_is_left_alone(opset: int) -> None:
    graph = gs.import_onnx(tiny_model(opset=opset)[0])
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert raise_opset(graph) is graph
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [13, 17])
def test_older_graphs_give_the_same_numbers_under_the_same_names(opset: int) -> None:
    graph = gs.import_onnx(richer_model(opset))
    before, names = run(graph), {node.name for node in graph.nodes if node.name}
    tensors = set(graph.tensors())
    raised = raise_opset(graph)
    # Not more than asked for: TensorRT 10.3 reads up to 20.
    assert raised.opset == LEAST_OPSET == 19
    assert {node.name for node in raised.nodes if node.name} == names
    added = set(raised.tensors()) - tensors
    assert tensors <= set(raised.tensors())
    assert added
    assert all(name.startswith("model/opset/") for name in added)
    assert "Constant" not in {node.op for node in raised.nodes}
    assert [(t.name, list(t.shape)) for t in raised.inputs] == [("images", ["batch", 3, 64, 64])]
    assert [t.name for t in raised.outputs] == [t.name for t in graph.outputs]
    for new, old in zip(run(raised), before, strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-6 * np.abs(old).max())
    assert raise_opset(raised) is raised


def test_a_given_opset_is_met_exactly() -> None:
    assert raise_opset(gs.import_onnx(tiny_model(opset=17)[0]), 18).opset == 18


def test_what_cannot_be_converted_is_an_error_that_says_what_to_do() -> None:
    graph = gs.import_onnx(tiny_model(opset=17)[0])
    # Split into unequal parts by an attribute that ended with opset 12.
    relu = next(node for node in graph.nodes if node.op == "Relu")
    relu.op, relu.attrs = "Split", {"split": [2, 4]}
    with pytest.raises(ModelError, match=r"opset 19 or newer, found 17.*opset_version=19"):
        raise_opset(graph)


def test_weights_stay_where_they_are():
    """Large ones, which the converter does not get to see, as well as small ones; inputs are what they were."""
    model = tiny_model(opset=13)[0]
    graph = model.graph
    stem = next(t for t in graph.initializer if t.name == graph.node[0].input[1])
    wide = numpy_helper.to_array(stem).repeat(200, 0)
    stem.CopyFrom(numpy_helper.from_array(wide, stem.name))
    before = gs.import_onnx(model)
    del before.nodes[1:]
    before.nodes[0].inputs = before.nodes[0].inputs[:2]
    before.outputs = [before.nodes[0].outputs[0]]
    before.outputs[0].dtype, before.outputs[0].shape = np.dtype(np.float32), None
    before.cleanup()
    assert wide.nbytes > 4096
    after = raise_opset(before)
    assert after.opset == LEAST_OPSET
    assert [t.name for t in after.inputs] == [t.name for t in before.inputs]
    np.testing.assert_array_equal(after.nodes[0].inputs[1].values, wide)
