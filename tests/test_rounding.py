"""Rounding with error feedback: codes by hand and by brute force, Hessians against ONNX Runtime's convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_retina import rounding
from edge_retina.calibrate import gather
from edge_retina.errors import InputError, ModelError
from edge_retina.importer import import_model, load_onnx
from edge_retina.quantize import Quantizer, Recipe, observed
from edge_retina.rewrite import rewrite
from edge_retina.rounding import hessians, round_weight, round_weights
from edge_retina.weights import LEVELS, QuantizedWeight, quantize_weight

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
FRAMES = [RNG.integers(0, 256, (12, 10, 3), np.uint8) for _ in range(3)]
PLAIN = Recipe(correct_bias=False)
CORRELATED = np.array([[1.0, 0.9], [0.9, 1.0]])


def conv_weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def rounded(rows: Any, block: np.ndarray, levels: int = LEVELS) -> list[list[int]]:
    """Codes of rows of a 1x1 convolution, in units of its scale."""
    weight = np.asarray(rows, np.float32)[:, :, None, None]
    scales = np.ones(len(weight), np.float32)
    return round_weight(weight, [block], levels=levels, scales=scales).codes[:, :, 0, 0].tolist()


def cost(row: Any, codes: Any, block: np.ndarray) -> float:
    difference = np.asarray(row, np.float64) - np.asarray(codes)
    return float(difference @ block @ difference)


@pytest.mark.parametrize("shape", [(0, 3, 1, 1), (2, 0, 1, 1), (0, 0, 3, 3)])
def test_nothing_to_round(shape):
    block = np.eye(shape[1] * shape[2] * shape[3])
    found = round_weight(np.zeros(shape, np.float32), [block], levels=LEVELS, scales=np.ones(shape[0], np.float32))
    assert found.codes.shape == shape
    assert found.codes.dtype == np.int8


def test_one_column_is_rounded_to_nearest():
    assert rounded([[0.4], [-2.6], [0.5], [1.5]], np.array([[3.0]])) == [[0], [-3], [0], [2]]


@pytest.mark.parametrize("block", [np.eye(12), np.diag(np.arange(12.0)), np.zeros((12, 12))])
def test_uncorrelated_inputs_want_the_nearest_codes(block):
    weight = conv_weight(5, 3, 2, 2)
    nearest = quantize_weight(weight, search=False)
    found = round_weight(weight, [block], levels=LEVELS, scales=nearest.scales)
    np.testing.assert_array_equal(found.codes, nearest.codes)
    np.testing.assert_array_equal(found.scales, nearest.scales)


@pytest.mark.parametrize(
    ("row", "block", "levels", "nearest", "expected"),
    [
        # 0.4 lost on the first input: the second makes up for 0.9 of it. 0.36 + 0.16 - 2 * 0.9 * 0.24, not 0.608.
        ([0.4, 0.4], CORRELATED, 127, [0, 0], [0, 1]),
        # Opposite inputs, the larger one first: the 0.4 lost on it want 1.35 * 0.4 = 0.54 lost on the other.
        ([0.3, 0.4], np.array([[1.0, -1.35], [-1.35, 2.0]]), 127, [0, 0], [0, 0]),
        ([-0.3, 0.4], np.array([[1.0, -1.35], [-1.35, 2.0]]), 127, [0, 0], [-1, 0]),
        # No code for 9: 7, and the other input has to do the rest.
        ([9.0, 0.0], CORRELATED, 7, [7, 0], [7, 2]),
        ([-9.0, 7.0], CORRELATED, 7, [-7, 7], [-7, 5]),
        # In sequence 2, -1, -1, at a cost of 1.13; nearest is better: 0.73.
        ([-0.3, -1.8, 1.8], np.array([[9.0, 5, -2], [5, 3, -2], [-2, -2, 12]]), 127, [0, -2, 2], [0, -2, 2]),
    ],
)
def test_codes_by_hand(row, block, levels, nearest, expected):
    assert rounded([row], block, levels) == [expected]
    assert np.clip(np.rint(row), -levels, levels).tolist() == nearest
    assert cost(row, expected, block) <= cost(row, nearest, block)


@pytest.mark.parametrize("row", [[0.4, 0.4], [-0.3, -0.45], [1.4, -2.6], [6.9, 6.6], [0.1, 0.2]])
def test_two_correlated_inputs_against_every_choice_of_codes(row):
    near = [range(int(np.floor(v)) - 2, int(np.ceil(v)) + 3) for v in row]
    best = min(itertools.product(*near), key=lambda codes: cost(row, codes, CORRELATED))
    [found] = rounded([row], CORRELATED)
    assert cost(row, found, CORRELATED) == pytest.approx(cost(row, best, CORRELATED))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 120), st.sampled_from([1, 7, 63, 127]))
def test_never_worse_than_nearest(seed, columns, samples, levels):
    """Also with fewer samples than columns, whose Hessian is singular, and with inputs of very different size."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((samples, columns)) + rng.standard_normal(columns)) * np.exp(rng.normal(0, 3, columns))
    block = x.T @ x
    weight = rng.standard_normal((4, columns, 1, 1)).astype(np.float32)
    nearest = quantize_weight(weight, levels=levels)
    found = round_weight(weight, [block], levels=levels, scales=nearest.scales)
    assert np.abs(found.codes.astype(int)).max() <= levels
    for row, new, old in zip(weight, found.dequantized(), nearest.dequantized(), strict=True):
        least = cost(row.ravel(), old.ravel(), block)
        assert cost(row.ravel(), new.ravel(), block) <= least * (1 + 1e-5) + 1e-9


def test_many_correlated_columns_do_far_better_than_nearest():
    """More columns than are fed forward at once. 200 inputs of rank 40: most errors can be hidden."""
    x = RNG.standard_normal((1000, 40)) @ RNG.standard_normal((40, 200)) + RNG.standard_normal((1000, 200)) / 10
    weight, block = conv_weight(3, 200, 1, 1), x.T @ x
    nearest = quantize_weight(weight, levels=7)
    found = round_weight(weight, [block], levels=7, scales=nearest.scales)
    for row, new, old in zip(weight, found.dequantized(), nearest.dequantized(), strict=True):
        assert cost(row.ravel(), new.ravel(), block) < cost(row.ravel(), old.ravel(), block) / 5


def test_rows_and_blocks_are_rounded_each_by_itself():
    weight = conv_weight(4, 4, 3, 1)
    scales = quantize_weight(weight, levels=7).scales
    blocks = [x.T @ x for x in (RNG.standard_normal((20, 6)) + 1 for _ in range(2))]
    found = round_weight(weight, blocks, levels=7, scales=scales).codes
    for row in range(4):
        part = slice(row, row + 1)
        alone = round_weight(weight[part], blocks, levels=7, scales=scales[part])
        np.testing.assert_array_equal(found[part], alone.codes)
    for part, block in ((slice(0, 2), blocks[0]), (slice(2, 4), blocks[1])):
        alone = round_weight(weight[:, part], [block], levels=7, scales=scales)
        np.testing.assert_array_equal(found[:, part], alone.codes)


@pytest.mark.parametrize("blocks", [[], [np.eye(5)], [np.eye(4), np.eye(4)]])
def test_blocks_have_to_cover_the_columns(blocks):
    with pytest.raises(ValueError, match="want 6 columns together"):
        round_weight(conv_weight(2, 6, 1, 1), blocks, levels=7, scales=np.ones(2, np.float32))


# --- Hessians


@pytest.fixture
def sums(monkeypatch):
    """Hessians as they are summed, with nothing added to the diagonal."""
    monkeypatch.setattr(rounding, "_SHRINKAGE", 0.0)


def node(op: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], output, **attrs)


def model_of(nodes: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray], *outputs: str) -> onnx.ModelProto:
    """From frames, by way of `images`, to the outputs."""
    front = [
        node("Cast", "frames", "pixels", to=TensorProto.FLOAT),
        node("Transpose", "pixels", "images", perm=[0, 3, 1, 2]),
    ]
    graph = helper.make_graph(
        [*front, *nodes],
        "g",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ("batch", "height", "width", 3))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def quantizer_of(model: onnx.ModelProto, recipe: Recipe = PLAIN, frames: Sequence[np.ndarray] = FRAMES) -> Quantizer:
    return Quantizer(model, gather(model, observed(model), frames), recipe)


def seen(quantizer: Quantizer, name: str, frame: np.ndarray) -> np.ndarray:
    """A tensor (1, C, H, W) of the float model, as its int8 codes have it."""
    model = onnx.ModelProto()
    model.CopyFrom(quantizer.model)
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [values] = session.run([name], {"frames": frame[None]})
    placement = quantizer.everything
    scale = quantizer.scale(placement.observed[placement.groups[name]])
    return (np.clip(np.rint(values / np.float32(scale)), -128, 127) * scale).astype(np.float32)


def products(x: np.ndarray, weight: np.ndarray, **attrs: Any) -> np.ndarray:
    """Sums over all positions of the products of a convolution's outputs, by ONNX Runtime: float64 (O, O)."""
    graph = helper.make_graph(
        [node("Conv", "x w", "y", **attrs)],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = session.run(None, {"x": x})[0][0].reshape(len(weight), -1).astype(np.float64)
    return rows @ rows.T


def through(weight: np.ndarray, block: np.ndarray) -> np.ndarray:
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    return flat @ block @ flat.T


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_without_frames():
    model = model_of([node("Conv", "images w", "c")], {"w": conv_weight(2, 3, 1, 1)}, "c")
    with pytest.raises(InputError, match="wants pictures, found none"):
        hessians(quantizer_of(model), [])


def test_without_convolutions():
    model = model_of([node("Relu", "images", "r")], {}, "r")
    assert round_weights(Quantizer(model, {}, PLAIN), FRAMES) == {}


def test_nan_is_named():
    nodes = [node("Div", "images images", "ones"), node("Conv", "ones w", "c")]
    model = model_of(nodes, {"w": conv_weight(2, 3, 1, 1)}, "c")
    quantizer = quantizer_of(model, frames=[np.ones_like(FRAMES[0])])
    with pytest.raises(ModelError, match="'ones' is NaN on frame 1"):
        hessians(quantizer, [np.ones_like(FRAMES[0]), np.zeros_like(FRAMES[0])])


@pytest.mark.usefixtures("sums")
def test_hessian_by_hand():
    """Two pixels, scale 1: (0, 2) (1, 2) and, about the means 0.5 and 2, (-0.5, 0) (0.5, 0)."""
    frame = np.array([[[0, 2, 127], [1, 2, 127]]], np.uint8)
    model = model_of([node("Conv", "images w", "c")], {"w": conv_weight(1, 3, 1, 1)}, "c")
    quantizer = quantizer_of(model, Recipe("max", correct_bias=False), [frame])
    [block] = hessians(quantizer, [frame, frame])["w"]
    assert block.tolist() == [[2, 4, 254], [4, 16, 1016], [254, 1016, 4 * 127**2]]
    [centred] = hessians(quantizer_of(model, Recipe("max"), [frame]), [frame, frame])["w"]
    np.testing.assert_allclose(centred, np.diag([1.0, 0, 0]), atol=1e-10)


def test_the_fewer_positions_the_more_the_diagonal_counts():
    """Two pixels a frame, three columns: 1 + 0.3 * 3 / 2, and with two frames 1 + 0.3 * 3 / 4."""
    frame = np.array([[[0, 2, 127], [1, 2, 127]]], np.uint8)
    model = model_of([node("Conv", "images w", "c")], {"w": conv_weight(1, 3, 1, 1)}, "c")
    quantizer = quantizer_of(model, Recipe("max", correct_bias=False), [frame])
    [block] = hessians(quantizer, [frame])["w"]
    np.testing.assert_allclose(block, [[1.45, 2, 127], [2, 8 * 1.45, 508], [127, 508, 2 * 127**2 * 1.45]])
    [block] = hessians(quantizer, [frame, frame])["w"]
    np.testing.assert_allclose(np.diag(block), np.array([2, 16, 4 * 127**2]) * 1.225)


GEOMETRIES = [
    ((1, 1), {}),
    ((3, 3), {"pads": [1, 1, 1, 1]}),
    ((3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 1), {"strides": [2, 2]}),
    ((3, 2), {"pads": [0, 1, 2, 3], "strides": [1, 3]}),
    ((2, 3), {"dilations": [3, 2], "pads": [2, 0, 1, 1]}),
    ((7, 7), {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
]


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize(("kernel", "attrs"), GEOMETRIES)
def test_hessians_are_those_of_what_onnx_runtime_convolves(kernel, attrs):
    """As many rows as columns: nothing of the Hessian is left out."""
    weight = conv_weight(3 * kernel[0] * kernel[1], 3, *kernel)
    quantizer = quantizer_of(model_of([node("Conv", "images w", "c", **attrs)], {"w": weight}, "c"))
    calls: list[int] = []
    [block] = hessians(quantizer, FRAMES, on_frame=lambda: calls.append(1))["w"]
    wanted = sum(products(seen(quantizer, "images", frame), weight, **attrs) for frame in FRAMES)
    assert_close(through(weight, block), wanted)
    assert len(calls) == len(FRAMES)


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize(("kernel", "attrs"), GEOMETRIES)
def test_with_corrected_bias_they_are_about_the_mean_and_padding_is_off_it(kernel, attrs):
    weight = conv_weight(3 * kernel[0] * kernel[1], 3, *kernel)
    quantizer = quantizer_of(model_of([node("Conv", "images w", "c", **attrs)], {"w": weight}, "c"), Recipe())
    [block] = hessians(quantizer, FRAMES)["w"]
    mean = quantizer.statistics["images"].mean.astype(np.float32)[:, None, None]
    inside = {key: value for key, value in attrs.items() if key != "pads"}
    top, left, bottom, right = attrs.get("pads", (0, 0, 0, 0))
    wanted = 0.0
    for frame in FRAMES:
        padded = np.pad(seen(quantizer, "images", frame), ((0, 0), (0, 0), (top, bottom), (left, right)))
        wanted += products(padded - mean, weight, **inside)
    assert_close(through(weight, block), wanted)


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("recipe", [PLAIN, Recipe()])
def test_a_shared_weight_sums_over_its_levels_each_with_its_scale_and_mean(recipe):
    nodes = [
        node("Relu", "images", "fine"),
        node("AveragePool", "fine", "coarse", kernel_shape=[4, 4], strides=[2, 2]),
        node("Conv", "fine w", "c0"),
        node("Conv", "coarse w", "c1"),
        node("Conv", "fine v", "c2"),
    ]
    weights = {"w": conv_weight(3, 3, 1, 1), "v": conv_weight(3, 3, 1, 1)}
    quantizer = quantizer_of(model_of(nodes, weights, "c0", "c1", "c2"), recipe)
    levels = {}
    for name in ("fine", "coarse"):
        mean = quantizer.statistics[name].mean.astype(np.float32)[:, None, None] * recipe.correct_bias
        levels[name] = sum(products(seen(quantizer, name, f) - mean, weights["w"]) for f in FRAMES)
    found = hessians(quantizer, FRAMES)
    assert_close(through(weights["w"], found["w"][0]), levels["fine"] + levels["coarse"])
    [alone] = found["v"]
    assert_close(through(weights["w"], alone), levels["fine"])


@pytest.mark.usefixtures("sums")
def test_wide_convolutions_have_a_hessian_per_128_channels():
    weights = {"a": conv_weight(130, 3, 1, 1), "w": conv_weight(20, 130, 3, 3)}
    nodes = [node("Conv", "images a", "c"), node("Relu", "c", "r"), node("Conv", "r w", "d", pads=[1, 1, 1, 1])]
    quantizer = quantizer_of(model_of(nodes, weights, "d"))
    blocks = hessians(quantizer, FRAMES[:1])["w"]
    assert [len(block) for block in blocks] == [128 * 9, 2 * 9]
    x, start = seen(quantizer, "r", FRAMES[0]), 0
    for block in blocks:
        part = slice(start, start + len(block) // 9)
        wanted = products(x[:, part], weights["w"][:, part], pads=[1, 1, 1, 1])
        assert_close(through(weights["w"][:, part], block), wanted)
        start = part.stop


@pytest.mark.usefixtures("sums")
def test_of_a_large_tensor_512_positions_and_in_time_each_of_them():
    """One pixel in 900 is black: 15 frames are 7,680 positions, 8.5 rounds; it is seen 8 or 9 times."""
    frame = np.full((30, 30, 3), 127, np.uint8)
    frame[11, 17] = 0
    model = model_of([node("Conv", "images w", "c")], {"w": conv_weight(1, 3, 1, 1)}, "c")
    quantizer = quantizer_of(model, Recipe("max", correct_bias=False), [frame])
    [one] = hessians(quantizer, [frame])["w"]
    assert one[0, 0] / 127**2 in (511, 512)
    [many] = hessians(quantizer, [frame] * 15)["w"]
    assert 15 * 512 - many[0, 0] / 127**2 in (8, 9)


def test_grouped_convolutions_and_automatic_padding_are_left_to_nearest():
    weights = {"g": conv_weight(3, 1, 3, 3), "s": conv_weight(2, 3, 3, 3), "w": conv_weight(2, 3, 1, 1)}
    nodes = [
        node("Conv", "images g", "c", group=3, pads=[1, 1, 1, 1]),
        node("Conv", "c s", "d", auto_pad="SAME_UPPER"),
        node("Conv", "c w", "e"),
    ]
    quantizer = quantizer_of(model_of(nodes, weights, "d", "e"))
    assert set(quantizer.weights) == {"g", "s", "w"}
    assert set(round_weights(quantizer, FRAMES)) == {"w"}


def test_same_frames_same_codes_and_the_quantizer_takes_them():
    weights = {"a": conv_weight(8, 3, 3, 3), "w": conv_weight(4, 8, 3, 3)}
    nodes = [node("Conv", "images a", "c"), node("Relu", "c", "r"), node("Conv", "r w", "d")]
    quantizer = quantizer_of(model_of(nodes, weights, "d"), Recipe())
    first, second = (round_weights(quantizer, FRAMES) for _ in range(2))
    assert set(first) == {"a", "w"}
    for name, found in first.items():
        np.testing.assert_array_equal(found.codes, second[name].codes)
        np.testing.assert_array_equal(found.scales, quantizer.weights[name].scales)
        assert (found.codes != quantizer.weights[name].codes).any()
    assert np.abs(first["a"].codes).max() <= quantizer.levels(("c",)) == 63
    again = Quantizer(quantizer.model, quantizer.statistics, Recipe(), first)
    assert again.weights["w"] is first["w"]
    ort.InferenceSession(again.quantized().SerializeToString(), providers=["CPUExecutionProvider"])


def test_on_pictures_it_never_saw_the_digits_model_loses_less_than_half(monkeypatch):
    """Squared error at the layers' outputs, by the Hessians of other pictures."""
    source = load_onnx(ROOT / "samples/digits/digits.onnx")
    imported = import_model(source)
    paths = sorted((ROOT / "calib/digits").glob("*.jpg"))[:6]
    frames = [cv2.imread(str(path)) for path in paths]
    quantizer = quantizer_of(rewrite(source.graph, imported, None), Recipe(), frames[:4])
    found = round_weights(quantizer, frames[:4])
    monkeypatch.setattr(rounding, "_SHRINKAGE", 0.0)
    held_out = hessians(quantizer, frames[4:])
    weights = {t.name: numpy_helper.to_array(t) for t in quantizer.model.graph.initializer if t.name in found}
    assert set(found) == set(quantizer.weights)

    def error(name: str, quantized: QuantizedWeight) -> float:
        lost, start, total = weights[name] - quantized.dequantized(), 0, 0.0
        rows = lost.reshape(len(lost), -1).astype(np.float64)
        for block in held_out[name]:
            part = rows[:, start : start + len(block)]
            total, start = total + float(((part @ block) * part).sum()), start + len(block)
        return total

    ratios = [error(name, found[name]) / error(name, quantizer.weights[name]) for name in found]
    assert np.exp(np.mean(np.log(ratios))) < 0.5
    assert max(ratios) < 1
