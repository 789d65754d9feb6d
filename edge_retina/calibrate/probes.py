"""Probes in the graph itself: of each tensor a few numbers come out, and no tensor outlives its use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edge_retina.calibrate.staged import needed_nodes
from edge_retina.errors import ModelError, RuntimeFailure
from edge_retina.runtime.ort import open_session
from edge_retina.types import F32, U8

__all__ = ["SAMPLE", "Probes", "Reading", "open_probes", "sample_size"]

# Values of one tensor in one frame that are handed out, at most; extremes and means are always exact.
SAMPLE = 1 << 16
# So many of a tensor in all frames together are enough: on digits a sample eight times as large gave the same
# disagreement, one a quarter of it did in four frames not.
_ENOUGH, _LEAST = 1 << 20, 1 << 13
# The real root of x^3 = x + 1.
_PLASTIC = 1.3247179572447460
_PREFIX = "edge_retina/probe"


@dataclass(frozen=True, eq=False)
class Reading:
    """Of one tensor (B, C, ...) in one frame. high, low, mean: float32 (C,). sample: float32 (C, n)."""

    high: F32
    low: F32
    mean: F32
    sample: F32


@dataclass(frozen=True, eq=False)
class Probes:
    """A session over a graph with probes, None where nothing is wanted.

    wanted: the tensors, in graph order. sample: at most so many values of each are handed out.
    """

    session: Any | None
    wanted: tuple[str, ...]
    sample: int

    def read(self, frame: U8, turn: int) -> Mapping[str, Reading]:
        """Run one frame, uint8 (H, W, 3). turn: its number, for which positions to look at. Raises RuntimeFailure."""
        if self.session is None:
            return {}
        feeds = {"frames": frame[None], f"{_PREFIX}/positions": _positions(turn, self.sample)}
        try:
            found = self.session.run(None, feeds)
        except Exception as exc:  # onnxruntime's errors have no common base
            raise RuntimeFailure(f"ONNX Runtime failed while calibrating: {str(exc)[:300]}") from exc
        readings = {}
        for name, high, low, mean, sample in zip(self.wanted, *(found[i::4] for i in range(4)), strict=True):
            rows = np.moveaxis(sample, 1, 0).reshape(sample.shape[1], -1)
            readings[name] = Reading(high.max(0), low.min(0), mean.mean(0), rows)
        return readings


def sample_size(frames: int) -> int:
    """Values of each tensor to look at in each of so many frames."""
    return min(max(_ENOUGH // max(frames, 1), _LEAST), SAMPLE)


def open_probes(model: onnx.ModelProto, wanted: Collection[str], sample: int = SAMPLE) -> Probes:
    """Put probes behind the wanted tensors of a model with the input `frames`.

    sample: values of a tensor to hand out, of all channels together, but at least one place in each. Only what the
    tensors depend on is kept. ONNX Runtime optimises the graph as it does without probes, but for operators that would
    swallow a wanted tensor. Raises ModelError when no node makes a wanted tensor and for control flow, RuntimeFailure.
    """
    if inside := next((node for node in model.graph.node if any(map(_is_graph, node.attribute))), None):
        name = inside.name or inside.output[0]
        raise ModelError(
            f"calibration wants a model without control flow, found {inside.op_type} {name!r}, in whose graphs it "
            "cannot look; build it in fp32, or export the model again with fixed shapes"
        )
    order = tuple(dict.fromkeys(n for node in model.graph.node for n in node.output if n in set(wanted)))
    if missing := sorted(set(wanted) - set(order)):
        raise ModelError(f"wanted the tensor {missing[0]!r}, which no node of the model makes; calibrate anew")
    return Probes(open_session(_probed(model, order), lean=True) if order else None, order, sample)


def _probed(model: onnx.ModelProto, wanted: Sequence[str]) -> bytes:
    """The model with probes, as bytes.

    They stand right behind what they look at: ONNX Runtime keeps to this order and frees the tensor sooner.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type for v in [*inferred.graph.value_info, *inferred.graph.output]}
    result = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, probing = result.graph, _Probing(result.graph, _opset(model))
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    made = onnx.TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info(f"{_PREFIX}/positions", made, (None, 2)))
    needed = needed_nodes(model.graph, set(wanted))
    for node in needed:
        graph.node.append(node)
        for name in node.output:
            if name in wanted:
                kind = types.get(name, onnx.TypeProto.Tensor(elem_type=made))
                dims = [d.dim_value for d in kind.shape.dim[1:]]
                shape = tuple(dims) if dims and all(dims) else None
                outputs = probing.probe(name, shape, cast=kind.elem_type != made)
                graph.output.extend(onnx.helper.make_tensor_value_info(n, made, None) for n in outputs)
    used = {name for node in needed for name in node.input}
    graph.initializer.extend(t for t in model.graph.initializer if t.name in used)
    return bytes(result.SerializeToString())


class _Probing:
    """Appends the nodes of probes to a graph. Tensors of one known shape are looked at in the same places."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self._graph, self._opset = graph, opset
        self._index: dict[tuple[int, ...], str] = {}
        self._count = 0

    def probe(self, name: str, shape: tuple[int, ...] | None, *, cast: bool = False) -> list[str]:
        """Behind one tensor (B, C, ...): the outputs, in the order of Reading. shape: (C, ...), None if not known.

        cast: the tensor is not float32, as in a model that was exported in float16.
        """
        flat = self("Reshape", name, self.constant([0, 0, -1]))
        if cast:
            flat = self("Cast", flat, to=onnx.TensorProto.FLOAT)
        extremes = [self._reduce(op, flat) for op in ("ReduceMax", "ReduceMin", "ReduceMean")]
        index = self._index.get(shape) if shape is not None else None
        if index is None:
            index = self._places(name, flat)
            if shape is not None:
                self._index[shape] = index
        return [*extremes, self("Gather", flat, index, axis=2)]

    def _places(self, name: str, flat: str) -> str:
        """Which of the N places of (B, C, N) to look at: all where they are few, else those next in the sequence."""
        channels, places = (self("Shape", flat, start=i, end=i + 1) for i in (1, 2))
        width = self("Shape", name, start=-1)
        height = self("Div", places, width)
        sample = self("Shape", f"{_PREFIX}/positions", start=0, end=1)
        share = self("Max", self("Div", sample, channels), self.constant([1]))
        count = self("Min", share, places)
        some = self("Slice", f"{_PREFIX}/positions", self.constant([0]), count, self.constant([0]))
        sizes = self("Cast", self("Concat", height, width, axis=0), to=onnx.TensorProto.FLOAT)
        cells = self("Cast", self("Mul", some, sizes), to=onnx.TensorProto.INT64)
        rows, columns = (self("Gather", cells, self.scalar(i), axis=1) for i in (0, 1))
        last = self("Sub", places, self.constant([1]))
        spread = self("Min", self("Add", self("Mul", rows, width), columns), last)
        every = self("Range", self.scalar(0), self("Squeeze", count), self.scalar(1))
        return self("Where", self("Equal", count, places), every, spread)

    def _reduce(self, op: str, flat: str) -> str:
        """Over the last axis. Their spelling changed in opset 18."""
        if self._opset >= 18:
            return self(op, flat, self.constant([2]), keepdims=0)
        return self(op, flat, axes=[2], keepdims=0)

    def constant(self, values: Sequence[int]) -> str:
        return self("Constant", value_ints=list(values))

    def scalar(self, value: int) -> str:
        return self("Constant", value_int=value)

    def __call__(self, op: str, *inputs: str, **attrs: Any) -> str:
        self._count += 1
        name = f"{_PREFIX}/{op.lower()}_{self._count}"
        self._graph.node.append(onnx.helper.make_node(op, inputs, [name], name, **attrs))
        return name


def _positions(turn: int, count: int) -> F32:
    """Where to look in the frame of this number: (count, 2), parts of the height and the width.

    Roberts' R2 sequence, whose every run is even in both directions, whatever the width. Every k-th position would do
    for no k: next to a multiple of the width it walks along a diagonal.
    """
    index = np.arange(turn * count, (turn + 1) * count)[:, None]
    return np.asarray(index / np.array([_PLASTIC, _PLASTIC**2]) % 1, np.float32)


def _is_graph(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("g") or len(attribute.graphs) > 0


def _opset(model: onnx.ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
