"""AnchorDecode, decode and NMS together, against the NumPy reference: the body is what every runtime runs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from decoder import Decoder, decoder_model, heads_graph, make_spec, random_heads
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina import boxes
from edge_retina.geometry import Geometry
from edge_retina.rewrite.decode import CANDIDATES, _logit_below, add_decode, call_attributes, find_function
from edge_retina.spec import DetectorSpec, cell_anchors

PLAIN = Geometry((64, 64), (64, 64), (0, 0))


@cache
def decoder(spec: DetectorSpec, form: str = "operator", opset: int = 18) -> Decoder:
    return Decoder(spec, form, opset)


def assert_agree(spec: DetectorSpec, logits, deltas, geometry: Geometry = PLAIN, form="operator", opset=18):
    """Row for row: same labels and order, boxes within 1/1000 pixel."""
    found_boxes, scores, labels, count = decoder(spec, form, opset)(logits, deltas, geometry)
    assert [v.dtype for v in (found_boxes, scores, labels, count)] == [np.float32, np.float32, np.int32, np.int32]
    for row in range(len(count)):
        wanted = boxes.detect([v[row] for v in logits], [v[row] for v in deltas], spec, geometry)
        n = int(count[row])
        assert n == len(wanted[1])
        np.testing.assert_array_equal(labels[row, :n], wanted[2])
        np.testing.assert_allclose(found_boxes[row, :n], wanted[0], atol=1e-3)
        np.testing.assert_allclose(scores[row, :n], wanted[1], atol=1e-6)
        assert (found_boxes[row, n:] == 0).all()
        assert (scores[row, n:] == 0).all()
        assert (labels[row, n:] == -1).all()
    return int(count.sum())


def test_nothing_above_the_threshold_gives_nothing():
    spec = make_spec()
    logits, deltas = random_heads(spec, np.random.default_rng(0), batch=2, mean=-50)
    assert assert_agree(spec, logits, deltas) == 0


def test_one_detection_worked_by_hand():
    """Level 0, anchor 1 (ratio 0.5: 11.31 wide, 5.66 high) of cell y 2, x 3; class 2; moved half its width."""
    spec = make_spec()
    logits = [np.full((1, 6, 8, 8), -20, np.float32), np.full((1, 6, 4, 4), -20, np.float32)]
    deltas = [np.zeros((1, 8, 8, 8), np.float32), np.zeros((1, 8, 4, 4), np.float32)]
    logits[0][0, 1 * 3 + 2, 2, 3] = 0.0
    deltas[0][0, 1 * 4 + 0, 2, 3] = 0.5
    deltas[0][0, 1 * 4 + 3, 2, 3] = np.log(2)
    found, scores, labels, count = decoder(spec)(logits, deltas, PLAIN)
    width, height = 8 * 2**0.5, 8 / 2**0.5
    centre_x, centre_y = 3 * 8 + 0.5 * width, 2 * 8
    assert count.tolist() == [1]
    assert (labels[0, 0], scores[0, 0]) == (2, 0.5)
    by_hand = [centre_x - width / 2, centre_y - height, centre_x + width / 2, centre_y + height]
    np.testing.assert_allclose(found[0, 0], by_hand, atol=1e-4)


@pytest.mark.parametrize("form", ["operator", "fixpoint"])
@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_random_heads_agree(form, opset):
    spec = make_spec()
    logits, deltas = random_heads(spec, np.random.default_rng(1), batch=3)
    assert assert_agree(spec, logits, deltas, form=form, opset=opset) > 20


@pytest.mark.parametrize("form", ["operator", "fixpoint"])
@pytest.mark.parametrize(
    "values",
    [
        {"classes": 1},
        {"per_cell": 1, "classes": 1},
        {"class_aware_nms": False},
        {"top_k": 10},
        {"top_k": 1},
        {"max_detections": 3},
        {"max_detections": 600},
        {"score_threshold": 0.0},
        {"score_threshold": 0.9},
        {"nms_iou": 0.0},
        {"nms_iou": 1.0},
        {"delta_weights": (10.0, 10.0, 5.0, 5.0)},
        {"max_log_scale": 0.2},
        {"shapes": ((5, 9),)},
        {"shapes": ((16, 12), (8, 6), (4, 3), (2, 2), (1, 1)), "per_cell": 3},
        {"strides": ((8, 7), (15, 16))},
        {"box_coding": "corner", "delta_weights": (5.0, 5.0, 5.0, 5.0)},
        {"box_coding": "corner", "delta_weights": (0.3, 0.3, 0.3, 0.3), "clip": "none", "nms_iou": 0.2},
        {"inclusive_pixels": True},
        {"inclusive_pixels": True, "clip": "input"},
        {"inclusive_pixels": True, "clip": "after_nms"},
        {"clip": "input"},
        {"clip": "after_nms"},
        {"clip": "none"},
        {"clip": "pixels"},
        {"clip": "pixels", "inclusive_pixels": True},
        {"drop_empty": True},
        {"drop_empty": True, "clip": "after_nms"},
        {"class_choice": "best"},
        {"class_choice": "best", "top_k": 5, "classes": 1},
        {"class_choice": "best", "class_aware_nms": False, "score_threshold": 0.5},
        {"top_k_scope": "all", "top_k": 40},
        {"top_k_scope": "all", "top_k": 5000},
        {"top_k_scope": "all", "top_k": 30, "class_choice": "best", "drop_empty": True, "clip": "input"},
    ],
    ids=str,
)
def test_every_field_of_the_spec_counts(values, form):
    spec = make_spec(**values)
    logits, deltas = random_heads(spec, np.random.default_rng(2), batch=2, mean=-1)
    geometry = Geometry((100, 200), (30, 60), (2, 4))
    assert assert_agree(spec, logits, deltas, geometry, form) > 0


@pytest.mark.parametrize("form", ["operator", "fixpoint"])
def test_ties_come_by_level_anchor_class(form):
    """All logits equal: the order must be that of level, anchor index, class; nothing overlaps at IoU 1."""
    spec = make_spec(nms_iou=1.0, top_k=7, max_detections=14)
    logits = [np.zeros((1, 6, 8, 8), np.float32), np.zeros((1, 6, 4, 4), np.float32)]
    deltas = [np.zeros((1, 8, 8, 8), np.float32), np.zeros((1, 8, 4, 4), np.float32)]
    assert assert_agree(spec, logits, deltas, form=form) == 14
    _, _, labels, _ = decoder(spec, form)(logits, deltas, PLAIN)
    assert labels[0].tolist() == [0, 1, 2, 0, 1, 2, 0] * 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([-6.0, -2.0, 4.0]))
def test_coarse_logits_full_of_ties_agree(seed, step, mean):
    """Logits on a grid tie everywhere, inside a level and across levels, at the top-k border and in NMS."""
    # Boxes on a grid overlap by exactly a half, which rounding decides; by 0.47 they do not.
    spec = make_spec(top_k=20, nms_iou=0.47)
    rng = np.random.default_rng(seed)
    logits, deltas = random_heads(spec, rng, mean=mean)
    logits = [np.round(v / step) * np.float32(step) for v in logits]
    deltas = [np.round(v * 2) / np.float32(2) for v in deltas]
    for form in ("operator", "fixpoint"):
        assert_agree(spec, logits, deltas, form=form)


def test_all_scores_above_the_threshold():
    spec = make_spec(shapes=((20, 20), (10, 10)), classes=5, top_k=100)
    logits, deltas = random_heads(spec, np.random.default_rng(3), mean=5)
    assert assert_agree(spec, logits, deltas) == 50


def test_saturated_scores_keep_the_order_of_their_logits():
    """Sigmoid is 1.0 for all of these in float32, and for the exact ties among them."""
    spec = make_spec()
    logits, deltas = random_heads(spec, np.random.default_rng(4), mean=60, deviation=8)
    logits = [np.round(v) for v in logits]
    assert assert_agree(spec, logits, deltas) == 50


def test_millions_of_candidates():
    """200 x 200 cells, 9 anchors, 20 classes: 7.2 million pairs on one level, every one above the threshold."""
    anchors = (cell_anchors([8, 10, 12], [0.5, 1.0, 2.0]),)
    spec = make_spec(shapes=((200, 200),), classes=20, cell_anchors=anchors)
    rng = np.random.default_rng(5)
    logits = [rng.standard_normal((1, 180, 200, 200), dtype=np.float32)]
    deltas = [rng.standard_normal((1, 36, 200, 200), dtype=np.float32) * np.float32(0.2)]
    assert assert_agree(spec, logits, deltas, Geometry((1600, 1600), (1600, 1600), (0, 0))) == 50


def test_infinite_logits_and_nan_deltas_do_not_spread():
    """-inf never passes, +inf scores 1; a NaN delta spoils its own box only."""
    spec = make_spec()
    logits, deltas = random_heads(spec, np.random.default_rng(6), mean=-20, deviation=0.1)
    logits[0][0, 0, 0, 0] = np.inf
    logits[0][0, 5, 7, 7] = 3.0
    logits[1][0, 1, 1, 1] = -np.inf
    deltas[0][0, 0, 0, 0] = np.nan
    found, scores, _, count = decoder(spec)(logits, deltas, PLAIN)
    assert count.tolist() == [2]
    assert scores[0, 0] == 1.0
    assert np.isfinite(found[0, 1]).all()


@pytest.mark.parametrize("form", ["operator", "fixpoint"])
def test_a_batch_gives_what_its_images_give_alone_bit_for_bit(form):
    spec = make_spec(top_k=30)
    logits, deltas = random_heads(spec, np.random.default_rng(7), batch=5)
    logits = [np.round(v * 2) / np.float32(2) for v in logits]
    logits[0][3], logits[1][3] = -50, -50  # one image with nothing in it
    run = decoder(spec, form)
    together = run(logits, deltas, PLAIN)
    for row in range(5):
        alone = run([v[row : row + 1] for v in logits], [v[row : row + 1] for v in deltas], PLAIN)
        for both, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(both[row], one[0])


@pytest.mark.parametrize("static", [True, False])
def test_decode_runs_once_and_names_its_outputs(static):
    graph, spec = heads_graph(make_spec()), make_spec()
    assert add_decode(graph, spec, static=static) == 1
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert add_decode(graph, spec, static=static) == 0
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before
    assert tuple(t.name for t in graph.outputs) == CANDIDATES
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shape = [d.dim_value or d.dim_param for d in inferred.graph.output[0].type.tensor_type.shape.dim]
    assert shape == ["batch", spec.candidates() if static else "candidates", 4]


def test_call_attributes_survive_export_and_import():
    """A plugin reads the spec from them; graphsurgeon must not lose or change any."""
    spec = make_spec()
    graph = gs.import_onnx(decoder_model(spec))
    call = next(node for node in graph.nodes if node.op == "AnchorDecode")
    wanted = call_attributes(spec)
    assert set(call.attrs) == set(wanted)
    for name, value in wanted.items():
        if isinstance(value, str):
            assert call.attrs[name] == value
        else:
            np.testing.assert_allclose(call.attrs[name], value, rtol=1e-6)
    function = find_function(graph)
    assert function is not None
    assert set(function.attrs) == set(wanted)


def test_spec_of_another_shape_is_noticed():
    spec = make_spec()
    logits, deltas = random_heads(replace(spec, level_shapes=((8, 8), (5, 5))), np.random.default_rng(0))
    with pytest.raises(Exception, match=r"in_logits_1|INVALID_ARGUMENT|Got invalid dimensions"):
        decoder(spec)(logits, deltas, PLAIN)


@pytest.mark.parametrize("threshold", [1e-30, 1e-6, 0.05, 0.5, 0.99, 0.9999, 0.999999, 0.9999999, 1.0])
def test_no_logit_above_the_threshold_is_left_uncounted(threshold):
    """The count comes before the exact test, so it must never be the stricter of the two."""
    low = np.float32(_logit_below(threshold))
    logits = np.linspace(low - 4, low + 4, 200_001, dtype=np.float32)
    assert (logits[boxes.sigmoid(logits) > np.float32(threshold)] > low).all()
