"""From a float graph and its statistics to INT8: by hand on small networks, and on the digits detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from convnets import Net, frame, run, session
from readings import reading

from edge_retina.calibrate import TensorStatistics, gather
from edge_retina.calibrate.statistics import Accumulator
from edge_retina.disagreement import Reference, disagreement, references
from edge_retina.errors import ModelError, UsageError
from edge_retina.importer import import_model, load_onnx
from edge_retina.quantize import Quantizer, Recipe, equalize, equalized, observed
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.equalize import apply_factors, equalizable
from edge_retina.rewrite.integer_conv import restore_convs
from edge_retina.rewrite.signed import to_signed
from edge_retina.rewrite.stem import restore_stem
from edge_retina.spec import DetectorSpec
from edge_retina.weights import QuantizedWeight, half_scale

ROOT = Path(__file__).parents[1]
X = frame()


def statistics_of(model: onnx.ModelProto, *frames: Any) -> dict[str, TensorStatistics]:
    """Of every tensor that a placement may quantize, by running the model with all of them as outputs."""
    graph, found = gs.import_onnx(model), {name: Accumulator() for name in sorted(observed(model))}
    graph.outputs = []
    for name in found:
        seen = gs.Variable(f"{name}.seen", np.float32, ["n", "c", f"{name}_h", f"{name}_w"])
        graph.nodes.append(gs.Node("Identity", seen.name, {}, [graph.tensors()[name]], [seen]))
        graph.outputs.append(seen)
    graph.cleanup().toposort()
    for x in frames or [X]:
        for name, values in run(graph, x).items():
            found[name.removesuffix(".seen")].add(name, reading(values))
    return {name: accumulator.result() for name, accumulator in found.items()}


def small(**last: Any) -> onnx.ModelProto:
    net = Net()
    hidden = net.relu(net.conv("a", net.x, 6, kernel=3))
    return gs.export_onnx(net.end(net.head(net.conv("b", hidden, 4, kernel=3, **last))))


def quantizer_of(model: onnx.ModelProto, recipe: Recipe | None = None, **more: Any) -> Quantizer:
    return Quantizer(model, statistics_of(model), recipe or Recipe(), **more)


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def detections(model: onnx.ModelProto, x: Any = X) -> Any:
    return next(iter(run(gs.import_onnx(model), x).values()))


def test_nothing_to_quantize():
    net = Net()
    model = gs.export_onnx(net.end(net.relu(net.x)))
    assert observed(model) == set()
    assert equalize(model, {}) == {}
    quantizer = Quantizer(model, {}, Recipe())
    assert quantizer.units() == []
    assert [n.op_type for n in quantizer.quantized().graph.node] == ["Relu"]


def test_an_unknown_effort():
    with pytest.raises(UsageError, match="'enormous'; use one of normal, high"):
        Recipe(effort="enormous")


def test_an_unknown_method():
    with pytest.raises(UsageError, match="'median'; use one of mse"):
        quantizer_of(small(), Recipe(method="median")).quantized()


@pytest.mark.parametrize(
    ("missing", "message"), [(["x"], "'x' and 0 more"), (["a.relu", "x"], r"'a\.relu' and 1 more")]
)
def test_missing_statistics(missing, message):
    model = small()
    found = statistics_of(model)
    with pytest.raises(ModelError, match=f"no calibration statistics for {message}; calibrate anew"):
        Quantizer(model, {name: s for name, s in found.items() if name not in missing}, Recipe())


def test_what_it_makes():
    model = small()
    before = model.SerializeToString()
    made = quantizer_of(model).quantized()
    onnx.checker.check_model(made, full_check=True)
    assert model.SerializeToString() == before
    ops = [n.op_type for n in made.graph.node]
    assert ops.count("QuantizeLinear") == 2
    assert ops.count("Conv") == 1  # a; b keeps its size and its result is float
    assert "IntegerConv3x3" in ops
    wanted = detections(model)
    assert 0 < np.abs(detections(made) - wanted).max() < 0.05 * np.abs(wanted).max()


def test_the_same_bytes_every_time():
    first, second = (quantizer_of(small()).quantized(["a"]).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    quantizer = quantizer_of(small())
    other = quantizer.quantized()
    assert quantizer.quantized(["a"]).SerializeToString(deterministic=True) == first
    assert quantizer.quantized() == other


def test_scales_are_those_of_the_range_exact_in_float16():
    quantizer = quantizer_of(small(), Recipe(method="max"))
    found = constants(quantizer.quantized())
    for name in ("x", "a.relu"):
        scale = float(found[f"qdq/{name}/scale"])
        assert scale == float(half_scale(quantizer.statistics[name].maximum / 127))
        assert scale == float(np.float16(scale))
    assert quantizer.range(["x"]) == np.abs(X).max()


def test_tensors_of_one_group_share_what_both_saw():
    """A Concat of two: the scale is that of the larger, with the histogram of both."""
    net = Net()
    parts = [net.relu(net.conv("small", net.x)), net.relu(net.conv("large", net.x))]
    joined = net.add("Concat", "joined", *parts, channels=8, axis=1)
    model = gs.export_onnx(net.end(net.head(net.conv("last", joined))))
    quantizer = quantizer_of(model, Recipe(method="max"))
    found = constants(quantizer.quantized())
    maxima = [quantizer.statistics[f"{name}.relu"].maximum for name in ("small", "large")]
    assert maxima[0] != maxima[1]
    names = ("small.relu", "large.relu", "joined")
    assert {float(found[f"qdq/{n}/scale"]) for n in names} == {float(half_scale(max(maxima) / 127))}


def test_a_skipped_convolution_keeps_its_weights():
    model = small()
    made = quantizer_of(model).quantized(["b"])
    conv = next(n for n in made.graph.node if n.output[0] == "b")
    assert conv.op_type == "Conv"
    np.testing.assert_array_equal(constants(made)[conv.input[1]], constants(model)[conv.input[1]])
    np.testing.assert_array_equal(constants(made)[conv.input[2]], constants(model)[conv.input[2]])
    everything = quantizer_of(model).quantized(["a", "b"])
    assert [n.op_type for n in everything.graph.node] == [n.op_type for n in model.graph.node]
    np.testing.assert_array_equal(detections(everything), detections(model))


def test_63_levels_behind_what_can_be_negative():
    """x is read by a, a.relu by b; a weight that reads both kinds has 63."""
    found = constants(quantizer_of(small()).quantized())
    assert np.abs(found["a/w/int8"]).max() == 63
    assert np.abs(found["b/w/int8"]).max() == 127
    net = Net()
    weight = net.weight("both/w", 4, 4, 1)
    signed = net.conv("both_0", net.x, weight=weight)
    unsigned = net.conv("both_1", net.relu(net.conv("a", net.x)), weight=weight)
    quantizer = quantizer_of(gs.export_onnx(net.end(net.head(signed), net.head(unsigned))))
    assert quantizer.units() == [("a",), ("both_0", "both_1")] or quantizer.units() == [("both_0", "both_1"), ("a",)]
    assert np.abs(quantizer.weights["both/w"].codes).max() == 63


def test_plain_scales_clip_nothing():
    model = small()
    weights = constants(model)
    for name, weight in quantizer_of(model, Recipe(search_scales=False)).weights.items():
        top = np.abs(weights[name]).max((1, 2, 3)) / (63 if name == "a/w" else 127)
        np.testing.assert_array_equal(weight.scales, half_scale(top))
    searched = quantizer_of(model).weights
    assert any(
        (searched[n].scales < w.scales).any()
        for n, w in quantizer_of(model, Recipe(search_scales=False)).weights.items()
    )


def test_biases_give_back_what_weights_lost():
    """1x1 over a constant picture that is on the codes: the output is exact up to float rounding, without it is not."""
    net = Net()
    model = gs.export_onnx(net.end(net.head(net.conv("a", net.x, kernel=1))))
    x = np.full_like(X, 127.0) * np.float32([1, -1, 1, 1])[:, None, None]  # a scale of 1
    found = statistics_of(model, x)
    exact = detections(model, x)
    errors = {
        correct: np.abs(detections(Quantizer(model, found, Recipe("max", correct_bias=correct)).quantized(), x) - exact)
        for correct in (True, False)
    }
    assert errors[True].max() < 1e-3
    assert errors[False].max() > 0.05


def test_biases_without_correction_are_as_they_were():
    model = small()
    made = quantizer_of(model, Recipe(correct_bias=False)).quantized()
    for name in "ab":
        np.testing.assert_array_equal(constants(made)[f"{name}/bias"], constants(model)[f"{name}/2"])


def test_biases_of_grouped_convolutions_are_left_alone():
    model = small(group=2)
    made = quantizer_of(model).quantized()
    np.testing.assert_array_equal(constants(made)["b/bias"], constants(model)["b/2"])
    assert np.abs(detections(made) - detections(model)).max() < 0.1


def test_weights_rounded_elsewhere_are_taken():
    model = small()
    given = QuantizedWeight(np.ones((4, 6, 3, 3), np.int8), np.full(4, 0.5, np.float32))
    quantizer = quantizer_of(model, rounded={"b/w": given})
    assert quantizer.weights["b/w"] is given
    assert set(quantizer.weights) == {"a/w", "b/w"}
    assert (constants(quantizer.quantized())["b/w/int8"] == 1).all()


def test_convolutions_that_share_a_weight_are_one_unit_with_biases_of_their_own():
    net = Net()
    weight, levels = net.weight("head/w", 4, 4, 3), []
    for level, stride in enumerate((1, 2)):
        x = net.relu(net.conv(f"p{level}", net.x, stride=stride))
        levels.append(net.head(net.conv(f"head_{level}", x, weight=weight)))
    quantizer = quantizer_of(gs.export_onnx(net.end(*levels)))
    assert ("head_0", "head_1") in quantizer.units()
    made = quantizer.quantized()
    assert sum(name.startswith("head/w/int8") for name in constants(made)) == 1
    assert not np.array_equal(constants(made)["head_0/bias"], constants(made)["head_1/bias"])


# The digits detector.


@dataclass(frozen=True)
class Digits:
    model: onnx.ModelProto
    spec: DetectorSpec
    frames: Sequence[Any]
    unseen: Sequence[Any]
    references: Sequence[Reference]

    def disagreement(self, model: onnx.ModelProto) -> float:
        return disagreement(model, self.spec, self.unseen, self.references)

    def quantized(self, model: onnx.ModelProto, found: Mapping[str, TensorStatistics] | None = None) -> onnx.ModelProto:
        return Quantizer(model, found or gather(model, observed(model), self.frames), Recipe()).quantized()


@pytest.fixture(scope="module")
def digits() -> Digits:
    source = load_onnx(ROOT / "samples" / "digits" / "digits.onnx")
    found = import_model(source)
    model = rewrite(source.graph, found)
    pictures = [cv2.imread(str(path)) for path in sorted((ROOT / "calib" / "digits").glob("*.jpg"))[:5]]
    return Digits(model, found.spec, pictures[:4], pictures[4:], references(model, found.spec, pictures[4:]))


def optimized_ops(model: onnx.ModelProto, path: Path) -> dict[str, int]:
    """What ONNX Runtime makes of a model, by kernel."""
    session(gs.import_onnx(model), optimized=True, save=str(path))
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_digits_in_int8(digits, tmp_path):
    """All in integers on the CPU; close to float, also in the form that TensorRT gets, whose codes end at 127."""
    made = digits.quantized(digits.model)
    onnx.checker.check_model(made, full_check=True)
    kernels = optimized_ops(made, tmp_path / "optimized.onnx")
    last = 2 * len(digits.spec.strides)
    assert kernels["QLinearConv"] + last == sum(n.op_type == "Conv" for n in digits.model.graph.node)
    assert kernels["MatMulIntegerToFloat"] == last + 2 * 2  # the finest level of both heads in three bands
    assert not {"Conv", "FusedConv", "NhwcFusedConv"} & set(kernels)
    cpu = digits.disagreement(made)
    assert 0 < cpu < 0.08
    graph = gs.import_onnx(made)
    assert restore_stem(graph) == 1
    assert restore_convs(graph) == last  # the last convolution of both heads, on each level
    assert digits.disagreement(gs.export_onnx(graph)) == pytest.approx(cpu, abs=1e-3)
    to_signed(graph)
    assert digits.disagreement(gs.export_onnx(graph)) < 0.12


def test_digits_with_unbalanced_channels(digits):
    """Channels made up to 64 times larger ruin INT8; equalisation brings it back."""
    graph = gs.import_onnx(digits.model)
    rng, tensors = np.random.default_rng(0), graph.tensors()
    apply_factors(
        graph,
        {
            s.name: np.exp2(rng.integers(-6, 1, len(tensors[s.writers[0]].values))).astype(np.float32)
            for s in equalizable(graph)
        },
    )
    hard = gs.export_onnx(graph)
    assert digits.disagreement(digits.quantized(hard)) > 0.5
    even = equalized(hard, equalize(hard, gather(hard, observed(hard), digits.frames)))
    assert digits.disagreement(digits.quantized(even)) < 0.2
