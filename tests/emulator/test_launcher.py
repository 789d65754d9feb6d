"""What the launcher refuses, and where it puts the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from decoder import make_spec
from emulator.launcher import HeadFormat, formats_of, params_of
from emulator.reference import rounded_once
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina import boxes


def set_level(name, value):
    return lambda p, _: setattr(p.levels[0], name, value)


def set_params(name, value):
    return lambda p, _: setattr(p, name, value)


def set_format(kind, *values):
    def edit(_, formats):
        getattr(formats, kind)[0] = HeadFormat(*values)

    return edit


def set_anchor(value):
    def edit(p, _):
        p.cell_anchors[0][0][0] = value

    return edit


def set_weight(value):
    def edit(p, _):
        p.delta_weights[3] = value

    return edit


def both(*edits):
    def edit(p, f):
        for one in edits:
            one(p, f)

    return edit


NAN, INF = float("nan"), float("inf")
REFUSED = {
    "levels": [set_params("level_count", v) for v in (0, 9, -1)],
    "level_shapes": [set_level("height", 0), set_level("width", 16385)],
    "strides": [set_level("stride_y", 0), set_level("stride_x", 16385)],
    "anchors_per_cell": [set_level("anchors_per_cell", 0), set_level("anchors_per_cell", 65)],
    "cell_anchors": [set_anchor(NAN), set_anchor(INF)],
    "num_classes": [set_params("classes", 0), set_params("classes", 65536)],
    "element type": [set_format("logits", 3, 1, 1), set_format("deltas", -1, 1, 1)],
    "one element type": [set_format("logits", 1, 1, 1)],
    "pack": [set_format("logits", 0, 0, 1), set_format("deltas", 0, 1000, 1)],
    "scale": [set_format("deltas", 2, 1, 0), set_format("deltas", 2, 1, NAN)],
    "2^31 elements": [both(set_level("height", 16384), set_level("width", 16384), set_params("classes", 60))],
    "delta_weights": [set_weight(v) for v in (0, -1, NAN, INF)],
    "max_log_scale": [set_params("max_log_scale", v) for v in (-0.1, 80.1, NAN)],
    "score_threshold": [set_params("score_threshold", v) for v in (-0.1, 1.1, NAN)],
    "nms_iou": [set_params("nms_iou", v) for v in (-0.1, 1.1, NAN)],
    "box_coding": [set_params("box_coding", 2)],
    "clip": [set_params("clip", v) for v in (-1, 5)],
    "class_choice": [set_params("class_choice", 2)],
    "top_k_scope": [set_params("top_k_scope", -1)],
    "flag": [set_params(name, 2) for name in ("inclusive_pixels", "drop_empty", "class_aware")],
    "top_k wants": [set_params("top_k", v) for v in (0, 5001)],
    "max_detections": [set_params("max_detections", v) for v in (0, 5001)],
    "input_size": [both(set_params("clip", 1), set_params("input_height", 0))],
}


@pytest.mark.parametrize(("message", "edit"), [(m, e) for m, edits in REFUSED.items() for e in edits])
def test_what_the_kernels_cannot_run_is_refused(emulator, message, edit):
    spec = make_spec()
    params, formats = params_of(spec), formats_of(spec)
    assert emulator.check(params, formats) is None
    edit(params, formats)
    problem = emulator.check(params, formats)
    assert problem is not None
    assert message in problem
    assert emulator.workspace(params, formats) == 0
    assert emulator.launch_error(params, formats) == 1  # cudaErrorInvalidValue, and nothing was read


@pytest.mark.parametrize("batch", [0, -1, 65])
def test_batches_out_of_bounds_are_refused(emulator, batch):
    spec = make_spec()
    assert "batch" in emulator.check(params_of(spec), formats_of(spec), batch)
    assert emulator.workspace(params_of(spec), formats_of(spec), batch) == 0


def test_the_input_size_counts_only_where_boxes_are_clipped_to_it(emulator):
    spec = make_spec(clip="content")
    params = params_of(spec)
    params.input_height = params.input_width = 0
    assert emulator.check(params, formats_of(spec)) is None


def test_a_threshold_of_one_lets_nothing_pass(emulator):
    assert np.isnan(emulator.lowest_logit(1.0))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([0.0, 1e-38, 0.05, 0.5, 0.9999999]) | st.floats(0, 1, exclude_max=True, width=32))
def test_no_logit_above_the_threshold_lies_below_the_lowest(emulator, threshold):
    """And those between are few: the kernels look at their scores."""
    lowest = np.float32(emulator.lowest_logit(threshold))
    near = np.linspace(lowest - 1, lowest + 1, 4001, dtype=np.float32)
    bits = np.float32(lowest).view(np.int32) + np.arange(-3000, 3000, dtype=np.int32)
    logits = np.concatenate([near, bits.view(np.float32), np.float32([-np.inf, np.inf, -104, 0, 17, 88])])
    with rounded_once():
        passing = boxes.sigmoid(logits) > np.float32(threshold)
    numpys = boxes.sigmoid(logits) > np.float32(threshold)
    assert (logits[passing | numpys] >= lowest).all()
    assert not passing[logits < lowest].any()
    margin = np.float32(3e-5) * (1 + abs(lowest))
    assert passing[logits > lowest + margin].all()
