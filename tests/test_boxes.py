import dataclasses
import math

import numpy as np
import pytest

from edge_retina import boxes
from edge_retina.geometry import Geometry, fit_frame
from edge_retina.spec import MAX_LOG_SCALE, DetectorSpec, cell_anchors

ONES = (1.0, 1.0, 1.0, 1.0)
EMPTY = np.zeros((0, 4), np.float32)


def f32(*rows):
    return np.array(rows, np.float32)


def one_level(shape=(1, 1), *, cell=((-4.0, -4.0, 4.0, 4.0),), labels=("a", "b"), stride=8, **changes):
    """A spec of one level whose cells lie `stride` apart on a 32 x 32 input."""
    values = {
        "family": "test",
        "labels": labels,
        "input_size": (32, 32),
        "mean": (0.0, 0.0, 0.0),
        "std": ONES[:3],
        "strides": ((stride, stride),),
        "level_shapes": (shape,),
        "cell_anchors": (cell,),
    }
    return DetectorSpec(**values | changes)


SAME = Geometry((32, 32), (32, 32), (0, 0))


# make_anchors


def test_anchors_of_torchvision_p3():
    cell = cell_anchors((32, 40, 50), (0.5, 1.0, 2.0), rounded=True)
    found = boxes.make_anchors(one_level((2, 3), cell=cell, stride=8), 0)
    assert found.shape == (2 * 3 * 9, 4)
    assert found.dtype == np.float32
    assert found[0].tolist() == [-23, -11, 23, 11]  # 32 / sqrt(.5) = 45.25 wide, 22.63 high; half to even
    assert found[3].tolist() == [-16, -16, 16, 16]
    assert found[8].tolist() == [-18, -35, 18, 35]  # 50 / sqrt(2) = 35.36 wide, 70.71 high
    # Row 1, column 2: index (1 * 3 + 2) * 9, moved by x = 16, y = 8.
    assert found[45].tolist() == [-7, -3, 39, 19]


def test_anchors_with_different_strides_along_y_and_x():
    spec = one_level((2, 2), strides=((114, 120),), cell=((-1.0, -2.0, 1.0, 2.0),))
    assert boxes.make_anchors(spec, 0).tolist() == [
        [-1, -2, 1, 2],
        [119, -2, 121, 2],
        [-1, 112, 1, 116],
        [119, 112, 121, 116],
    ]


# decode

DECODED = [
    # deltas, anchor, weights, box
    ([0, 0, 0, 0], [2, 3, 12, 23], ONES, [2, 3, 12, 23]),
    ([0.1, -0.1, math.log(2), 0], [0, 0, 10, 20], ONES, [-4, -2, 16, 18]),  # centre (6, 8), 20 x 20
    ([1, 1, math.log(2) * 5, 0], [0, 0, 10, 20], (10.0, 10.0, 5.0, 5.0), [-4, 2, 16, 22]),  # centre (6, 12)
    ([0, 0, 100, -100], [0, 0, 16, 16], ONES, [8 - 500, 8, 8 + 500, 8]),  # 16 * 1000 / 16 wide, exp(-100) high
    ([0, 0, 0, 0], [5, 5, 5, 9], ONES, [5, 5, 5, 9]),  # an anchor without width
]


def test_decode_nothing():
    assert boxes.decode(EMPTY, EMPTY, ONES, MAX_LOG_SCALE).shape == (0, 4)


@pytest.mark.parametrize(("deltas", "anchor", "weights", "box"), DECODED)
def test_decode(deltas, anchor, weights, box):
    found = boxes.decode(f32(deltas), f32(anchor), weights, MAX_LOG_SCALE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, f32(box), atol=1e-4)


# clip


def test_clip_nothing():
    assert boxes.clip(EMPTY, (0, 0), (4, 4)).shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([-5, -5, 50, 50], [0, 0, 10, 20]),
        ([11, 5, 15, 9], [10, 5, 10, 9]),  # right of the image: no area is left
        ([-9, -9, -1, -1], [0, 0, 0, 0]),
    ],
)
def test_clip(box, clipped):
    assert boxes.clip(f32(box), (0, 0), (10, 20)).tolist() == [clipped]


def test_clip_to_a_content_that_does_not_start_at_zero():
    assert boxes.clip(f32([0, 0, 99, 99]), (2, 3), (10, 20)).tolist() == [[2, 3, 10, 20]]


# sigmoid


def test_sigmoid():
    found = boxes.sigmoid(np.float32([0, math.log(3), -math.log(3), 200, -200]))
    np.testing.assert_allclose(found, [0.5, 0.75, 0.25, 1, 0], atol=1e-7)
    assert found.dtype == np.float32
    assert np.isnan(boxes.sigmoid(np.float32([np.nan]))).all()


# iou

PAIRS = [
    ([0, 0, 10, 10], [0, 0, 10, 10], 1),
    ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3),
    ([0, 0, 10, 10], [0, 0, 10, 5], 1 / 2),
    ([0, 0, 10, 10], [10, 0, 20, 10], 0),  # touching
    ([0, 0, 10, 10], [20, 20, 30, 30], 0),
    ([0, 0, 10, 10], [3, 3, 3, 8], 0),  # without area
    ([3, 3, 3, 8], [3, 3, 3, 8], 0),  # even with itself
]


def test_iou_with_nothing():
    assert boxes.iou(EMPTY, f32([0, 0, 1, 1])).shape == (0, 1)
    assert boxes.iou(f32([0, 0, 1, 1]), EMPTY).shape == (1, 0)


@pytest.mark.parametrize(("box", "other", "wanted"), PAIRS)
def test_iou(box, other, wanted):
    np.testing.assert_allclose(boxes.iou(f32(box), f32(other)), [[wanted]], atol=1e-7)
    np.testing.assert_allclose(boxes.iou(f32(other), f32(box)), [[wanted]], atol=1e-7)


# nms

A, B, C = [0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]  # IoU(A, B) = 0.8
D = [0, 0, 10, 5]  # IoU(A, D) = 0.5, IoU(B, D) = 0.625


@pytest.mark.parametrize(
    ("rows", "labels", "threshold", "aware", "limit", "kept"),
    [
        ([], [], 0.5, True, 9, []),
        ([A], [0], 0.5, True, 9, [0]),
        ([A, B, C], [0, 0, 0], 0.5, True, 9, [0, 2]),
        ([A, B, C], [0, 1, 0], 0.5, True, 9, [0, 1, 2]),
        ([A, B, C], [0, 1, 0], 0.5, False, 9, [0, 2]),
        ([A, D], [0, 0], 0.5, True, 9, [0, 1]),  # exactly the threshold is not above it
        ([A, D], [0, 0], 0.49, True, 9, [0]),
        ([A, B, D], [0, 0, 0], 0.5, True, 9, [0, 2]),  # B is gone, so it does not take D with it
        ([A, A, A], [0, 0, 0], 0.5, True, 9, [0]),
        ([A, B, C], [0, 0, 0], 0.5, True, 1, [0]),
        ([A, C, D], [0, 0, 0], 0.4, True, 2, [0, 1]),
        ([[3, 3, 3, 8]] * 3, [0, 0, 0], 0.5, True, 9, [0, 1, 2]),  # boxes without area never suppress
        ([A, A], [0, 0], 1.0, True, 9, [0, 1]),
    ],
)
def test_nms(rows, labels, threshold, aware, limit, kept):
    found = boxes.nms(
        np.array(rows, np.float32).reshape(-1, 4), np.array(labels, np.int64), threshold, class_aware=aware, limit=limit
    )
    assert found.tolist() == kept
    assert found.dtype == np.int64


# select


@pytest.mark.parametrize(
    ("logits", "threshold", "top_k", "pairs"),
    [
        (np.zeros((0, 2)), 0.5, 9, []),
        ([[1, 3], [2, -1]], 0.5, 9, [(0, 1), (1, 0), (0, 0)]),
        ([[1, 3], [2, -1]], 0.5, 2, [(0, 1), (1, 0)]),
        ([[0, -1]], 0.5, 9, []),  # sigmoid(0) is the threshold, not above it
        ([[1, 2], [2, 2]], 0.5, 9, [(0, 1), (1, 0), (1, 1), (0, 0)]),  # ties by anchor, then class
        ([[1, 2], [2, 2]], 0.5, 2, [(0, 1), (1, 0)]),
        ([[np.nan, 1], [np.inf, np.nan]], 0.5, 9, [(1, 0), (0, 1)]),
        ([[-9, -np.inf]], 0.0, 9, [(0, 0)]),
    ],
)
def test_select(logits, threshold, top_k, pairs):
    anchor, label = boxes.select(np.array(logits, np.float32).reshape(-1, 2), threshold, top_k)
    assert list(zip(anchor.tolist(), label.tolist(), strict=True)) == pairs


def test_rows_of_a_head():
    head = np.arange(2 * 3 * 1 * 2, dtype=np.float32).reshape(6, 1, 2)  # A = 2, C = 3, H = 1, W = 2
    assert boxes.to_anchor_rows(head, 2).tolist() == [[0, 2, 4], [6, 8, 10], [1, 3, 5], [7, 9, 11]]


# detect


def heads(spec, logits):
    """One level's logits (anchors, K) as head tensors, with deltas of zero."""
    (h, w), a, k = spec.level_shapes[0], len(spec.cell_anchors[0]), spec.num_classes
    grid = np.array(logits, np.float32).reshape(h, w, a, k).transpose(2, 3, 0, 1).reshape(a * k, h, w)
    return [grid], [np.zeros((a * 4, h, w), np.float32)]


def test_detect_nothing():
    spec = one_level()
    found, scores, labels = boxes.detect(*heads(spec, [[-9, -9]]), spec, SAME)
    assert (found.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert (found.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int32)


def test_detect_nan_is_nothing():
    spec = one_level()
    assert len(boxes.detect(*heads(spec, [[np.nan, np.nan]]), spec, SAME)[1]) == 0


def test_detect_by_hand():
    spec = one_level((1, 3), stride=16)
    logits = [[math.log(3), -9], [-9, math.log(4)], [-9, -9]]
    found, scores, labels = boxes.detect(*heads(spec, logits), spec, SAME)
    # The second cell scores best; the first one's anchor is cut at the image's corner.
    assert found.tolist() == [[12, 0, 20, 4], [0, 0, 4, 4]]
    np.testing.assert_allclose(scores, [0.8, 0.75], atol=1e-6)
    assert labels.tolist() == [1, 0]


def test_detect_gives_frame_pixels():
    """A 100 x 50 frame on 32 x 16 pixels of the input, 8 below its top: 3.125 frame pixels to one."""
    spec = one_level((2, 2), stride=16, placement="center")
    geometry = fit_frame(spec, 50, 100)
    assert (geometry.content, geometry.offset) == ((16, 32), (8, 0))
    found, _, _ = boxes.detect(*heads(spec, [[-9, -9]] * 3 + [[2, -9]]), spec, geometry)
    # Anchor 12..20 on both axes; y less the 8 above the content.
    np.testing.assert_allclose(found, [[37.5, 12.5, 62.5, 37.5]], atol=1e-4)


def test_detect_clips_to_the_content_not_to_the_padding():
    spec = one_level((1, 2), stride=30)
    geometry = Geometry((10, 10), (20, 20), (0, 0))
    found, _, _ = boxes.detect(*heads(spec, [[-9, -9], [2, -9]]), spec, geometry)
    assert found.tolist() == [[10, 0, 10, 2]]


def test_detect_orders_ties_by_level_anchor_class():
    spec = one_level(
        strides=((8, 8), (16, 16)),
        level_shapes=((1, 2), (1, 1)),
        cell_anchors=(((-4.0, -4.0, 4.0, 4.0),), ((-8.0, -8.0, 8.0, 8.0),)),
    )
    logits = [np.full((2, 1, 2), 1, np.float32), np.full((2, 1, 1), 1, np.float32)]
    deltas = [np.zeros((4, 1, 2), np.float32), np.zeros((4, 1, 1), np.float32)]
    found, _, labels = boxes.detect(logits, deltas, spec, SAME)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found[:, 2].tolist() == [4, 4, 12, 12, 8, 8]


# What trainers do otherwise


def test_corner_coding_by_hand():
    """A 10 x 20 anchor; a fifth of its width left, a tenth of its height up, then half a width and a height on."""
    found = boxes.decode(f32([-1, -0.5, 2.5, 5]), f32([0, 0, 10, 20]), (5, 5, 5, 5), MAX_LOG_SCALE, "corner")
    np.testing.assert_allclose(found, [[-2, -2, 15, 40]], atol=1e-6)


def one_detection(geometry=SAME, *, delta=(0, 0, 0, 0), **changes):
    """Boxes found on one cell whose anchor is -4..4 in both directions, the class "a" sure."""
    spec = one_level(**changes)
    logits, deltas = f32([3, -9]).reshape(2, 1, 1), f32(delta).reshape(4, 1, 1)
    return boxes.detect([logits], [deltas], spec, geometry)[0]


def test_inclusive_pixels_by_hand():
    """-4..4 is 9 pixels then: doubled about its middle 0.5 it is 18 wide, and W - 1 is the last pixel."""
    double = (0, 0, math.log(2), math.log(2))
    found = one_detection(delta=double, inclusive_pixels=True, clip="none")
    np.testing.assert_allclose(found, [[-8.5, -8.5, 9.5, 9.5]], atol=1e-5)
    right = one_detection(delta=(5, 0, 0, 0), inclusive_pixels=True)  # 41 to 49, outside: a pixel of the border stays
    np.testing.assert_allclose(right, [[31, 0, 32, 5]], atol=1e-5)


@pytest.mark.parametrize(
    ("clip", "wanted"),
    [
        ("content", [0, 0, 16, 4]),
        ("input", [0, 0, 20, 4]),
        ("pixels", [0, 0, 20, 4]),
        ("after_nms", [0, 0, 16, 4]),
        ("none", [-4, -4, 20, 4]),
    ],
)
def test_clip_by_hand(clip, wanted):
    """A box from -4 to 20; the frame is 16 wide on an input of 32."""
    geometry = Geometry((16, 16), (16, 16), (0, 0))
    found = one_detection(geometry, delta=(1, 0, math.log(3), 0), clip=clip)
    np.testing.assert_allclose(found, [wanted], atol=1e-5)


def test_clip_to_the_last_pixel():
    assert one_detection(delta=(1, 0, math.log(9), math.log(9)), clip="pixels").tolist() == [[0, 0, 31, 31]]


def test_boxes_outside_are_dropped_after_nms_when_they_are_clipped_then():
    assert len(one_detection(delta=(9, 0, 0, 0), clip="after_nms")) == 1
    assert len(one_detection(delta=(9, 0, 0, 0), clip="after_nms", drop_empty=True)) == 0


def test_boxes_outside_are_dropped_when_asked():
    assert len(one_detection(delta=(9, 0, 0, 0))) == 1
    assert len(one_detection(delta=(9, 0, 0, 0), drop_empty=True)) == 0
    assert len(one_detection(drop_empty=True)) == 1


def test_clipping_after_nms_leaves_boxes_apart_that_clipping_before_makes_one():
    """Two boxes that share only what lies inside: equal once they are clipped."""
    spec = one_level(cell=((-100.0, 0.0, 8.0, 8.0), (-4.0, 0.0, 8.0, 8.0)), labels=("a",))
    heads = [f32([3, 2]).reshape(2, 1, 1)], [np.zeros((8, 1, 1), np.float32)]
    assert len(boxes.detect(*heads, spec, SAME)[0]) == 1
    apart = boxes.detect(*heads, one_level(cell=spec.cell_anchors[0], labels=("a",), clip="after_nms"), SAME)[0]
    assert apart.tolist() == [[0, 0, 8, 8], [0, 0, 8, 8]]


def test_best_class_only():
    anchor, label = boxes.select(f32([1, 3], [2, 2], [-9, -8]), 0.5, 9, "best")
    assert list(zip(anchor.tolist(), label.tolist(), strict=True)) == [(0, 1), (1, 0)]
    assert boxes.select(np.zeros((0, 2), np.float32), 0.5, 9, "best")[0].tolist() == []


def test_top_k_of_all_levels_together():
    spec = one_level(
        strides=((8, 8), (16, 16)),
        level_shapes=((1, 1), (1, 1)),
        cell_anchors=(((-4.0, -4.0, 4.0, 4.0),), ((8.0, 8.0, 24.0, 24.0),)),
        labels=("a", "b", "c"),
        class_aware_nms=True,
    )
    logits = [f32([3, 1, 0]).reshape(3, 1, 1), f32([2, 1, -9]).reshape(3, 1, 1)]
    deltas = [np.zeros((4, 1, 1), np.float32)] * 2

    def labels(**changes):
        return boxes.detect(logits, deltas, dataclasses.replace(spec, **changes), SAME)[2].tolist()

    assert labels(top_k=2) == [0, 0, 1, 1]  # two of each level
    assert labels(top_k=2, top_k_scope="all") == [0, 0]
    assert labels(top_k=3, top_k_scope="all") == [0, 0, 1]  # the tie goes to the finer level
