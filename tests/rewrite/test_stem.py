"""The first convolution on 2x2 pixels at a time: the same numbers, there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from convnets import CHANNELS, SIZE, Net, run, session

from edge_retina.rewrite.stem import fold_stem, restore_stem

SCALE = 0.5
STEM = {"pads": [3] * 4, "strides": [2, 2], "kernel_shape": [7, 7]}


def stem(zero: int = 128, kernel: int = 7, size: Any = SIZE, **how: Any) -> gs.Graph:
    """x, quantized, through a quantized Conv and a Relu. Every sum is exact in float32."""
    net, rng, out = Net(), np.random.default_rng(1), 5
    net.x.shape = ["batch", CHANNELS, size, size]
    constants = np.float32(SCALE), np.array(zero, np.uint8)
    codes = net.add("QuantizeLinear", "codes", net.x, *constants)
    codes.dtype, codes.shape = np.dtype(np.uint8), net.x.shape
    values = net.add("DequantizeLinear", "values", codes, *constants)
    values.dtype, values.shape = np.dtype(np.float32), net.x.shape
    int8 = gs.Constant("w/int8", rng.integers(-20, 21, (out, CHANNELS, kernel, kernel), np.int8))
    weight = gs.Variable("w", np.float32, list(int8.shape))
    scales = [gs.Constant("w/s", np.full(out, 0.25, np.float32)), gs.Constant("w/z", np.zeros(out, np.int8))]
    net.graph.nodes.append(gs.Node("DequantizeLinear", "w/dq", {"axis": 0}, [int8, *scales], [weight]))
    bias = [rng.integers(-9, 10, out).astype(np.float32) / 8] if how.pop("bias", True) else []
    conv = net.add("Conv", "conv", values, weight, *bias, channels=out, **{**STEM, **how})
    return net.end(net.relu(conv))


def frame(batch: int = 1, size: int = SIZE) -> np.ndarray:
    codes = np.random.default_rng(0).integers(0, 128, (batch, CHANNELS, size, size))
    return codes.astype(np.float32) * np.float32(SCALE)


def test_a_graph_without_a_quantized_stem():
    net = Net()
    graph = net.end(net.conv("a", net.x, kernel=7, stride=2))
    assert fold_stem(graph) == 0
    assert restore_stem(graph) == 0


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("size", [SIZE, 2, 10])
def test_the_same_numbers_there_and_back(size, zero, batch):
    graph, x = stem(zero, size=size), frame(batch, size)
    expected = run(graph, x)["conv.relu"]
    weight = next(t for t in graph.tensors().values() if t.name == "w/int8").values
    assert fold_stem(graph) == 1
    assert [n.op for n in graph.nodes] == ["QuantizeLinear", "FoldedStem", "Relu"]
    for optimized in (False, True):
        np.testing.assert_array_equal(run(graph, x, optimized=optimized)["conv.relu"], expected)
    assert fold_stem(graph) == 0
    again = gs.import_onnx(gs.export_onnx(graph))
    assert restore_stem(again) == 1
    np.testing.assert_array_equal(again.tensors()["w/int8"].values, weight)
    assert not again.functions
    np.testing.assert_array_equal(run(again, x)["conv.relu"], expected)
    assert restore_stem(again) == 0


def test_the_window_by_hand():
    """Ones everywhere, four channels with weights 1/4: what of 7x7 lies inside 16x16, about every second pixel."""
    graph = stem(0, size=16, bias=True)
    tensors = graph.tensors()
    tensors["w/int8"].values = np.ones_like(tensors["w/int8"].values)
    tensors["conv/2"].values = np.zeros(5, np.float32)
    assert fold_stem(graph) == 1
    found = run(graph, np.ones((1, CHANNELS, 16, 16), np.float32))["conv.relu"][0, 0]
    sides = [4, 6, 7, 7, 7, 7, 7, 5]
    np.testing.assert_array_equal(found, np.outer(sides, sides))


@pytest.mark.parametrize(
    "how",
    [
        {"size": 9},
        {"size": "side"},
        {"kernel": 5, "kernel_shape": [5, 5], "pads": [2] * 4},
        {"strides": [1, 1]},
        {"pads": [2, 2, 3, 3]},
        {"dilations": [2, 2]},
        {"bias": False},
    ],
)
def test_what_stays(how):
    assert fold_stem(stem(**how)) == 0


def test_onnx_runtime_multiplies_integers(tmp_path):
    net = stem()
    relu = net.outputs[0]
    codes = gs.Variable("out", np.uint8, relu.shape)
    constants = [gs.Constant("os", np.array(4, np.float32)), gs.Constant("oz", np.array(0, np.uint8))]
    net.nodes.append(gs.Node("QuantizeLinear", "oq", {}, [relu, *constants], [codes]))
    net.outputs = [codes]
    fold_stem(net)
    path = tmp_path / "o.onnx"
    session(net, optimized=True, save=str(path))
    made = {node.op_type for node in onnx.load(path).graph.node}
    assert "QLinearConv" in made
    assert "Conv" not in made
