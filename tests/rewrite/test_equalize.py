"""Equalisation: which channels belong together, and that the function does not change by one bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from convnets import LINEAR, Net, frame, run

from edge_retina.calibrate import gather
from edge_retina.calibrate.histogram import Histogram
from edge_retina.calibrate.statistics import TensorStatistics
from edge_retina.importer import import_model, load_onnx
from edge_retina.quantize import equalize, equalized, observed
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.equalize import Stream, apply_factors, channel_factors, equalizable, equalizing_factors

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
RNG = np.random.default_rng(0)


def streams(graph: gs.Graph) -> list[tuple[set[str], set[str]]]:
    """Writers and readers, by the names of the convolutions (their weights are name/w)."""
    return [
        ({w.removesuffix("/w") for w in s.writers}, {w.removesuffix("/w") for w in s.readers})
        for s in equalizable(graph)
    ]


def some_factors(graph: gs.Graph, seed: int = 0) -> dict[str, Any]:
    """Powers of two from 1/64 to 1 for every stream."""
    rng, tensors = np.random.default_rng(seed), graph.tensors()
    return {
        s.name: np.exp2(rng.integers(-6, 1, len(tensors[s.writers[0]].values))).astype(np.float32)
        for s in equalizable(graph)
    }


def assert_nothing_changes(graph: gs.Graph, count: int) -> None:
    x = frame(batch=2)
    before, weights = run(graph, x), weights_of(graph)
    factors = some_factors(graph)
    assert apply_factors(graph, factors) == len(factors) == count
    for optimized in (False, True):
        for name, values in run(graph, x, optimized=optimized).items():
            if optimized:
                np.testing.assert_allclose(values, before[name], rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(values, before[name])
    after = weights_of(graph)
    assert (sum(not np.array_equal(after[name], weights[name]) for name in weights) > 0) == bool(count)


def weights_of(graph: gs.Graph) -> dict[str, Any]:
    return {n.outputs[0].name: n.inputs[1].values for n in graph.nodes if n.op == "Conv"}


def test_nothing_to_equalize():
    net = Net()
    graph = net.end(net.relu(net.x))
    assert equalizable(graph) == ()
    assert equalizing_factors(graph, {}) == {}
    assert apply_factors(graph, {}) == 0


def test_one_convolution_has_nobody_to_share_with():
    net = Net()
    assert equalizable(net.end(net.head(net.conv("a", net.x)))) == ()


@pytest.mark.parametrize("between", ["", "Relu", "LeakyRelu", "MaxPool", "AveragePool", "Resize", "linear", "Identity"])
def test_a_pair(between):
    net = Net()
    x = net.conv("a", net.x, 6, kernel=3)
    if between in ("MaxPool", "AveragePool"):
        x = net.add(between, "pool", x, kernel_shape=[2, 2], strides=[2, 2])
    elif between in ("Resize", "linear"):
        x = net.up("up", x, LINEAR) if between == "linear" else net.up("up", x)
    elif between:
        x = net.add(between, "between", x)
    graph = net.end(net.head(net.conv("b", x, kernel=3)))
    assert streams(graph) == [({"a"}, {"b"})]
    assert_nothing_changes(graph, 1)


@pytest.mark.parametrize("between", ["Clip", "Sigmoid", "constant", "Mul", "Softmax", "grouped", "output", "head"])
def test_what_breaks_a_stream(between):
    net = Net()
    x = net.conv("a", net.x)
    outputs = []
    if between == "Clip":
        x = net.add("Clip", "clip", x, np.float32(0), np.float32(6))
    elif between in ("Sigmoid", "Softmax"):
        x = net.add(between, "made", x)
    elif between == "constant":
        x = net.add("Add", "shifted", x, np.ones((1, 4, 1, 1), np.float32))
    elif between == "Mul":  # an attention gate
        x = net.add("Mul", "gated", x, net.add("Sigmoid", "gate", x))
    elif between == "grouped":  # even where a plain convolution reads it too
        outputs.append(net.head(net.conv("deep", x, group=4)))
    elif between == "output":
        outputs.append(x)
    else:
        outputs.append(net.head(x))
    graph = net.end(net.head(net.conv("b", x)), *outputs)
    assert equalizable(graph) == ()
    assert_nothing_changes(graph, 0)


def test_a_residual_stage_is_one_stream():
    """The stem and the end of each block write it; the beginnings and the end of the stage read it."""
    net = Net()
    x = net.relu(net.conv("stem", net.x, 8))
    for i in range(2):
        y = net.conv(f"b{i}_2", net.relu(net.conv(f"b{i}_1", x, 6, kernel=3)), 8)
        x = net.relu(net.add("Add", f"sum_{i}", y, x))
    graph = net.end(net.head(net.conv("last", x)))
    assert sorted(streams(graph), key=str) == sorted(
        [
            ({"stem", "b0_2", "b1_2"}, {"b0_1", "b1_1", "last"}),
            ({"b0_1"}, {"b0_2"}),
            ({"b1_1"}, {"b1_2"}),
        ],
        key=str,
    )
    stream = next(s for s in equalizable(graph) if "stem/w" in s.writers)
    assert stream.tensors() == {"stem.relu", "sum_0.relu", "sum_1.relu"}
    assert dict(stream.read) == {"b0_1/w": ("stem.relu",), "b1_1/w": ("sum_0.relu",), "last/w": ("sum_1.relu",)}
    assert_nothing_changes(graph, 3)


def test_an_fpn_with_a_shared_head_is_one_stream():
    """Both levels are read by the same weights, and the upper one is added to the lower."""
    net = Net()
    c3 = net.relu(net.conv("c3", net.x))
    inner_4 = net.conv("inner_4", net.conv("c4", c3, stride=2), 6)
    merged = net.add("Add", "sum", net.conv("inner_3", c3, 6), net.up("up", inner_4))
    tower, last = net.weight("tower/w", 5, 6, 3), net.weight("last/w", 4, 5, 1)
    heads = []
    for level, x in enumerate((merged, inner_4)):
        hidden = net.relu(net.conv(f"tower_{level}", x, weight=tower))
        heads.append(net.head(net.conv(f"last_{level}", hidden, weight=last)))
    graph = net.end(*heads)
    assert sorted(streams(graph), key=str) == sorted(
        [
            ({"c3"}, {"c4", "inner_3"}),
            ({"c4"}, {"inner_4"}),
            ({"inner_3", "inner_4"}, {"tower"}),
            ({"tower"}, {"last"}),
        ],
        key=str,
    )
    stream = next(s for s in equalizable(graph) if s.readers == ("tower/w",))
    assert {name: sorted(read) for name, read in stream.read.items()} == {"tower/w": ["inner_4", "sum"]}
    assert_nothing_changes(graph, 4)
    factor = np.full(6, 0.5, np.float32)
    divided = channel_factors(graph, {stream.name: factor})
    assert sorted(divided) == ["inner_3", "inner_4", "sum", "up"]
    assert all(values is factor for values in divided.values())
    assert channel_factors(graph, {}) == {}


def test_a_weight_that_reads_and_writes_the_same_stream():
    """The same convolution twice in a row: its rows and its columns are the same channels."""
    net = Net()
    weight = net.weight("again/w", 4, 4, 3)
    x = net.relu(net.conv("a", net.x))
    x = net.relu(net.conv("again_1", x, weight=weight))
    x = net.relu(net.conv("again_2", x, weight=weight))
    graph = net.end(net.head(net.conv("last", x)))
    assert streams(graph) == [({"a", "again"}, {"again", "last"})]
    assert_nothing_changes(graph, 1)


def test_a_bias_that_others_share():
    """Two convolutions with one bias constant, one of them with a result that must not change."""
    net = Net()
    a = net.conv("a", net.x)
    b = net.conv("b", net.x)
    b.inputs[0].inputs[2] = a.inputs[0].inputs[2]
    graph = net.end(net.head(net.conv("last", net.relu(a))), net.head(b))
    assert streams(graph) == [({"a"}, {"last"})]
    assert_nothing_changes(graph, 1)


def test_a_bias_shared_by_two_writers_and_one_without():
    net = Net()
    weight = net.weight("tower/w", 4, 4, 3)
    first, second = (net.conv(f"tower_{i}", net.x, weight=weight, bias=bool(i)) for i in range(2))
    third = net.conv("other", net.x)
    third.inputs[0].inputs[2] = second.inputs[0].inputs[2]
    total = net.add("Add", "t", net.add("Sub", "s", first, second), third)
    graph = net.end(net.head(net.conv("last", net.relu(total))))
    assert streams(graph) == [({"tower", "other"}, {"last"})]
    assert_nothing_changes(graph, 1)


def test_a_weight_that_something_else_reads():
    net = Net()
    hidden = net.conv("a", net.x)
    graph = net.end(net.head(net.conv("b", hidden)))
    norm = gs.Variable("norm", np.float32, [1, 1, 1, 1])
    graph.nodes.append(gs.Node("ReduceL2", "norm", {}, [graph.tensors()["a/w"]], [norm]))
    graph.outputs.append(norm)
    assert equalizable(graph) == ()


def test_weights_or_biases_that_are_computed():
    for index in (1, 2):
        net = Net()
        a = net.conv("a", net.x)
        conv = a.inputs[0]
        conv.inputs[index] = net.add("Identity", "computed", conv.inputs[index], channels=4)
        assert equalizable(net.end(net.head(net.conv("b", a)))) == ()


def test_a_single_channel_added_to_all():
    net = Net()
    wide, narrow = net.conv("wide", net.x), net.conv("narrow", net.x, 1)
    graph = net.end(net.head(net.conv("last", net.add("Add", "sum", wide, narrow))))
    assert equalizable(graph) == ()


# Factors.


def statistics(peak: Any, energy: Any = None) -> TensorStatistics:
    peak = np.asarray(peak, np.float64)
    energy = peak**2 / 10 if energy is None else np.asarray(energy, np.float64)
    return TensorStatistics(Histogram(maximum=float(peak.max())), np.zeros_like(peak), energy, peak)


def pair_of(weight: Any) -> gs.Graph:
    """Two channels, read by 1x1 weights (O, 2)."""
    net = Net()
    second = gs.Constant("b/w", np.asarray(weight, np.float32)[:, :, None, None])
    return net.end(net.head(net.conv("b", net.relu(net.conv("a", net.x, 2)), weight=second)))


def test_balanced_channels_are_left_alone():
    graph = pair_of([[1.0, 1.0], [0.5, -1.0]])
    assert equalizing_factors(graph, {"a.relu": statistics([3.0, 3.0])}) == {}


def test_a_channel_64_times_smaller_that_matters_as_much():
    """Peaks 64 and 1, weights 1 and 64: divided by 1 and 1/64 both are equal, which no weaker factor does."""
    graph = pair_of([[1.0, 64.0], [1.0, -64.0]])
    found = equalizing_factors(graph, {"a.relu": statistics([64.0, 1.0])})
    assert [factor.tolist() for factor in found.values()] == [[1.0, 1 / 64]]
    assert next(iter(found.values())).dtype == np.float32


def test_a_small_channel_that_nobody_reads_stays_small():
    graph = pair_of([[1.0, 1e-6], [-1.0, 0.0]])
    assert equalizing_factors(graph, {"a.relu": statistics([64.0, 1.0])}) == {}


def test_dead_channels_and_dead_tensors():
    graph = pair_of([[1.0, 64.0], [1.0, -64.0]])
    assert equalizing_factors(graph, {"a.relu": statistics([0.0, 0.0])}) == {}
    assert equalizing_factors(graph, {"a.relu": statistics([5.0, 0.0])}) == {}
    found = equalizing_factors(graph, {"a.relu": statistics([1.0, 1e-20])})
    assert all(factor.min() >= 1 / 256 for factor in found.values())


def test_factors_are_powers_of_two_up_to_one():
    graph = pair_of(RNG.standard_normal((8, 2)) * [1, 30])
    for factor in equalizing_factors(graph, {"a.relu": statistics([30.0, 0.9])}).values():
        exponents = np.log2(factor)
        assert (exponents == np.rint(exponents)).all()
        assert factor.max() == 1.0


def test_applied_by_hand():
    """Channel 1 divided by 1/4: its row and bias times four, the column that reads it by four."""
    net = Net()
    first, second = (
        gs.Constant(f"{n}/w", np.full((2, i, 1, 1), v, np.float32)) for n, i, v in (("a", 4, 1), ("b", 2, 8))
    )
    a = net.conv("a", net.x, weight=first)
    a.inputs[0].inputs[2].values = np.float32([1, 3])
    graph = net.end(net.head(net.conv("b", net.relu(a), weight=second)))
    (stream,) = equalizable(graph)
    assert stream == Stream(stream.name, ("a/w",), ("b/w",), {"b/w": ("a.relu",)})
    assert apply_factors(graph, {stream.name: np.float32([1, 0.25])}) == 1
    nodes = {n.outputs[0].name: n for n in graph.nodes}
    assert nodes["a"].inputs[1].values[:, 0, 0, 0].tolist() == [1, 4]
    assert nodes["a"].inputs[2].values.tolist() == [1, 12]
    assert nodes["b"].inputs[1].values[0, :, 0, 0].tolist() == [8, 2]
    assert all(nodes[n].inputs[1].values.dtype == np.float32 for n in "ab")


# Real detectors.


def load(path: Path) -> onnx.ModelProto:
    source = load_onnx(path)
    return rewrite(source.graph, import_model(source))


def detect(model: onnx.ModelProto, image: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": image[None]})


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v1_raw_dynamo", "tv_v2_raw_ts", "digits"])
def test_detections_stay_bit_for_bit(name):
    digits = name == "digits"
    model = load(ROOT / "samples" / "digits" / "digits.onnx" if digits else FIXTURES / f"{name}.onnx")
    picture = sorted((ROOT / "calib" / "digits").glob("*.jpg"))[0]
    image = cv2.imread(str(picture))
    graph = gs.import_onnx(model)
    factors = some_factors(graph)
    assert factors
    assert apply_factors(graph, factors) == len(factors)
    wanted = detect(model, image)
    assert wanted[3] > 0  # count
    for before, after in zip(wanted, detect(gs.export_onnx(graph), image), strict=True):
        np.testing.assert_array_equal(after, before)


def test_unbalanced_digits_are_balanced_again():
    """Channels of every stream made up to 64 times larger: what equalisation finds makes them even once more."""
    graph = gs.import_onnx(load(ROOT / "samples" / "digits" / "digits.onnx"))
    frames = [cv2.imread(str(path)) for path in sorted((ROOT / "calib" / "digits").glob("*.jpg"))[:2]]
    apply_factors(graph, some_factors(graph))
    hard = gs.export_onnx(graph)
    factors = equalize(hard, gather(hard, observed(hard), frames))
    assert len(factors) >= 0.8 * len(equalizable(graph))
    even = equalized(hard, factors)
    assert equalized(even, {}) is even
    for before, after in zip(detect(hard, frames[0]), detect(even, frames[0]), strict=True):
        np.testing.assert_array_equal(after, before)
    again = equalize(even, gather(even, observed(even), frames))
    assert len(again) < len(factors) / 2
