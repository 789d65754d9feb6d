"""Which anchors are which objects, and what it costs to say so wrongly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["assign", "encode", "focal_loss", "retinanet_loss"]

# Assignment thresholds: section 4.1, "Anchors".
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.4
BACKGROUND, IGNORED = -1, -2
# A best anchor with less IoU than this is as good as none.
_LEAST_OVERLAP = 1e-6
# Keeps the derivative of (1 - p_t)^gamma finite for gamma < 1 where p_t is 1.
_LEAST_ERROR = 1e-12


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area, other_area = (boxes[:, 2:] - boxes[:, :2]).prod(-1), (others[:, 2:] - others[:, :2]).prod(-1)
    return inter / (area[:, None] + other_area[None] - inter).clamp(min=1e-9)


def assign(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Per anchor the row of its box, BACKGROUND below IoU 0.4, IGNORED from 0.4 to 0.5: int64 (anchors,).

    anchors (N, 4), boxes (M, 4): xyxy, same pixels. Each box's best anchors are its own whatever their IoU,
    so that no object is without one (as in Detectron; the paper is silent).
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    overlap = _iou(boxes, anchors)
    best, row = overlap.max(0)
    result = torch.where(best >= FOREGROUND_IOU, row, torch.full_like(row, IGNORED))
    result[best < BACKGROUND_IOU] = BACKGROUND
    rescue = overlap == overlap.max(1, keepdim=True).values.clamp(min=_LEAST_OVERLAP)
    claim, claimant = (overlap * rescue).max(0)
    return torch.where(claim > 0, claimant, result)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas dx dy dw dh that decode to `boxes` from `anchors`, both (N, 4) xyxy. Girshick 2014, appendix C."""
    size, target = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    centre, target_centre = anchors[:, :2] + size / 2, boxes[:, :2] + target / 2
    return torch.cat([(target_centre - centre) / size, torch.log(target.clamp(min=1e-3) / size)], 1)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """Sum of -alpha_t (1 - p_t)^gamma log(p_t), equation 5; gamma=0, alpha=None is plain cross entropy.

    logits, targets: same shape, targets 0 or 1.
    """
    loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if gamma:
        p = torch.sigmoid(logits)
        loss = loss * (p + targets - 2 * p * targets).clamp(min=_LEAST_ERROR) ** gamma
    if alpha is not None:
        loss = loss * (1 - alpha + (2 * alpha - 1) * targets)
    return loss.sum()


def retinanet_loss(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    boxes: list[Tensor],
    labels: list[Tensor],
    *,
    gamma: float,
    alpha: float | None,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of a batch, each normalised by its number of foreground anchors.

    logits (B, N, K), deltas (B, N, 4), anchors (N, 4); boxes and labels: one tensor per image, (M, 4) xyxy
    network-input pixels and (M,) int64. beta: where smooth L1 turns from square to linear.
    """
    rows = torch.stack([assign(anchors, b) for b in boxes])
    foreground = rows >= 0
    count = foreground.sum().clamp(min=1)
    targets = torch.zeros_like(logits)
    wanted = [
        encode(b[r[f]], anchors[f]) if len(b) else deltas.new_zeros(0, 4)
        for b, r, f in zip(boxes, rows, foreground, strict=True)
    ]
    for i, (label, row) in enumerate(zip(labels, rows, strict=True)):
        f = foreground[i]
        targets[i, f.nonzero(as_tuple=True)[0], label[row[f]]] = 1
    used = rows != IGNORED
    classification = focal_loss(logits[used], targets[used], gamma, alpha)
    regression = functional.smooth_l1_loss(deltas[foreground], torch.cat(wanted), reduction="sum", beta=beta)
    return classification / count, regression / count
