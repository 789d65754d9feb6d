from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch
from torch.nn import functional

from edge_retina import boxes as reference
from edge_retina.spec import MAX_LOG_SCALE
from edge_retina.train.loss import BACKGROUND, IGNORED, assign, encode, focal_loss, retinanet_loss

LN2 = math.log(2)
BOX = [0.0, 0, 10, 10]
FAR = [20.0, 20, 30, 30]


def rows(*boxes: list[float]) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("boxes", "anchors", "expected"),
    [
        ([], [], []),
        ([], [BOX, FAR], [BACKGROUND, BACKGROUND]),
        # IoU 1, 0.5, 0.45, 0.4, 0.39, 0: both thresholds belong to the better side.
        (
            [BOX],
            [BOX, [0, 0, 10, 5], [0, 0, 10, 4.5], [0, 0, 10, 4], [0, 0, 10, 3.9], FAR],
            [0, 0, IGNORED, IGNORED, BACKGROUND, BACKGROUND],
        ),
        # IoU 0.3 is the best that there is, so it is taken; 0.2 is not.
        ([BOX], [[0, 0, 10, 2], [0, 0, 10, 3]], [BACKGROUND, 0]),
        # Two equally good ones are both taken.
        ([BOX], [[0, 0, 10, 3], [0, 7, 10, 10]], [0, 0]),
        # The rescue takes anchors of the ignored band, too.
        ([BOX], [[0, 0, 10, 4.5], FAR], [0, BACKGROUND]),
        # A box outside all anchors has none.
        ([BOX], [FAR], [BACKGROUND]),
        # The only anchor is the best of both boxes, IoU 1 and 0.6, in either order.
        ([BOX, [0, 0, 10, 6]], [BOX], [0]),
        ([[0, 0, 10, 6], BOX], [BOX], [1]),
        # Better matched to the second box (0.5 and 0.7), but the best the first one has (the other anchor is FAR).
        ([[0, 0, 10, 5], [0, 0, 10, 7]], [BOX, [0, 0, 10, 7]], [1, 1]),
        ([BOX, FAR], [FAR, BOX], [1, 0]),
    ],
)
def test_assign(boxes: list[list[float]], anchors: list[list[float]], expected: list[int]) -> None:
    assert assign(rows(*anchors), rows(*boxes)).tolist() == expected


def test_encode_of_nothing() -> None:
    assert encode(rows(), rows()).shape == (0, 4)


def test_encode_by_hand() -> None:
    # Anchor: centre (10, 20), size 20 x 40. Box: centre (15, 10), size 40 x 20.
    deltas = encode(rows([-5, 0, 35, 20]), rows([0, 0, 20, 40]))
    assert deltas.tolist()[0] == pytest.approx([0.25, -0.25, LN2, -LN2])


# Sides from 4 to 200 pixels: within the 1000 / 16 that decode lets a box grow by.
sides = st.floats(4, 200, width=32)
places = st.floats(-100, 400, width=32)
corners = st.tuples(places, places, sides, sides).map(lambda v: [v[0], v[1], v[0] + v[2], v[1] + v[3]])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(corners, corners), min_size=1, max_size=8))
def test_decode_undoes_encode(pairs: list[tuple[list[float], list[float]]]) -> None:
    boxes, anchors = rows(*(b for b, _ in pairs)), rows(*(a for _, a in pairs))
    back = reference.decode(encode(boxes, anchors).numpy(), anchors.numpy(), (1, 1, 1, 1), MAX_LOG_SCALE)
    np.testing.assert_allclose(back, boxes.numpy(), atol=0.01)


@pytest.mark.parametrize(
    ("p", "target", "gamma", "alpha", "expected"),
    [
        (0.5, 1, 2.0, 0.25, 0.25 * 0.25 * 0.693147),
        (0.5, 0, 2.0, 0.25, 0.75 * 0.25 * 0.693147),
        (0.9, 1, 2.0, 0.25, 0.25 * 0.01 * 0.105361),
        (0.9, 0, 2.0, 0.25, 0.75 * 0.81 * 2.302585),
        (0.9, 1, 1.0, None, 0.1 * 0.105361),
        (0.9, 1, 0.0, 0.75, 0.75 * 0.105361),
        (0.9, 1, 0.0, None, 0.105361),
        # "with gamma = 2, an example classified with p_t = 0.9 would have 100x lower loss": section 3.2.
        (0.9, 1, 2.0, None, 0.00105361),
    ],
)
def test_focal_loss_by_hand(p: float, target: float, gamma: float, alpha: float | None, expected: float) -> None:
    logit = torch.tensor([math.log(p / (1 - p))])
    assert float(focal_loss(logit, torch.tensor([float(target)]), gamma, alpha)) == pytest.approx(expected, rel=1e-4)


def test_focal_loss_of_nothing_is_zero() -> None:
    assert float(focal_loss(torch.zeros(0, 3), torch.zeros(0, 3))) == 0


def test_without_gamma_and_alpha_it_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator) * 5
    targets = (torch.rand(50, 3, generator=generator) < 0.3).float()
    wanted = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    torch.testing.assert_close(focal_loss(logits, targets, gamma=0, alpha=None), wanted)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_of_the_very_sure_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([200.0, -200, 200, -200, 0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0, 0, 1, 1]), gamma)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def loss_of(
    logits: torch.Tensor, deltas: torch.Tensor, anchors: torch.Tensor, boxes: list[torch.Tensor], labels: list[int]
) -> tuple[float, float]:
    classes = [torch.tensor(labels[: len(b)], dtype=torch.int64) for b in boxes]
    found = retinanet_loss(logits, deltas, anchors, boxes, classes, gamma=0.0, alpha=None, beta=0.1)
    return float(found[0]), float(found[1])


def test_losses_are_divided_by_the_foreground_anchors() -> None:
    # Two anchors on the object, one ignored, two background; two classes, every p = 0.5.
    anchors = rows(BOX, BOX, [0, 0, 10, 4.5], FAR, FAR)
    deltas = torch.zeros(1, 5, 4)
    # Smooth L1 with beta 0.1: an error of 1 costs 1 - 0.05, of 0.05 costs 0.05^2 / 0.2 = 0.0125.
    deltas[0, 0, 0], deltas[0, 1, 3] = 1.0, -0.05
    deltas[0, 2:] = 9.0  # no object there: free
    logits = torch.zeros(1, 5, 2)
    logits[0, 2] = 50.0  # ignored: free
    classification, regression = loss_of(logits, deltas, anchors, [rows(BOX)], [1])
    assert classification == pytest.approx(4 * 2 * LN2 / 2, rel=1e-5)
    assert regression == pytest.approx((0.95 + 0.0125) / 2, rel=1e-5)


def test_the_label_is_the_one_that_should_be_high() -> None:
    logits = torch.tensor([[[-20.0, 20.0], [-20.0, -20.0]]])
    anchors, deltas = rows(BOX, FAR), torch.zeros(1, 2, 4)
    right, _ = loss_of(logits, deltas, anchors, [rows(BOX)], [1])
    wrong, _ = loss_of(logits, deltas, anchors, [rows(BOX)], [0])
    assert right == pytest.approx(0, abs=1e-6)
    assert wrong == pytest.approx(40, rel=1e-5)


def test_images_without_boxes() -> None:
    logits, deltas = torch.zeros(2, 2, 3, requires_grad=True), torch.zeros(2, 2, 4, requires_grad=True)
    anchors, nothing = rows(BOX, FAR), torch.zeros(0, dtype=torch.int64)
    found = retinanet_loss(
        logits, deltas, anchors, [rows(), rows()], [nothing, nothing], gamma=0.0, alpha=None, beta=0.1
    )
    # Nothing to divide by counts as one.
    assert float(found[0].detach()) == pytest.approx(12 * LN2, rel=1e-5)
    assert float(found[1].detach()) == 0
    # Both subnets get a gradient all the same: DDP waits for every parameter's.
    (found[0] + found[1]).backward()
    assert logits.grad is not None
    assert deltas.grad is not None
    assert not deltas.grad.any()


def test_an_image_without_boxes_beside_one_with() -> None:
    anchors = rows(BOX, FAR)
    classification, regression = loss_of(torch.zeros(2, 2, 1), torch.zeros(2, 2, 4), anchors, [rows(), rows(BOX)], [0])
    assert classification == pytest.approx(4 * LN2, rel=1e-5)
    assert regression == pytest.approx(0, abs=1e-6)
