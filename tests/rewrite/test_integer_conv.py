"""Convolutions as integer matrix products: the same numbers, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from convnets import CHANNELS, SIZE, Net, run, session

from edge_retina.rewrite.integer_conv import restore_convs, to_integer_convs

RNG = np.random.default_rng(0)
SCALE = 0.5


def pair(net: Net, x: gs.Tensor, zero: int) -> gs.Variable:
    constants = np.float32(SCALE), np.array(zero, np.uint8)
    codes = net.add("QuantizeLinear", f"{x.name}.codes", x, *constants)
    codes.dtype = np.dtype(np.uint8)
    return net.add("DequantizeLinear", f"{x.name}.values", codes, *constants)


def quantized_conv(net: Net, name: str, data: gs.Tensor, kernel: int = 3, out: int = 5, **how: Any) -> gs.Variable:
    """Weights are whole numbers of 1/4 and 1/8, so that every sum is exact in float32."""
    inputs = net.channels[data.name] // how.get("group", 1)
    codes = gs.Constant(f"{name}/int8", RNG.integers(-20, 21, (out, inputs, kernel, kernel), np.int8))
    scales = np.float32([1 / 4, 1 / 8] * out)[:out]
    weight = gs.Variable(f"{name}/weight", np.float32, list(codes.shape))
    constants = [gs.Constant(f"{name}/s", scales), gs.Constant(f"{name}/z", np.zeros(out, np.int8))]
    net.graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/dq", {"axis": 0}, [codes, *constants], [weight]))
    biases = [] if how.pop("bias", True) is False else [RNG.integers(-9, 10, out).astype(np.float32) / 8]
    attrs = {"pads": [kernel // 2] * 4, "strides": [1, 1], "kernel_shape": [kernel, kernel], **how}
    return net.add("Conv", name, data, weight, *biases, channels=out, **attrs)


def detector(kernel: int = 3, zero: int = 128, **how: Any) -> gs.Graph:
    net = Net()
    return net.end(net.head(quantized_conv(net, "last", pair(net, net.x, zero), kernel, **how)))


def frame(batch: int = 1, *, positive: bool = False) -> np.ndarray:
    """On the codes, so that no rounding depends on the order of things."""
    codes = RNG.integers(0 if positive else -128, 128, (batch, CHANNELS, SIZE, SIZE))
    return codes.astype(np.float32) * np.float32(SCALE)


def ops(graph: gs.Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def serialized(graph: gs.Graph) -> bytes:
    return gs.export_onnx(graph).SerializeToString(deterministic=True)


def test_a_graph_without_quantized_convolutions():
    net = Net()
    graph = net.end(net.head(net.conv("a", net.x, kernel=3)))
    before = serialized(graph)
    assert to_integer_convs(graph) == 0
    assert restore_convs(graph) == 0
    assert serialized(graph) == before


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_same_numbers_there_and_back(kernel, zero, batch):
    graph, x = detector(kernel, zero), frame(batch, positive=not zero)
    expected = run(graph, x)["last.detections"]
    assert to_integer_convs(graph) == 1
    assert ops(graph) == ["QuantizeLinear", f"IntegerConv{kernel}x{kernel}", "Detect"]
    for optimized in (False, True):
        np.testing.assert_array_equal(run(graph, x, optimized=optimized)["last.detections"], expected)
    before = serialized(graph)
    assert to_integer_convs(graph) == 0
    assert serialized(graph) == before
    assert restore_convs(graph) == 1
    assert sorted(ops(graph)) == ["Conv", "DequantizeLinear", "DequantizeLinear", "Detect", "QuantizeLinear"]
    assert [function.name for function in graph.functions] == ["Detect"]
    np.testing.assert_array_equal(run(graph, x)["last.detections"], expected)
    assert restore_convs(graph) == 0


def test_padding_is_zero_not_code_zero():
    """A 3x3 of ones over ones: corners see four, edges six, the inside nine values. Weights 1, zero point 128."""
    net = Net()
    graph = net.end(net.head(quantized_conv(net, "last", pair(net, net.x, 128), out=1, bias=True)))
    constants = {t.name: t for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    constants["last/int8"].values = np.full((1, CHANNELS, 3, 3), 4, np.int8)  # times 1/4
    bias = next(n for n in graph.nodes if n.op == "Conv").inputs[2]
    bias.values = np.zeros(1, np.float32)
    assert to_integer_convs(graph) == 1
    found = run(graph, np.ones((1, CHANNELS, SIZE, SIZE), np.float32))["last.detections"][0, 0] / CHANNELS
    assert found[0].tolist() == [4, *[6] * (SIZE - 2), 4]
    assert found[3].tolist() == [6, *[9] * (SIZE - 2), 6]
    np.testing.assert_array_equal(found, found.T)


def test_onnx_runtime_multiplies_integers(tmp_path):
    graph = detector()
    path = tmp_path / "o.onnx"
    session(graph, optimized=True, save=str(path))
    assert "Conv" in {node.op_type for node in onnx.load(path).graph.node}
    to_integer_convs(graph)
    session(graph, optimized=True, save=str(path))
    made = {node.op_type for node in onnx.load(path).graph.node}
    assert "MatMulIntegerToFloat" in made
    assert not made & {"Conv", "MatMul"}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3)])
def test_pictures_smaller_than_the_kernel(size):
    graph = detector(kernel=5)
    graph.inputs[0].shape = ["batch", CHANNELS, "h", "w"]
    x = frame()[:, :, : size[0], : size[1]]
    expected = run(graph, x)["last.detections"]
    assert to_integer_convs(graph) == 1
    np.testing.assert_array_equal(run(graph, x)["last.detections"], expected)


def test_levels_share_weights_and_a_function():
    net = Net()
    data = pair(net, net.x, 128)
    convs = [quantized_conv(net, f"last_{i}", data, kernel, out=4) for i, kernel in enumerate((3, 3, 1))]
    convs[1].inputs[0].inputs[1] = convs[0].inputs[0].inputs[1]
    graph = net.end(*(net.head(conv) for conv in convs))
    x = frame()
    expected = run(graph, x)
    assert to_integer_convs(graph) == 3
    assert sorted(f.name for f in graph.functions) == ["Detect", "IntegerConv1x1", "IntegerConv3x3"]
    found = run(graph, x)
    assert restore_convs(graph) == 3
    assert sum(t.name.endswith("/int8") for t in graph.tensors().values()) == 2
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        np.testing.assert_array_equal(run(graph, x)[name], values)


@pytest.mark.parametrize(
    "how",
    [
        {"strides": [2, 2]},
        {"strides": [1, 2]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 4, "out": 4},
        {"pads": [0, 0, 0, 0]},
        {"pads": [1, 1, 2, 1]},
        {"kernel": 2, "pads": [1, 1, 0, 0]},
        {"bias": False},
        {"auto_pad": "SAME_UPPER", "pads": None},
    ],
    ids=str,
)
def test_what_is_left_as_it_is(how):
    net = Net()
    conv = quantized_conv(net, "last", pair(net, net.x, 128), **how)
    if conv.inputs[0].attrs["pads"] is None:
        del conv.inputs[0].attrs["pads"]
    graph = net.end(net.head(conv))
    before = serialized(graph)
    assert to_integer_convs(graph) == 0
    assert serialized(graph) == before


def test_results_that_others_read_are_left_alone():
    """A Relu behind it: ONNX Runtime has an integer Conv for that; and an output of the graph itself."""
    net = Net()
    conv = quantized_conv(net, "last", pair(net, net.x, 128))
    graph = net.end(net.head(net.relu(conv)))
    assert to_integer_convs(graph) == 0
    net = Net()
    conv = quantized_conv(net, "last", pair(net, net.x, 128))
    assert to_integer_convs(net.end(conv)) == 0


def test_float_data_is_left_alone():
    net = Net()
    assert to_integer_convs(net.end(net.head(quantized_conv(net, "last", net.x)))) == 0


def test_a_result_that_is_an_output_too():
    net = Net()
    conv = quantized_conv(net, "last", pair(net, net.x, 128))
    graph, x = net.end(net.head(conv), conv), frame()
    expected = run(graph, x)
    to_integer_convs(graph)
    for name, values in run(graph, x).items():
        np.testing.assert_array_equal(values, expected[name])


def test_the_name_and_the_shape_come_back(tmp_path: Path):
    graph = detector()
    to_integer_convs(graph)
    again = gs.import_onnx(gs.export_onnx(graph))  # as a bundle is read
    assert restore_convs(again) == 1
    conv = next(n for n in again.nodes if n.op == "Conv")
    assert conv.name == "node/last"
    assert conv.outputs[0].name == "last"
    assert dict(conv.attrs) == {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1]}
    onnx.checker.check_model(gs.export_onnx(again), full_check=True)


def test_convolutions_without_names():
    """ONNX Runtime takes two nodes without a name, but not two of one name."""
    net = Net()
    data = pair(net, net.x, 128)
    graph = net.end(*(net.head(quantized_conv(net, f"last_{i}", data)) for i in range(2)))
    for node in graph.nodes:
        node.name = ""
    x = frame()
    expected = run(graph, x)
    for edit in (to_integer_convs, restore_convs):
        assert edit(graph) == 2
        for name, values in run(graph, x).items():
            np.testing.assert_array_equal(values, expected[name])
        names = [node.name for node in graph.nodes if node.name]
        assert len(set(names)) == len(names)
