"""Q/DQ pairs in a graph: what stands where, that the numbers are those of rounding, and that ONNX Runtime sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from convnets import Net, frame, run, session

from edge_retina.errors import ModelError
from edge_retina.rewrite.placement import layer_name, place
from edge_retina.rewrite.qdq import CPU_PREFIX, add_qdq
from edge_retina.rewrite.signed import to_signed
from edge_retina.weights import QuantizedWeight, half_scale, quantize_weight

X = frame(batch=2)


def add_pairs(graph: gs.Graph, scales: dict[str, float], skip: tuple[str, ...] = ()) -> int:
    """add_qdq with weights rounded by the largest of each channel and biases as they are."""
    placement = place(graph, skip)
    shared: dict[str, QuantizedWeight] = {}
    weights, biases = {}, {}
    for node in graph.nodes:
        if (name := layer_name(node)) in placement.convs:
            values = node.inputs[1].values
            weights[name] = shared.setdefault(node.inputs[1].name, quantize_weight(values, search=False))
            biases[name] = node.inputs[2].values if len(node.inputs) > 2 else np.zeros(len(values), np.float32)
    return add_qdq(graph, placement, scales, weights, biases)


def scales_of(graph: gs.Graph, skip: tuple[str, ...] = ()) -> dict[str, float]:
    """Of every group, from what the float graph gives for X."""
    outputs = graph.outputs
    placement = place(graph, skip)
    tensors = graph.tensors()
    graph.outputs = []
    for name in sorted(placement.tensors()):
        kept = gs.Variable(f"{name}.seen", np.float32, ["n", "c", f"{name}h", f"{name}w"])
        graph.nodes.append(gs.Node("Identity", kept.name, {}, [tensors[name]], [kept]))
        graph.outputs.append(kept)
    seen = run(graph.copy().cleanup(), X)
    for tensor in graph.outputs:
        tensor.inputs[0].inputs.clear()
    graph.outputs = outputs
    graph.cleanup()
    return {
        group: float(half_scale(max(np.abs(seen[f"{n}.seen"]).max() for n in names) / 127))
        for group, names in placement.observed.items()
    }


# NumPy: the same network, every rounding spelled out.


def rounded(x: Any, scale: float, *, signed: bool) -> Any:
    low, high = (-128, 127) if signed else (0, 255)
    return np.clip(np.rint(x / np.float32(scale)), low, high) * np.float32(scale)


def rounded_weight(weight: Any) -> Any:
    scales = half_scale(np.abs(weight).max((1, 2, 3)) / 127)[:, None, None, None]
    return np.rint(weight / scales) * scales


def convolved(x: Any, node: gs.Node, *, exact: bool = False) -> Any:
    weight = node.inputs[1].values if exact else rounded_weight(node.inputs[1].values)
    pad, stride, size = node.attrs["pads"][0], node.attrs["strides"][0], weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("ncyxij,ocij->noyx", windows, weight) + node.inputs[2].values[:, None, None]


def test_an_empty_placement_adds_nothing():
    net = Net()
    graph = net.end(net.relu(net.x))
    assert add_qdq(graph, place(graph), {}, {}, {}) == 0


def chain(**last: Any) -> gs.Graph:
    net = Net()
    hidden = net.relu(net.conv("a", net.x, 6, kernel=3))
    return net.end(net.head(net.conv("b", hidden, 5, **last)))


def test_a_chain_against_numpy():
    graph = chain(kernel=3)
    scales = scales_of(graph)
    a, b = (next(n for n in graph.nodes if layer_name(n) == name) for name in "ab")
    hidden = np.maximum(convolved(rounded(X, scales["x"], signed=True), a), 0)
    expected = convolved(rounded(hidden, scales["a.relu"], signed=False), b)
    exact = run(graph, X)["b.detections"]
    assert add_pairs(graph, scales) == 6  # two pairs, two weights
    found = run(graph, X)["b.detections"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert 1e-3 < np.abs(found - exact).max() < 0.1


def bottleneck(net: Net, *, project: bool) -> gs.Variable:
    stem = net.relu(net.conv("stem", net.x))
    y = net.conv("b2", net.relu(net.conv("b1", stem)), kernel=3)
    return net.relu(net.add("Add", "sum", y, net.conv("down", stem) if project else stem))


@pytest.mark.parametrize("project", [False, True])
def test_a_residual_against_numpy_as_tensorrt_sees_it(project):
    """The convolution that absorbs the sum is not rounded again, the skip is."""
    net = Net()
    graph = net.end(net.head(net.conv("last", bottleneck(net, project=project))))
    scales = scales_of(graph)
    node = {layer_name(n): n for n in graph.nodes}
    stem = np.maximum(convolved(rounded(X, scales["x"], signed=True), node["stem"]), 0)
    stem = rounded(stem, scales["stem.relu"], signed=False)
    inner = np.maximum(convolved(stem, node["b1"]), 0)
    y = convolved(rounded(inner, scales["b1.relu"], signed=False), node["b2"])
    skip = rounded(convolved(stem, node["down"]), scales["down"], signed=True) if project else stem
    total = rounded(np.maximum(y + skip, 0), scales["sum.relu"], signed=False)
    expected = convolved(total, node["last"])
    add_pairs(graph, scales)
    to_signed(graph)  # drops the pair that ONNX Runtime needs; every range holds its largest value
    # A value next to the middle between two codes may be rounded the other way.
    np.testing.assert_allclose(run(graph, X)["last.detections"], expected, atol=3 * scales["sum.relu"])
    assert np.abs(run(graph, X)["last.detections"] - expected).mean() < 1e-4


def test_what_is_in_the_graph():
    graph = chain(kernel=3)
    biases = {layer_name(n): n.inputs[2].values for n in graph.nodes if n.op == "Conv"}
    scales = scales_of(graph)
    add_pairs(graph, scales)
    onnx.checker.check_model(gs.export_onnx(graph), full_check=True)
    convs = [n for n in graph.nodes if n.op == "Conv"]
    for conv, signed in zip(convs, (True, False), strict=True):
        data, weight = conv.inputs[0].inputs[0], conv.inputs[1].inputs[0]
        quantize = data.inputs[0].inputs[0]
        assert [data.op, quantize.op, weight.op] == ["DequantizeLinear", "QuantizeLinear", "DequantizeLinear"]
        assert quantize.inputs[1:] == data.inputs[1:]
        zero = data.inputs[2].values
        assert (zero.dtype, int(zero)) == (np.uint8, 128 if signed else 0)
        assert data.inputs[1].values.dtype == np.float32
        assert data.inputs[1].values.shape == ()
        # TensorRT wants the axis written, int8 codes, a zero point for each channel.
        assert weight.attrs == {"axis": 0}
        codes, scale, zeros = (t.values for t in weight.inputs)
        assert (codes.dtype, zeros.dtype, scale.dtype) == (np.int8, np.int8, np.float32)
        assert len(scale) == len(zeros) == len(codes)
        assert not zeros.any()
        assert conv.inputs[2].values.dtype == np.float32
        np.testing.assert_array_equal(conv.inputs[2].values, biases[layer_name(conv)])
    assert float(convs[0].inputs[0].inputs[0].inputs[1].values) == scales["x"]
    # No float weights are left behind.
    assert {t.name for t in graph.tensors().values() if isinstance(t, gs.Constant)} == {
        *(f"{n}/w/{part}" for n in "ab" for part in ("int8", "scale", "zero")),
        *(f"qdq/{n}/{part}" for n in ("x", "a.relu") for part in ("scale", "zero")),
        *("a/bias", "b/bias"),
    }


def test_idempotent():
    graph = chain()
    scales = scales_of(graph)
    add_pairs(graph, scales)
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert add_qdq(graph, place(graph), {}, {}, {}) == 0
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_the_same_bytes_every_time():
    made = []
    for _ in range(2):
        graph = chain(kernel=3)
        add_pairs(graph, scales_of(graph))
        made.append(gs.export_onnx(graph).SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_a_missing_scale_names_the_tensor():
    graph = chain()
    with pytest.raises(ModelError, match=r"no calibrated range for 'a\.relu'"):
        add_pairs(graph, {"x": 0.1})


def test_a_convolution_left_in_float():
    graph = chain(kernel=3)
    scales = scales_of(graph, ("b",))
    add_pairs(graph, scales, ("b",))
    conv = next(n for n in graph.nodes if layer_name(n) == "b")
    assert isinstance(conv.inputs[1], gs.Constant)
    assert conv.inputs[1].values.dtype == np.float32
    # a's result is rounded for ONNX Runtime only, which leaves weights alone behind a scale per channel.
    pair = conv.inputs[0].inputs[0]
    assert pair.name.startswith(CPU_PREFIX)
    to_signed(graph)
    assert next(n for n in graph.nodes if layer_name(n) == "b").inputs[0].inputs[0].op == "Relu"


@pytest.mark.parametrize("shared", [False, True])
def test_a_convolution_left_in_float_is_float_in_onnx_runtime(shared):
    """Its weights are not rounded behind our back; nor is, for TensorRT, what it reads."""
    net = Net()
    hidden = net.relu(net.conv("a", net.x, 6, kernel=3))
    plain = net.conv("b", hidden, 6, kernel=3, bias=False)
    outputs = [net.head(net.conv("c", net.relu(plain), 5, kernel=3)), plain]
    if shared:
        outputs.append(net.head(net.conv("d", hidden)))
    graph = net.end(*outputs)
    # One channel a thousand times smaller than the others: with one scale for the whole weight it would be zero.
    graph.tensors()["b/w"].values[0] /= 1000
    add_pairs(graph, scales_of(graph, ("b",)), ("b",))
    found, wanted = (run(graph, X, optimized=optimized)["b"][:, 0] for optimized in (True, False))
    # Beside sums in another order, a code of the input may differ by one.
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
    to_signed(graph)
    assert next(n for n in graph.nodes if layer_name(n) == "b").inputs[0].inputs[0].op == "Relu"
    onnx.checker.check_model(gs.export_onnx(graph), full_check=True)


def test_a_tensor_has_one_pair_and_a_shared_weight_one_copy():
    net = Net()
    weight = net.weight("shared", 4, 4, 3)
    stem = net.relu(net.conv("stem", net.x))
    heads = [net.head(net.conv(f"head_{i}", stem, weight=weight)) for i in range(3)]
    graph = net.end(*heads)
    add_pairs(graph, scales_of(graph))
    assert sum(n.op == "QuantizeLinear" for n in graph.nodes) == 2
    model = gs.export_onnx(graph)
    assert (
        sum(t.data_type == onnx.TensorProto.INT8 and list(t.dims) == [4, 4, 3, 3] for t in model.graph.initializer) == 1
    )
    weights = [n.inputs[1].inputs[0].inputs[0] for n in graph.nodes if n.op == "Conv" and layer_name(n) != "stem"]
    assert len(weights) == 3
    assert all(w is weights[0] for w in weights)


def test_a_convolution_without_bias_gets_the_one_given():
    graph = chain(bias=False)
    exact = run(graph, X)["b.detections"]
    placement, scales = place(graph), scales_of(graph)
    weights = {layer_name(n): quantize_weight(n.inputs[1].values) for n in graph.nodes if n.op == "Conv"}
    add_qdq(graph, placement, scales, weights, {"b": np.full(5, 10, np.float32)})
    np.testing.assert_allclose(run(graph, X)["b.detections"], exact + 10, atol=0.1)


def test_a_tensor_of_both_readers_stays_float_for_the_other():
    """The stem's result goes to a convolution, quantized, and to the outside, as it was."""
    net = Net()
    stem = net.relu(net.conv("stem", net.x))
    graph = net.end(net.head(net.conv("last", stem)), stem)
    scales = scales_of(graph)
    add_pairs(graph, scales)
    stem_codes = run(graph, X)["stem.relu"] / scales["stem.relu"]
    assert np.abs(stem_codes - np.rint(stem_codes)).max() > 0.1


def optimized_ops(graph: gs.Graph, path: Path) -> list[str]:
    session(graph, optimized=True, save=str(path))
    return [node.op_type for node in onnx.load(path).graph.node]


def test_onnx_runtime_convolves_in_integers(tmp_path):
    """All but the last, whose result is float; a residual with a projection, a MaxPool and an FPN sum."""
    net = Net()
    low = bottleneck(net, project=True)
    high = net.relu(net.conv("high", net.pool("pool", low), kernel=3))
    inner = net.conv("inner", high)
    merged = net.add("Add", "merged", net.conv("lateral", low), net.up("up", inner))
    smooth = net.conv("smooth", merged, kernel=3)
    tower = net.relu(net.conv("tower", smooth, kernel=3))
    graph = net.end(net.head(net.conv("logits", tower)), net.head(net.conv("deltas", inner)))
    exact = run(graph, X)
    add_pairs(graph, scales_of(graph))
    ops = optimized_ops(graph, tmp_path / "o.onnx")
    placed = [layer_name(n) for n in graph.nodes if n.op == "Conv"]
    assert len(placed) == 11
    assert ops.count("QLinearConv") == len(placed) - 2, ops
    for name, values in run(graph, X, optimized=True).items():
        assert np.abs(values - exact[name]).max() < 0.15
    # For TensorRT: the same, less what only ONNX Runtime needs.
    to_signed(graph)
    for name, values in run(graph, X).items():
        assert np.abs(values - exact[name]).max() < 0.15
