"""Which layers cost accuracy in INT8, measured on pictures without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from edge_retina.boxes import decode, make_anchors, paired_iou, sigmoid, to_anchor_rows
from edge_retina.quantize import Quantizer
from edge_retina.rewrite.emit import Emitter
from edge_retina.runtime.ort import open_session
from edge_retina.spec import DetectorSpec
from edge_retina.types import F32, U8

__all__ = ["Reference", "disagreement", "local_sqnr", "references"]

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
        return float(self.scores[self.counted].sum())


def references(model: onnx.ModelProto, spec: DetectorSpec, frames: Iterable[U8]) -> list[Reference]:
    """Run the float model on frames, uint8 (H, W, 3)."""
    return [_remember(scores, deltas, spec) for scores, deltas in _run_heads(model, spec, frames)]


def disagreement(
    model: onnx.ModelProto, spec: DetectorSpec, frames: Iterable[U8], wanted: Sequence[Reference]
) -> float:
    """How far another model's heads are from the references, relative to what they found; 0.0 is the same.

    Sum of score differences, and of 1 - IoU of the decoded boxes times the score, over everything that either model
    gives a score above 0.05 to, divided by the sum of the reference's scores. Before NMS, so that it moves smoothly.
    """
    anchors = np.concatenate([make_anchors(spec, level) for level in range(spec.num_levels)])
    error = weight = 0.0
    for reference, (scores, deltas) in zip(wanted, _run_heads(model, spec, frames), strict=True):
        flat = scores.ravel()
        seen = np.union1d(reference.pairs, np.flatnonzero(flat > _SCORE))
        was = np.zeros(len(seen), np.float32)
        was[np.searchsorted(seen, reference.pairs)] = reference.scores
        error += float(np.abs(was - flat[seen]).sum())
        rows = reference.anchors
        boxes = decode(deltas[rows], anchors[rows], spec.delta_weights, spec.max_log_scale)
        error += float(((1 - paired_iou(boxes, reference.boxes)) * reference.trust).sum())
        weight += reference.weight
    return error / weight if weight else 0.0


def _remember(scores: F32, deltas: F32, spec: DetectorSpec) -> Reference:
    flat = scores.ravel()
    best = np.argpartition(-flat, min(_LEAST, flat.size) - 1)[:_LEAST]
    pairs = np.union1d(np.flatnonzero(flat > _NOTHING), best)
    counted = (flat[pairs] > _SCORE) | np.isin(pairs, best)
    anchors = np.unique(pairs[counted] // scores.shape[1])
    table = np.concatenate([make_anchors(spec, level) for level in range(spec.num_levels)])
    boxes = decode(deltas[anchors], table[anchors], spec.delta_weights, spec.max_log_scale)
    return Reference(pairs, flat[pairs], counted, anchors, boxes, scores[anchors].max(1))


def _run_heads(model: onnx.ModelProto, spec: DetectorSpec, frames: Iterable[U8]) -> Iterator[tuple[F32, F32]]:
    """Scores (N, K) and deltas (N, 4) of each frame, rows level by level in the order of the anchors."""
    names = [f"{kind}_{level}" for kind in ("logits", "deltas") for level in range(spec.num_levels)]
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    del proto.graph.output[:]
    kind = onnx.TensorProto.FLOAT
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in names)
    session = open_session(proto.SerializeToString())
    per_cell = [len(cell) for cell in spec.cell_anchors] * 2
    for frame in frames:
        heads = session.run(names, {"frames": frame[None]})
        rows = [to_anchor_rows(head[0], count) for head, count in zip(heads, per_cell, strict=True)]
        yield sigmoid(np.concatenate(rows[: spec.num_levels])), np.concatenate(rows[spec.num_levels :])


def local_sqnr(quantizer: Quantizer, frames: Iterable[U8]) -> dict[str, float]:
    """Signal to quantization noise of each convolution alone, in decibels, by its output's name.

    Its input is that of the float model, quantized; its weight is quantized; its output is compared with the float
    one's. One graph holds both, and only sums leave it.
    """
    graph = gs.import_onnx(quantizer.model)
    nodes = {node.outputs[0].name: node for node in graph.nodes}
    placement = quantizer.everything
    emit, outputs = Emitter(graph, "twin"), []
    for name in placement.convs:
        conv = nodes[name]
        group = placement.groups[placement.edges[name, 0]]
        outputs += _twin(emit, conv, quantizer.scale(placement.observed[group]), quantizer)
    graph.outputs = outputs
    graph.cleanup().toposort()
    session = open_session(gs.export_onnx(graph).SerializeToString())
    sums = np.zeros(len(outputs))
    for frame in frames:
        sums += np.array([float(v) for v in session.run(None, {"frames": frame[None]})])
    signal, noise = sums[::2], sums[1::2]
    return {
        name: float(10 * np.log10(s / n)) if n > 0 and s > 0 else np.inf
        for name, s, n in zip(placement.convs, signal, noise, strict=True)
    }


def _twin(emit: Emitter, conv: gs.Node, scale: float, quantizer: Quantizer) -> list[gs.Variable]:
    """A quantized copy of a convolution beside it; returns the sums of squares of its output and of the difference."""
    constants = np.array(scale, np.float32), np.array(0, np.int8)
    values = emit("DequantizeLinear", emit("QuantizeLinear", conv.inputs[0], *constants), *constants)
    weight = quantizer.weights[conv.inputs[1].name].dequantized()
    copy = emit("Conv", values, weight, quantizer.bias(conv), **conv.attrs)
    sums = [emit("ReduceSumSquare", t, keepdims=0) for t in (conv.outputs[0], emit("Sub", conv.outputs[0], copy))]
    for tensor in sums:
        tensor.dtype = np.dtype(np.float32)
    return sums
