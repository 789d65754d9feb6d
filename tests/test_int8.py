"""The INT8 stage: what calibration sees, what ranges belong to, and which layers a pattern means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from models import hard_model, rewritten, tiny_model, write_pictures

from edge_retina import sensitivity
from edge_retina.calibrate.pictures import CalibrationSet, open_calibration
from edge_retina.calibrate.ranges import Binding, Ranges
from edge_retina.errors import InputError, UsageError
from edge_retina.int8 import (
    Int8,
    binding,
    calibrate,
    check_patterns,
    disagreements,
    known_ranges,
    layer_label,
    quantize,
    some_frames,
    trial_frames,
)
from edge_retina.quantize import Recipe, equalized, observed
from edge_retina.spec import DetectorSpec

BOUND = Binding("m", "p", "c", 6)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    return open_calibration(str(write_pictures(tmp_path_factory.mktemp("pictures"), 6)))


@pytest.fixture(scope="module")
def tiny() -> tuple[onnx.ModelProto, DetectorSpec]:
    return rewritten(tiny_model()[0])


@pytest.fixture(scope="module")
def ranges(tiny, pictures) -> Ranges:
    return calibrate(tiny[0], pictures, BOUND, Recipe(), on_step=lambda *_: None)


def made(tiny, ranges, pictures, **options) -> Int8:
    return quantize(*tiny, ranges, pictures, Recipe(), on_step=lambda *_: None, **options)


# Calibration


def test_no_pictures(tiny):
    empty = CalibrationSet("nowhere", 0, "c", (), lambda: iter(()))
    with pytest.raises(InputError, match="calibration wants pictures, found none"):
        calibrate(tiny[0], empty, BOUND, Recipe(), on_step=lambda *_: None)


@pytest.mark.parametrize("frame_size", [None, (48, 80)])
def test_calibration_sees_what_inference_computes(tmp_path, frame_size):
    """Down to the last bit, of a picture of another size than the network's: against the float graph itself."""
    model, _ = rewritten(hard_model(), frame_size)
    folder = write_pictures(tmp_path / "in", 1, size=(48, 80))
    pictures = open_calibration(str(folder), frame_size=frame_size)
    found = calibrate(model, pictures, BOUND, Recipe(), on_step=lambda *_: None)
    even = equalized(model, found.factors)
    assert len(found.factors) > 0
    names = sorted(observed(even))
    assert set(found.statistics) == set(names)
    infos = {v.name: v for v in onnx.shape_inference.infer_shapes(even).graph.value_info}
    even.graph.output.extend(infos[name] for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(even.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = cv2.imread(str(folder / "000.png"))
    for name, values in zip(names, session.run(names, {"frames": image[None]}), strict=True):
        tensor = found.statistics[name]
        rows = values.reshape(values.shape[1], -1).astype(np.float64)
        assert tensor.maximum == np.abs(rows).max()
        np.testing.assert_array_equal(tensor.peak, np.abs(rows).max(1))
        np.testing.assert_allclose(tensor.mean, rows.mean(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tensor.energy, np.square(rows).mean(1), rtol=1e-5)
        assert tensor.histogram.counts.sum() == rows.size


def test_the_input_that_is_calibrated_is_the_one_of_the_trainer(tiny, ranges, pictures):
    """What the stem reads is what the spec says of each frame: colour order, mean and std, by NumPy."""
    spec = tiny[1]
    peaks = np.zeros(3)
    for frame in pictures.frames():
        assert frame.image.shape[:2] == spec.input_size  # no resizing
        rgb = frame.image[:, :, ::-1].astype(np.float32)
        peaks = np.maximum(peaks, np.abs((rgb - np.float32(spec.mean)) / np.float32(spec.std)).max((0, 1)))
    stem = next(node for node in tiny[0].graph.node if node.op_type == "Conv")
    np.testing.assert_allclose(ranges.statistics[stem.input[0]].peak, peaks, rtol=1e-6)


@pytest.mark.parametrize(("recipe", "total"), [(Recipe(), 12), (Recipe(equalize=False), 6)])
def test_steps_add_up(tiny, pictures, recipe, total):
    steps: list[tuple[int, int]] = []
    calibrate(tiny[0], pictures, BOUND, recipe, on_step=lambda *step: steps.append(step))
    assert steps == [(i + 1, total) for i in range(total)]


def test_the_same_ranges_every_time(tiny, pictures, ranges):
    again = calibrate(tiny[0], pictures, BOUND, Recipe(), on_step=lambda *_: None)
    assert again.to_json({}) == ranges.to_json({})


def test_a_picture_fewer_than_there_were(tiny, pictures):
    gone = replace(pictures, count=7)
    with pytest.raises(InputError, match="wanted 7 pictures, found 6; it changed while it was read"):
        calibrate(tiny[0], gone, BOUND, Recipe(), on_step=lambda *_: None)


# What ranges belong to


def test_the_binding_says_what_went_in(tiny, pictures):
    spec = tiny[1]
    bound = binding("m", spec, None, pictures, Recipe())
    assert (bound.model, bound.pictures, bound.count) == ("m", pictures.digest, 6)
    assert bound == binding("m", spec, None, pictures, Recipe(method="max", effort="high", search_scales=False))


@pytest.mark.parametrize(
    "values",
    [
        {"color_order": "bgr"},
        {"mean": (1.0, 2.0, 3.0)},
        {"std": (1.0, 2.0, 3.0)},
        {"pad_value": (1.0, 2.0, 3.0)},
        {"resize": "stretch"},
        {"resize": "shortest_side", "shortest_side": (32, 64)},
        {"placement": "center"},
        {"rounding": "floor"},
    ],
)
def test_all_of_the_preprocessing_counts(tiny, pictures, values):
    spec = tiny[1]
    other = binding("m", spec.override("user", **values), None, pictures, Recipe())
    assert other.differs(binding("m", spec, None, pictures, Recipe())) == "preprocessing"


@pytest.mark.parametrize("values", [{"score_threshold": 0.3}, {"labels": ("a", "b", "c")}, {"top_k": 7}])
def test_what_comes_after_the_network_does_not(tiny, pictures, values):
    spec = tiny[1]
    other = binding("m", spec.override("user", **values), None, pictures, Recipe())
    assert other == binding("m", spec, None, pictures, Recipe())


def test_no_ranges_yet(tiny, tmp_path):
    assert known_ranges(tiny[0], BOUND, None, tmp_path / "none.edge", pytest.fail) is None
    (tmp_path / "broken.edge").write_bytes(b"PK\3\4broken")
    assert known_ranges(tiny[0], BOUND, None, tmp_path / "broken.edge", pytest.fail) is None


def test_ranges_that_fit(tiny, ranges, tmp_path):
    path = tmp_path / "ranges.json"
    path.write_bytes(ranges.to_json({}))
    found = known_ranges(tiny[0], BOUND, path, tmp_path / "none.edge", pytest.fail)
    assert found is not None
    assert found.to_json({}) == ranges.to_json({})


# Pictures that are tried


@pytest.mark.parametrize(("most", "wanted"), [(1, [3]), (2, [1, 4]), (6, [0, 1, 2, 3, 4, 5]), (64, [0, 1, 2, 3, 4, 5])])
def test_a_few_pictures_evenly_spread(pictures, most, wanted):
    every = [picture.image for picture in pictures.frames()]
    found = trial_frames(pictures, most)
    assert len(found) == len(wanted)
    for image, index in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(image, every[index])


def test_pictures_are_read_as_far_as_needed(pictures):
    read = []

    def counted() -> Iterator:
        for picture in pictures.frames():
            read.append(picture.index)
            yield picture

    watched = replace(pictures, _open=counted)
    assert sum(1 for _ in some_frames(watched, 1)) == 1
    assert read == [0, 1, 2, 3]


# Quantizing


def test_what_it_knows_of_itself(tiny, ranges, pictures):
    int8 = made(tiny, ranges, pictures)
    assert int8.share == 1.0
    assert int8.quantized() == set(int8.macs) == set(int8.quantizer.everything.convs)
    assert int8.choice.skip == ()
    found = disagreements(int8, tiny[1])
    assert found["onnxruntime"] == pytest.approx(int8.choice.after, abs=1e-6)
    assert found["tensorrt"] == pytest.approx(found["onnxruntime"], abs=0.02)


def test_layers_are_called_as_the_trainer_did():
    assert layer_label("model/stem") == "stem"
    assert layer_label("model//model/stem/Conv") == "/model/stem/Conv"
    assert layer_label("logits_0") == "logits_0"


@pytest.mark.parametrize(
    ("patterns", "skip", "share"),
    [
        ((), (), 1.0),
        (("stem",), ("model/stem",), 1 - 28800 / 124704),
        (("stem", "st*"), ("model/stem",), 1 - 28800 / 124704),
        # 4x4 cells, 3x3 kernels, 6 channels in: 9 * 54 * 16 and 12 * 54 * 16.
        (("*_1",), ("model/down_1", "logits_1", "deltas_1"), 1 - (5184 + 7776 + 10368) / 124704),
    ],
)
def test_layers_left_in_float_by_name(tiny, ranges, pictures, patterns, skip, share):
    int8 = made(tiny, ranges, pictures, float_layers=patterns)
    assert set(int8.choice.skip) == set(skip)
    assert int8.share == pytest.approx(share)
    left = {node.output[0] for node in int8.model.graph.node if node.op_type == "Conv"}
    assert not set(skip) - left


@pytest.mark.parametrize("patterns", [("Stem",), ("",), ("model/stem",), ("stem", "none")])
def test_a_pattern_that_names_nothing(tiny, ranges, pictures, patterns):
    with pytest.raises(
        UsageError, match=r"matches none of the 6 convolutions, such as stem, .*edge-retina sensitivity"
    ):
        made(tiny, ranges, pictures, float_layers=patterns)


def test_something_has_to_be_left_in_int8(tiny):
    check_patterns(tiny[0], [])
    check_patterns(tiny[0], ["stem"])
    with pytest.raises(UsageError, match="leaves nothing in INT8; name fewer layers, or build without --int8"):
        check_patterns(tiny[0], ["*"])


def test_high_effort_rounds_weights_anew(tiny, ranges, pictures):
    steps: list[tuple[int, int]] = []
    recipe = Recipe(effort="high")
    high = quantize(*tiny, ranges, pictures, recipe, on_step=lambda *step: steps.append(step))
    normal = made(tiny, ranges, pictures)
    assert steps == [(i + 1, 6) for i in range(6)]
    changed = [
        name
        for name, weight in normal.quantizer.weights.items()
        if not np.array_equal(weight.codes, high.quantizer.weights[name].codes)
    ]
    assert changed
    for name, weight in normal.quantizer.weights.items():
        np.testing.assert_array_equal(weight.scales, high.quantizer.weights[name].scales)
    again = quantize(*tiny, ranges, pictures, recipe, on_step=lambda *_: None)
    assert again.model.SerializeToString(deterministic=True) == high.model.SerializeToString(deterministic=True)


def test_the_whole_share_leaves_nothing_to_choose(pictures, monkeypatch):
    monkeypatch.setattr(sensitivity, "HARMLESS", 0.0)
    hard = rewritten(hard_model())
    ranges = calibrate(hard[0], pictures, BOUND, Recipe(equalize=False), on_step=lambda *_: None)
    assert made(hard, ranges, pictures, least_share=1.0).choice.skip == ()
    assert made(hard, ranges, pictures, least_share=0.9).choice.skip != ()
