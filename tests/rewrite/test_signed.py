"""From uint8 to int8 activations: same values in the calibrated range, whatever the zero point was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest

from edge_retina.errors import ModelError
from edge_retina.rewrite.signed import to_signed

SCALE = 0.5


class Chain:
    """A graph from x float32 (n, 4, 1, 1) on, node by node."""

    def __init__(self) -> None:
        self.x = gs.Variable("x", np.float32, ["n", 4, 1, 1])
        self.graph = gs.Graph(inputs=[self.x], opset=18, ir_version=8)

    def add(self, op: str, name: str, *inputs: Any, dtype: Any = None, **attrs: Any) -> gs.Variable:
        tensors = [
            t if isinstance(t, gs.Tensor) else gs.Constant(f"{name}/{i}", np.array(t)) for i, t in enumerate(inputs)
        ]
        out = gs.Variable(f"{name}/out", dtype)
        self.graph.nodes.append(gs.Node(op, name, attrs, tensors, [out]))
        return out

    def pair(self, x: gs.Tensor, zero: Any, name: str = "act", scale: Any = SCALE) -> gs.Variable:
        parameters = [np.float32(scale)] + ([] if zero is None else [np.asarray(zero)])
        kind = np.uint8 if zero is None else np.asarray(zero).dtype
        codes = self.add("QuantizeLinear", f"{name}/q", x, *parameters, dtype=kind)
        return self.add("DequantizeLinear", f"{name}/dq", codes, *parameters)

    def end(self, out: gs.Variable) -> gs.Graph:
        out.dtype, out.shape = np.dtype(np.float32), ["n", "channels", 1, 1]
        self.graph.outputs = [out]
        return self.graph


def run(graph: gs.Graph, x: Any) -> list[float]:
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.float32(x).reshape(-1, 4, 1, 1)})[0].ravel().tolist()


def zero_points(graph: gs.Graph) -> set[tuple[str, int]]:
    nodes = [node for node in graph.nodes if node.op in ("QuantizeLinear", "DequantizeLinear")]
    return {(node.inputs[2].dtype.name, int(node.inputs[2].values.max())) for node in nodes}


def test_a_graph_without_quantization_is_left_alone():
    chain = Chain()
    assert to_signed(chain.end(chain.add("Relu", "relu", chain.x))) == 0


@pytest.mark.parametrize(
    ("zero", "x", "before", "after"),
    [
        # Codes 64, 128, 191, 255 of uint8 are -64, 0, 63, 127 of int8.
        (np.uint8(128), [-32, 0, 31.5, 63.5], [-32, 0, 31.5, 63.5], [-32, 0, 31.5, 63.5]),
        # Half codes go to the even one under both: 127.5 to 128 and -0.5 to 0; 129.5 to 130 and 1.5 to 2.
        (np.uint8(128), [-0.25, 0.25, 0.75, -64], [0, 0, 1, -64], [0, 0, 1, -64]),
        # Beyond the range both saturate alike: code 255 is 127.
        (np.uint8(128), [-99, 99, 63.75, -64.5], [-64, 63.5, 63.5, -64], [-64, 63.5, 63.5, -64]),
        # Codes 0, 1, 127 stay; 128 and more saturate at 127 * 0.5.
        (np.uint8(0), [0, 0.5, 63.5, 64], [0, 0.5, 63.5, 64], [0, 0.5, 63.5, 63.5]),
        (None, [0, 0.5, 63.5, 127.5], [0, 0.5, 63.5, 127.5], [0, 0.5, 63.5, 63.5]),
    ],
)
def test_activations(zero, x, before, after):
    chain = Chain()
    graph = chain.end(chain.pair(chain.x, zero))
    assert run(graph, x) == before
    assert to_signed(graph) == 2
    assert run(graph, x) == after
    assert to_signed(graph) == 0
    assert run(graph, x) == after


def test_every_value_of_a_range_stays_exactly():
    x = np.linspace(-64, 63.5, 10_000, dtype=np.float32)
    chain = Chain()
    graph = chain.end(chain.pair(chain.x, np.uint8(128)))
    before = run(graph, x)
    assert len(set(before)) == 256
    to_signed(graph)
    assert run(graph, x) == before


def conv_of(chain: Chain, x: gs.Tensor, bias: Any) -> gs.Variable:
    """Two channels out of four, weights 1 2 3 4 and 4 3 2 1 times 0.5 and 0.25."""
    codes = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.int8).reshape(2, 4, 1, 1)
    scales, zeros = np.float32([0.5, 0.25]), np.zeros(2, np.int8)
    weight = chain.add("DequantizeLinear", "weight/dq", codes, scales, zeros, axis=0)
    return chain.add("Conv", "conv", x, weight, bias)


@pytest.mark.parametrize("kind", ["float", "int32"])
def test_a_convolution(kind):
    """x 2 2 2 2: 0.5 * 20 + 1.5 = 11.5 and 0.25 * 20 - 2 = 3; int32 bias: 6 * (0.5 * 0.5), -16 * (0.5 * 0.25)."""
    chain = Chain()
    bias: Any = np.float32([1.5, -2])
    if kind == "int32":
        scales = np.float32([0.25, 0.125])
        bias = chain.add("DequantizeLinear", "bias/dq", np.int32([6, -16]), scales, np.zeros(2, np.int32), axis=0)
    graph = chain.end(conv_of(chain, chain.pair(chain.x, np.uint8(0)), bias))
    assert run(graph, [2, 2, 2, 2]) == [11.5, 3]
    assert to_signed(graph) == (2 if kind == "float" else 3)
    assert run(graph, [2, 2, 2, 2]) == [11.5, 3]
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert isinstance(conv.inputs[2], gs.Constant)
    assert conv.inputs[2].values.tolist() == [1.5, -2]
    assert conv.inputs[2].values.dtype == np.float32
    assert zero_points(graph) == {("int8", 0)}
    assert to_signed(graph) == 0


def test_pairs_for_the_cpu_go_and_what_read_them_reads_their_input():
    """0.3 would become 0.5 by the pair; without it the Relu passes it on."""
    chain = Chain()
    kept = chain.pair(chain.x, np.uint8(128), "qdq/x")
    doubled = chain.add("Add", "add", kept, kept)
    for_cpu = chain.pair(doubled, np.uint8(128), "cpu/add", scale=0.75)
    graph = chain.end(chain.add("Add", "sum", for_cpu, chain.add("Relu", "relu", for_cpu)))
    x = [-1, 0.3, 0.5, 1]
    assert run(graph, x) == [-2.25, 1.5, 1.5, 4.5]  # doubled -2 1 1 2 in steps of 0.75: -2.25 0.75 0.75 2.25
    assert to_signed(graph) == 4
    assert run(graph, x) == [-2, 2, 2, 4]
    assert [node.op for node in graph.nodes] == ["QuantizeLinear", "DequantizeLinear", "Add", "Relu", "Add"]
    assert to_signed(graph) == 0


@pytest.mark.parametrize("zero", [np.uint8(3), np.uint8(127), np.int8(-3), np.int8(1)])
def test_another_zero_point_is_an_error(zero):
    chain = Chain()
    with pytest.raises(ModelError, match=f"zero point {int(zero)};"):
        to_signed(chain.end(chain.pair(chain.x, zero)))


def test_uint8_weights_are_an_error():
    chain = Chain()
    codes = np.full((2, 4, 1, 1), 130, np.uint8)
    weight = chain.add("DequantizeLinear", "weight/dq", codes, np.float32(1), np.uint8(128))
    with pytest.raises(ModelError, match="uint8 weights"):
        to_signed(chain.end(chain.add("Conv", "conv", chain.x, weight)))


def test_codes_read_by_another_node_are_an_error():
    chain = Chain()
    codes = chain.add("QuantizeLinear", "q", chain.x, np.float32(1), np.uint8(128))
    pooled = chain.add("MaxPool", "pool", codes, kernel_shape=[1, 1])
    graph = chain.end(chain.add("DequantizeLinear", "dq", pooled, np.float32(1), np.uint8(128)))
    with pytest.raises(ModelError, match=r"behind 'q', found MaxPool 'pool'"):
        to_signed(graph)


def test_different_zero_points_per_channel_are_an_error():
    chain = Chain()
    codes = np.ones((2, 4, 1, 1), np.int8)
    weight = chain.add("DequantizeLinear", "weight/dq", codes, np.float32([1, 1]), np.int8([0, 1]), axis=0)
    with pytest.raises(ModelError, match="one constant zero point"):
        to_signed(chain.end(chain.add("Conv", "conv", chain.x, weight)))
