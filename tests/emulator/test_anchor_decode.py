"""The kernels against the NumPy reference, bit for bit: every spec field, any scores, any layout, any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decoder import make_spec, random_heads
from emulator.launcher import Emulator, Layout, Run
from emulator.reference import detect, rounded_once
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_retina.geometry import Geometry
from edge_retina.spec import DetectorSpec, cell_anchors

PLAIN = Geometry((64, 64), (64, 64), (0, 0))
PADDED = Geometry((100, 200), (30, 60), (2, 4))
PLAIN_LAYOUT = Layout()
LAYOUTS = [
    Layout(),
    Layout(shift=4),
    Layout("half"),
    Layout("half", shift=2),
    Layout("half", 0),  # kHWC8
    Layout("half", 2),
    Layout("half", 16),
    Layout("half", 32),
    Layout("float", 32),
    Layout("float", -1),  # kHWC
    Layout("int8", 1, 0.05, shift=3),
    Layout("int8", 4, 0.05),
    Layout("int8", 32, 0.05),
]


def assert_same(
    emulator: Emulator,
    spec: DetectorSpec,
    logits: list[Any],
    deltas: list[Any],
    geometry: Geometry = PADDED,
    layout: Layout = PLAIN_LAYOUT,
    delta_layout: Layout = PLAIN_LAYOUT,
    seed: int = 0,
) -> Run:
    run = emulator(spec, logits, deltas, geometry, layout=layout, delta_layout=delta_layout, seed=seed)
    with rounded_once():
        seen = [layout.values(v) for v in logits], [delta_layout.values(v) for v in deltas]
        wanted = detect(*seen, spec, geometry)
    for name, ours, theirs in zip(("boxes", "scores", "labels", "count"), _rows(run), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs, name)
    return run


def _rows(run: Run) -> tuple[Any, ...]:
    return run.boxes, run.scores, run.labels, run.count


def test_nothing_above_the_threshold_gives_nothing(emulator):
    spec = make_spec()
    run = assert_same(emulator, spec, *random_heads(spec, np.random.default_rng(0), batch=2, mean=-50))
    assert run.count.tolist() == [0, 0]
    assert (run.labels == -1).all()
    assert not run.boxes.any()
    assert not run.scores.any()


def test_one_detection_worked_by_hand(emulator):
    """Level 0, anchor 1 (ratio 0.5: 11.31 wide, 5.66 high) of cell y 2, x 3; class 2; moved half its width."""
    spec = make_spec()
    logits = [np.full((1, 6, 8, 8), -20, np.float32), np.full((1, 6, 4, 4), -20, np.float32)]
    deltas = [np.zeros((1, 8, 8, 8), np.float32), np.zeros((1, 8, 4, 4), np.float32)]
    logits[0][0, 1 * 3 + 2, 2, 3] = 0.0
    deltas[0][0, 1 * 4 + 0, 2, 3] = 0.5
    deltas[0][0, 1 * 4 + 3, 2, 3] = np.log(2)
    run = emulator(spec, logits, deltas, PLAIN)
    width, height = 8 * 2**0.5, 8 / 2**0.5
    centre_x, centre_y = 3 * 8 + 0.5 * width, 2 * 8
    assert run.count.tolist() == [1]
    assert (run.labels[0, 0], run.scores[0, 0]) == (2, 0.5)
    by_hand = [centre_x - width / 2, centre_y - height, centre_x + width / 2, centre_y + height]
    np.testing.assert_allclose(run.boxes[0, 0], by_hand, atol=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"classes": 1},
        {"per_cell": 1, "classes": 1},
        {"class_aware_nms": False},
        {"top_k": 10},
        {"top_k": 1},
        {"top_k": 5000},
        {"max_detections": 3},
        {"max_detections": 600, "nms_iou": 1.0},
        {"max_detections": 5000, "nms_iou": 0.7},
        {"score_threshold": 0.0},
        {"score_threshold": 0.9},
        {"score_threshold": 1.0},
        {"nms_iou": 0.0},
        {"delta_weights": (10.0, 10.0, 5.0, 5.0)},
        {"max_log_scale": 0.2},
        {"shapes": ((5, 9),)},
        {"shapes": ((16, 12), (8, 6), (4, 3), (2, 2), (1, 1)), "per_cell": 3},
        {"strides": ((8, 7), (15, 16))},
        {"box_coding": "corner", "delta_weights": (0.3, 0.3, 0.3, 0.3), "clip": "none", "nms_iou": 0.2},
        *({"inclusive_pixels": True, "clip": clip} for clip in ("content", "input", "pixels", "after_nms", "none")),
        *({"drop_empty": True, "clip": clip} for clip in ("content", "input", "pixels", "after_nms", "none")),
        {"class_choice": "best"},
        {"class_choice": "best", "top_k": 5, "classes": 1},
        {"class_choice": "best", "class_aware_nms": False, "score_threshold": 0.5},
        {"top_k_scope": "all", "top_k": 40},
        {"top_k_scope": "all", "top_k": 5000},
        {"top_k_scope": "all", "top_k": 30, "class_choice": "best", "drop_empty": True, "clip": "input"},
    ],
    ids=str,
)
def test_every_field_of_the_spec_counts(emulator, values):
    spec = make_spec(**values)
    logits, deltas = random_heads(spec, np.random.default_rng(2), batch=2, mean=-1)
    run = assert_same(emulator, spec, logits, deltas)
    assert (run.count.sum() > 0) == (spec.score_threshold < 1)


@pytest.mark.parametrize("choice", ["every", "best"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_layouts_of_heads(emulator, layout, choice):
    """Two images of an odd number of elements, so that the second one starts anywhere."""
    spec = make_spec(((7, 9), (3, 3)), classes=5, per_cell=3, class_choice=choice, top_k=60)
    logits, deltas = random_heads(spec, np.random.default_rng(3), batch=2)
    delta_layout = Layout(layout.element, layout.pack, 0.02, layout.shift)
    assert assert_same(emulator, spec, logits, deltas, layout=layout, delta_layout=delta_layout).count.min() > 10


def test_logits_and_deltas_may_differ_in_type(emulator):
    spec = make_spec()
    heads = random_heads(spec, np.random.default_rng(4))
    assert_same(emulator, spec, *heads, layout=Layout("half", 16), delta_layout=Layout("int8", 4, 0.02))
    assert_same(emulator, spec, *heads, layout=Layout("int8", 32, 0.1), delta_layout=Layout("float"))


def test_ties_come_by_level_anchor_class(emulator):
    spec = make_spec(nms_iou=1.0, top_k=7, max_detections=14)
    logits = [np.zeros((1, 6, 8, 8), np.float32), -np.zeros((1, 6, 4, 4), np.float32)]
    deltas = [np.zeros((1, 8, 8, 8), np.float32), np.zeros((1, 8, 4, 4), np.float32)]
    run = assert_same(emulator, spec, logits, deltas)
    assert run.labels[0].tolist() == [0, 1, 2, 0, 1, 2, 0] * 2


def test_many_anchors_travel_too(emulator):
    """512 cell anchors over eight levels, more than 4 KiB of them."""
    anchors = tuple(cell_anchors([4 * 2**i + a for a in range(64)], [1.0]) for i in range(8))
    spec = make_spec(((2, 2),) * 8, classes=2, cell_anchors=anchors, top_k=50, nms_iou=0.9)
    run = assert_same(emulator, spec, *random_heads(spec, np.random.default_rng(5)))
    assert run.count.min() == 50
    assert run.arguments > 4096


def test_usual_numbers_of_anchors_travel_as_before_cuda_12_1(emulator):
    spec = make_spec(((2, 2),) * 5, cell_anchors=(cell_anchors([8, 10, 12], [0.5, 1.0, 2.0]),) * 5)
    assert assert_same(emulator, spec, *random_heads(spec, np.random.default_rng(5))).arguments <= 4096


@pytest.mark.parametrize("top_k", [1, 100, 1000, 5000])
@pytest.mark.parametrize(
    "scores",
    [
        lambda v: v + 20,
        lambda v: np.full_like(v, 3),
        lambda v: np.sort(v.ravel()).reshape(v.shape) + 20,
        lambda v: -np.sort(-v.ravel()).reshape(v.shape) + 20,
        lambda v: np.round(v),
        lambda v: np.where(v > 0, np.float32(np.inf), np.float32(np.nan)),
        lambda v: np.where(np.arange(v.size).reshape(v.shape) % 3 == 0, np.float32(np.nan), v + 20),
        lambda v: np.full_like(v, np.nan),
        lambda v: np.where(v > 0, np.float32(0.0), np.float32(-0.0)),
    ],
    ids=["all pass", "all equal", "rising", "falling", "coarse", "infinite or NaN", "some NaN", "NaN", "zeros"],
)
def test_whatever_the_scores_are(emulator, scores, top_k):
    """45,000 logits on a level: several tiles, their buffers full many times over."""
    spec = make_spec(((25, 20), (3, 5)), classes=30, per_cell=3, top_k=top_k, nms_iou=0.6)
    logits, deltas = random_heads(spec, np.random.default_rng(6), mean=0)
    run = assert_same(emulator, spec, [scores(v) for v in logits], deltas)
    assert all((loads == 1).all() for loads in run.loads)


@st.composite
def cases(draw):
    """A spec, heads with adversarial values, a frame's geometry, layouts, a seed."""
    levels = draw(st.integers(1, 8))
    shapes = tuple(draw(st.tuples(st.integers(1, 6), st.integers(1, 7))) for _ in range(levels))
    input_size = draw(st.tuples(st.integers(16, 80), st.integers(16, 80)))
    spec = make_spec(
        shapes,
        classes=draw(st.integers(1, 9)),
        input_size=input_size,
        strides=tuple(draw(st.tuples(st.integers(1, 16), st.integers(1, 16))) for _ in range(levels)),
        cell_anchors=tuple(
            tuple(
                (-draw(st.floats(0.5, 20, width=32)), -6.0, 5.0, draw(st.floats(0.5, 20, width=32)))
                for _ in range(draw(st.integers(1, 3)))
            )
            for _ in range(levels)
        ),
        box_coding=draw(st.sampled_from(["center", "corner"])),
        delta_weights=draw(st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (0.3, 0.2, 0.1, 0.7)])),
        max_log_scale=draw(st.sampled_from([0.0, 4.135, 80.0])),
        inclusive_pixels=draw(st.booleans()),
        clip=draw(st.sampled_from(["content", "input", "pixels", "after_nms", "none"])),
        drop_empty=draw(st.booleans()),
        score_threshold=draw(st.sampled_from([0.0, 0.05, 0.5, 0.999, 1.0]) | st.floats(0, 1)),
        class_choice=draw(st.sampled_from(["every", "best"])),
        top_k=draw(st.sampled_from([1, 7, 50, 1000, 5000])),
        top_k_scope=draw(st.sampled_from(["level", "all"])),
        nms_iou=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        class_aware_nms=draw(st.booleans()),
        max_detections=draw(st.sampled_from([1, 10, 300])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits, deltas = random_heads(spec, rng, draw(st.integers(1, 3)), draw(st.sampled_from([-6.0, -1.0, 4.0, 40.0])))
    step = draw(st.sampled_from([0.0, 0.25, 2.0]))
    odd = draw(st.sampled_from([(), (np.nan,), (np.inf, -np.inf), (0.0, -0.0, 1e-30, 3e38, -3e38), (np.nan, 5.0)]))
    for heads in (logits, deltas):
        for head in heads:
            if step:
                head[...] = np.round(head / np.float32(step)) * np.float32(step)
            for value in odd:
                head[rng.random(head.shape) < 0.1] = value
    content = draw(st.tuples(st.integers(1, input_size[0]), st.integers(1, input_size[1])))
    offset = tuple(draw(st.integers(0, most - side)) for most, side in zip(input_size, content, strict=True))
    geometry = Geometry(draw(st.tuples(st.integers(1, 500), st.integers(1, 500))), content, offset)
    # Integers hold neither NaN nor infinity.
    layouts = [layout for layout in LAYOUTS if layout.element != "int8"] if odd else LAYOUTS
    layout, delta_layout = draw(st.sampled_from(layouts)), draw(st.sampled_from(layouts))
    return spec, logits, deltas, geometry, layout, delta_layout, draw(st.integers(0, 5))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_any_spec_and_scores(emulator, case):
    assert_same(emulator, *case)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([-6.0, -2.0, 4.0]))
@example(0, 1.0, 4.0)
def test_coarse_logits_full_of_ties(emulator, seed, step, mean):
    """Ties inside a level and across levels, at the top-k border and in NMS."""
    spec = make_spec(top_k=20)
    logits, deltas = random_heads(spec, np.random.default_rng(seed), mean=mean)
    logits = [np.round(v / step) * np.float32(step) for v in logits]
    deltas = [np.round(v * 2) / np.float32(2) for v in deltas]
    assert_same(emulator, spec, logits, deltas, seed=seed % 7)
