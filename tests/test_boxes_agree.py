"""The NumPy reference against torchvision's own post-processing, and against what must hold for any input."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matching import match
from recipes import ANCHORS, CASES, digest

from edge_retina import boxes
from edge_retina.geometry import Geometry
from edge_retina.spec import MAX_LOG_SCALE, DetectorSpec, cell_anchors

GOLDEN = Path(__file__).parent / "fixtures" / "tv_postprocess.npz"
ONES = (1.0, 1.0, 1.0, 1.0)
# torchvision's sizes, typed out: x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3)).
SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
RATIOS = (0.5, 1.0, 2.0)
relaxed = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize("name", CASES)
def test_detect_agrees_with_torchvision(name):
    case = CASES[name]
    with np.load(GOLDEN) as golden:
        wanted = tuple(golden[f"{name}.{key}"] for key in ("boxes", "scores", "labels"))
        assert digest(case) == str(golden[f"{name}.digest"]), "NumPy makes other random numbers than when this was made"
    spec = DetectorSpec(
        family="torchvision",
        labels=tuple(f"class_{i}" for i in range(case.classes)),
        input_size=case.input_size,
        mean=(0.0, 0.0, 0.0),
        std=ONES[:3],
        strides=case.strides,
        level_shapes=case.level_shapes,
        cell_anchors=tuple(cell_anchors(s, RATIOS, rounded=True) for s in SIZES[: len(case.level_shapes)]),
        score_threshold=case.score_threshold,
        top_k=case.top_k,
        nms_iou=case.nms_iou,
        max_detections=case.max_detections,
    )
    assert len(spec.cell_anchors[0]) == ANCHORS
    found = boxes.detect(*case.heads(), spec, Geometry(case.content, case.content, (0, 0)))
    report = match(found, wanted, threshold=case.score_threshold, limit=case.max_detections)
    assert report.ok, report
    assert report.matched >= len(wanted[1]) - report.ignored
    assert (np.diff(found[1]) <= 0).all()


def test_the_golden_cases_are_what_they_are_named_for():
    with np.load(GOLDEN) as golden:
        count = {name: len(golden[f"{name}.scores"]) for name in CASES}
        flat = golden["zero_area.boxes"]
        tied = golden["ties.scores"]
    assert count["none"] == 0
    assert count["few_kept"] == 40
    assert ((flat[:, 2:] - flat[:, :2]).min(axis=1) == 0).sum() >= 10
    assert len(np.unique(tied)) <= 3 < len(tied)


# Properties

coordinate = st.floats(-50, 50, width=32).map(lambda v: round(v, 2))
side = st.floats(0, 30, width=32).map(lambda v: round(v, 2))
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
some_boxes = st.lists(box, max_size=25).map(lambda rows: np.array(rows, np.float32).reshape(-1, 4))


@given(some_boxes, some_boxes)
@relaxed
def test_iou_is_a_symmetric_share(one, other):
    found = boxes.iou(one, other)
    assert found.shape == (len(one), len(other))
    assert ((found >= 0) & (found <= 1 + 1e-5)).all()
    np.testing.assert_array_equal(found, boxes.iou(other, one).T)


@given(some_boxes)
@relaxed
def test_zero_deltas_give_the_anchors(anchors):
    found = boxes.decode(np.zeros_like(anchors), anchors, ONES, MAX_LOG_SCALE)
    np.testing.assert_allclose(found, anchors, atol=1e-4)


@given(some_boxes)
@relaxed
def test_clipping_twice_is_clipping_once(rows):
    once = boxes.clip(rows, (-3, 0), (20, 10))
    assert (once >= np.float32([-3, 0, -3, 0])).all()
    assert (once <= np.float32([20, 10, 20, 10])).all()
    np.testing.assert_array_equal(once, boxes.clip(once, (-3, 0), (20, 10)))


@given(some_boxes, st.randoms(use_true_random=False), st.floats(0, 1), st.booleans())
@relaxed
def test_nms_keeps_what_no_better_kept_box_overlaps(rows, random, threshold, aware):
    labels = np.array([random.randrange(3) for _ in rows], np.int64)
    kept = boxes.nms(rows, labels, threshold, class_aware=aware, limit=len(rows) + 1)
    overlap = boxes.iou(rows, rows) > np.float32(threshold)
    if aware:
        overlap &= labels[:, None] == labels[None]
    for i in range(len(rows)):
        better = [j for j in kept.tolist() if j < i]
        assert (i in kept) == (not overlap[better, i].any())
    again = boxes.nms(rows[kept], labels[kept], threshold, class_aware=aware, limit=len(rows) + 1)
    assert again.tolist() == list(range(len(kept)))


@given(st.lists(st.floats(-8, 8, width=16), min_size=0, max_size=40), st.floats(0, 1), st.integers(1, 50))
@relaxed
def test_select_takes_the_best_in_order(values, threshold, top_k):
    logits = np.repeat(np.array(values, np.float32), 2).reshape(-1, 2)  # every value twice: plenty of ties
    anchor, label = boxes.select(logits, threshold, top_k)
    chosen = logits[anchor, label]
    passing = boxes.sigmoid(logits.reshape(-1)) > np.float32(threshold)
    assert len(chosen) == min(top_k, int(passing.sum()))
    assert (np.diff(chosen) <= 0).all()
    np.testing.assert_array_equal(chosen, np.sort(logits.reshape(-1)[passing])[::-1][:top_k])
    flat = anchor * 2 + label
    tied = np.diff(chosen) == 0
    assert (np.diff(flat)[tied] > 0).all()
