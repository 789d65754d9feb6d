from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matching import match

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch
from torch import nn

from edge_retina import boxes
from edge_retina.errors import InputError
from edge_retina.geometry import fit_frame
from edge_retina.spec import DetectorSpec
from edge_retina.train.data import load_coco
from edge_retina.train.model import PRESETS, make_spec
from edge_retina.train.predict import coco_results, fitted, flatten, postprocess

SPEC = make_spec(PRESETS["narrow"], ("a", "b", "c"), (64, 96))


def random_heads(spec: DetectorSpec, seed: int, shift: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Heads of one image; shift: mean logit, so the share of candidates."""
    generator = torch.Generator().manual_seed(seed)
    logits, deltas = [], []
    for height, width in spec.level_shapes:
        logits.append(torch.randn(1, 9 * spec.num_classes, height, width, generator=generator) * 2 + shift)
        deltas.append(torch.randn(1, 36, height, width, generator=generator))
    return logits, deltas


def test_flatten_has_the_order_of_the_anchors() -> None:
    # Two anchors, three channels, one row of two cells: channel a * 3 + c at cell x holds 100 x + 10 a + c.
    head = torch.tensor([[[[100 * x + 10 * a + c for x in range(2)]] for a in range(2) for c in range(3)]])
    assert flatten([head, head], 3)[0].tolist() == 2 * [[0, 1, 2], [10, 11, 12], [100, 101, 102], [110, 111, 112]]
    np.testing.assert_array_equal(flatten([head], 3)[0].numpy(), boxes.to_anchor_rows(head[0].numpy(), 2))


@pytest.mark.parametrize("frame", [(64, 96), (480, 640), (31, 200)])
@pytest.mark.parametrize(
    ("seed", "shift", "change"),
    [
        (0, -50.0, {}),  # no candidates
        (1, -4.0, {}),
        (2, 4.0, {}),  # nearly all
        (3, -2.0, {"top_k": 20, "max_detections": 7}),
        (4, -2.0, {"class_aware_nms": False, "nms_iou": 0.3}),
        (5, -2.0, {"delta_weights": (10.0, 10.0, 5.0, 5.0), "score_threshold": 0.3}),
        (6, -2.0, {"placement": "center"}),
        (7, -2.0, {"resize": "stretch"}),
    ],
)
def test_agrees_with_the_reference(seed: int, shift: float, change: dict[str, object], frame: tuple[int, int]) -> None:
    spec = replace(SPEC, **change)
    geometry = fit_frame(spec, *frame)
    logits, deltas = random_heads(spec, seed, shift)
    found = postprocess(logits, deltas, spec, geometry)
    wanted = boxes.detect([v[0].numpy() for v in logits], [v[0].numpy() for v in deltas], spec, geometry)
    assert (found.shape, found.names) == (frame, ("a", "b", "c"))
    report = match(
        (found.xyxy, found.scores, found.labels),
        wanted,
        px=0.01 * max(1, max(frame) / 96),
        threshold=spec.score_threshold,
        limit=spec.max_detections,
    )
    assert report.ok, report
    assert bool(len(found)) == (shift > -50)


def test_fitted_letterbox_by_hand() -> None:
    image = np.full((10, 10, 3), (1, 2, 3), np.uint8)
    canvas, geometry = fitted(image, SPEC)
    assert (canvas.shape, canvas.dtype) == ((64, 96, 3), np.float32)
    assert geometry.content == (64, 64)
    assert (canvas[:, :64] == (1, 2, 3)).all()
    # The spec's padding is R G B.
    np.testing.assert_allclose(canvas[:, 64:], np.broadcast_to(SPEC.pad_value[::-1], (64, 32, 3)))


class Constant(nn.Module):
    """One sure anchor: the first of P3's first cell, of class 1."""

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        assert images.shape == (1, 3, 64, 96)
        assert images.dtype == torch.float32
        logits = [torch.full((1, 27, h, w), -20.0) for h, w in SPEC.level_shapes]
        logits[0][0, 3 * 3 + 1, 1, 2] = 20.0
        return logits, [torch.zeros(1, 36, h, w) for h, w in SPEC.level_shapes]


def test_coco_results_by_hand(squares: Path) -> None:
    # Anchor 3 (ratio 1, scale 1) of cell x 2, y 1 on P3: 16 x 16 about (16, 8); pictures of 64 x 64 fill the left.
    rows = coco_results(Constant(), load_coco(squares)[0][:2], SPEC, [5, 6, 9], torch.device("cpu"))
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(1, 6), (2, 6)]
    assert rows[0]["bbox"] == pytest.approx([8, 0, 16, 16])
    assert rows[0]["score"] == pytest.approx(1)


def test_coco_results_of_no_examples() -> None:
    assert coco_results(Constant(), [], SPEC, [5, 6, 9], torch.device("cpu")) == []


def test_coco_results_name_a_broken_picture(squares: Path, tmp_path: Path) -> None:
    example = replace(load_coco(squares)[0][0], path=tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"gone\.png"):
        coco_results(Constant(), [example], SPEC, [5, 6, 9], torch.device("cpu"))
