"""How far a model's heads are from those of its float version, measured on pictures without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edge_retina.boxes import anchor_boxes, decode, paired_iou, sigmoid, to_anchor_rows
from edge_retina.check import head_names, head_session
from edge_retina.memory import release
from edge_retina.spec import DetectorSpec
from edge_retina.types import F32, U8

__all__ = ["Reference", "disagreement", "references"]

# What counts in a picture: pairs of anchor and class above this score, and at least so many of the best.
_SCORE, _LEAST = 0.05, 100
# A score below this is as good as none.
_NOTHING = 0.005


@dataclass(frozen=True, eq=False)
class Reference:
    """What the float model says of one frame.

    pairs: int64 (P,), anchor * K + class, ascending. scores: float32 (P,). counted: bool (P,), what makes the weight.
    anchors: int64 (A,), those of the counted pairs. boxes: float32 (A, 4) xyxy, network-input pixels. trust: float32
    (A,), their best scores.
    """

    pairs: npt.NDArray[np.int64]
    scores: F32
    counted: npt.NDArray[np.bool_]
    anchors: npt.NDArray[np.int64]
    boxes: F32
    trust: F32

    @property
    def weight(self) -> float:
        """What the disagreement is relative to."""
        return float(np.square(self.scores[self.counted]).sum())


def references(model: onnx.ModelProto, spec: DetectorSpec, frames: Iterable[U8]) -> list[Reference]:
    """Run the float model on frames, uint8 (H, W, 3)."""
    return [_remember(scores, deltas, spec) for scores, deltas in _run_heads(model, spec, frames)]


def disagreement(
    model: onnx.ModelProto, spec: DetectorSpec, frames: Iterable[U8], wanted: Sequence[Reference]
) -> float:
    """How far another model's heads are from the references, relative to what they found; 0.0 is the same.

    Score differences times the better score, and 1 - IoU of the decoded boxes times the squared score, summed over
    everything that either model gives a score above 0.05, divided by the sum of the reference's squared scores. Before
    NMS, so that it moves smoothly; what is found with confidence counts most.
    """
    anchors = np.concatenate([anchor_boxes(spec, level) for level in range(spec.num_levels)])
    error = weight = 0.0
    for reference, (scores, deltas) in zip(wanted, _run_heads(model, spec, frames), strict=True):
        flat = scores.ravel()
        seen = np.union1d(reference.pairs, np.flatnonzero(flat > _SCORE))
        was = np.zeros(len(seen), np.float32)
        was[np.searchsorted(seen, reference.pairs)] = reference.scores
        now = flat[seen]
        error += float((np.abs(was - now) * np.maximum(was, now)).sum())
        rows = reference.anchors
        boxes = decode(deltas[rows], anchors[rows], spec.delta_weights, spec.max_log_scale, spec.box_coding)
        # Where both are so small that nothing is left of them they may still be the same.
        apart = np.where((boxes == reference.boxes).all(1), np.float32(0), 1 - paired_iou(boxes, reference.boxes))
        error += float((apart * reference.trust**2).sum())
        weight += reference.weight
    return error / weight if weight else 0.0


def _remember(scores: F32, deltas: F32, spec: DetectorSpec) -> Reference:
    flat = scores.ravel()
    best = np.argpartition(-flat, min(_LEAST, flat.size) - 1)[:_LEAST]
    pairs = np.union1d(np.flatnonzero(flat > _NOTHING), best)
    counted = (flat[pairs] > _SCORE) | np.isin(pairs, best)
    anchors = np.unique(pairs[counted] // scores.shape[1])
    table = np.concatenate([anchor_boxes(spec, level) for level in range(spec.num_levels)])
    boxes = decode(deltas[anchors], table[anchors], spec.delta_weights, spec.max_log_scale, spec.box_coding)
    return Reference(pairs, flat[pairs], counted, anchors, boxes, scores[anchors].max(1))


def _run_heads(model: onnx.ModelProto, spec: DetectorSpec, frames: Iterable[U8]) -> Iterator[tuple[F32, F32]]:
    """Scores (N, K) and deltas (N, 4) of each frame, rows level by level in the order of the anchors."""
    release()
    names, session = head_names(spec), head_session(model.SerializeToString(), spec)
    release()  # what making it took
    per_cell = [len(cell) for cell in spec.cell_anchors] * 2
    for frame in frames:
        heads = session.run(names, {"frames": frame[None]})
        rows = [to_anchor_rows(head[0], count) for head, count in zip(heads, per_cell, strict=True)]
        yield sigmoid(np.concatenate(rows[: spec.num_levels])), np.concatenate(rows[spec.num_levels :])
