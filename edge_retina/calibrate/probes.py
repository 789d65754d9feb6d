"""Probes in the graph itself: of each tensor a few numbers come out, and no tensor outlives its use."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edge_retina.calibrate.staged import needed_nodes
from edge_retina.errors import ModelError, RuntimeFailure
from edge_retina.runtime.ort import open_session
from edge_retina.types import F32, U8

__all__ = ["SAMPLE", "Probes", "Reading", "open_probes", "sample_size"]

# Values of one tensor in one frame that are handed out, at most; peaks and means are always exact.
SAMPLE = 1 << 16
# So many of a tensor in all frames together are enough: on digits a sample eight times as large gave the same
# disagreement, one a quarter of it did in four frames not.
_ENOUGH, _LEAST = 1 << 20, 1 << 13
# The real root of x^3 = x + 1.
_PLASTIC = 1.3247179572447460
_PREFIX = "edge_retina/probe"
_POSITIONS = f"{_PREFIX}/positions"
# Values that a shape depends on are shorter than this; inference needs no others.
_SMALL = 4096


@dataclass(frozen=True, eq=False)
class Reading:
    """Of one tensor (B, C, ...) in one frame. peak, mean: float32 (C,), largest magnitude. sample: float32 (C, n)."""

    peak: F32
    mean: F32
    sample: F32

    def divided(self, factor: F32) -> Reading:
        """What would be read were the channels divided by powers of two, float32 (C,)."""
        return Reading(self.peak / factor, self.mean / factor, self.sample / factor[:, None])


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
        feeds = {"frames": frame[None], _POSITIONS: _positions(turn, self.sample)}
        try:
            found = self.session.run(None, feeds)
        except Exception as exc:  # onnxruntime's errors have no common base
            raise RuntimeFailure(f"ONNX Runtime failed while calibrating: {str(exc)[:300]}") from exc
        readings = {}
        for name, peak, mean, sample in zip(self.wanted, *(found[i::3] for i in range(3)), strict=True):
            rows = np.moveaxis(sample, 1, 0).reshape(sample.shape[1], -1)
            count = len(peak)
            readings[name] = Reading(peak.reshape(count, -1).max(0), mean.reshape(count, -1).mean(0), rows)
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
    session = open_session(_probed(model, order, sample), lean=True) if order else None
    return Probes(session, order, sample)


def _probed(model: onnx.ModelProto, wanted: Sequence[str], sample: int) -> bytes:
    """The model with probes, as bytes.

    Each tensor has to be looked at as soon as it is there, or all would be there at once. ONNX Runtime orders a graph
    from its last end back to what that needs: hence behind all else the probes, those of the last tensor first.
    """
    types, positive = _types(model), _not_negative(model.graph)
    result = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, probing = result.graph, _Probing(result.graph, _opset(model), sample)
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    made = onnx.TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info(_POSITIONS, made, (None, 2)))
    needed = needed_nodes(model.graph, set(wanted))
    for node in needed:
        graph.node.append(node)
        for name in node.output:
            if name in wanted:
                kind = types.get(name, onnx.TypeProto.Tensor(elem_type=made))
                dims = [d.dim_value for d in kind.shape.dim[1:]]
                shape = tuple(dims) if dims and all(dims) else None
                outputs = probing.probe(name, shape, cast=kind.elem_type != made, signed=name not in positive)
                graph.output.extend(onnx.helper.make_tensor_value_info(n, made, None) for n in outputs)
    graph.node.extend(node for nodes in reversed(probing.behind) for node in nodes)
    used = {name for node in needed for name in node.input}
    graph.initializer.extend(t for t in model.graph.initializer if t.name in used)
    return bytes(result.SerializeToString())


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """What shape inference knows of the tensors, without the weights being copied about."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, given = light.graph, model.graph
    graph.name = given.name
    graph.node.extend(given.node)
    graph.input.extend(given.input)
    graph.output.extend(given.output)
    for tensor in given.initializer:
        if tensor.ByteSize() <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    inferred = onnx.shape_inference.infer_shapes(light).graph
    return {v.name: v.type.tensor_type for v in [*inferred.value_info, *inferred.output]}


def _not_negative(graph: onnx.GraphProto) -> set[str]:
    """Tensors that need no Abs for their peak: behind a ReLU or a sigmoid, or moved from there."""
    found: set[str] = set()
    for node in graph.node:
        moved = node.op_type in ("Concat", "MaxPool") and all(name in found for name in node.input)
        if moved or node.op_type in ("Relu", "Sigmoid"):
            found.add(node.output[0])
    return found


class _Probing:
    """Appends the nodes of probes to a graph. Tensors of one known shape are looked at in the same places.

    behind: those of feature maps, map by map, which the caller puts behind all others.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int, sample: int) -> None:
        self._graph, self._opset, self._sample = graph, opset, sample
        self.behind: list[list[onnx.NodeProto]] = []
        self._nodes: MutableSequence[onnx.NodeProto] = graph.node
        self._index: dict[tuple[int, ...], str] = {}
        self._picks: dict[tuple[int, ...], tuple[str, list[int]]] = {}
        self._count = 0

    def probe(self, name: str, shape: tuple[int, ...] | None, *, cast: bool = False, signed: bool = True) -> list[str]:
        """Behind one tensor (B, C, ...): the outputs, in the order of Reading. shape: (C, ...), None if not known.

        cast: the tensor is not float32, as in a model that was exported in float16. signed: it may be negative.
        """
        if shape is not None and len(shape) == 3 and not cast:
            return self._probe_map(name, shape, signed)
        self._nodes = self._graph.node
        flat = self("Reshape", name, self.constant([0, 0, -1]))
        if cast:
            flat = self("Cast", flat, to=onnx.TensorProto.FLOAT)
        index = self._index.get(shape) if shape is not None else None
        if index is None:
            index = self._places(name, flat)
            if shape is not None:
                self._index[shape] = index
        peak = self._reduce("ReduceMax", self("Abs", flat) if signed else flat)
        return [peak, self._reduce("ReduceMean", flat), self("Gather", flat, index, axis=2)]

    def _probe_map(self, name: str, shape: tuple[int, ...], signed: bool) -> list[str]:
        """Behind a feature map of known size, by operators that take it as ONNX Runtime's convolutions lay it out.

        Turning it round for others costs as much as reading it, and a third of plain inference in all.
        """
        if shape not in self._picks:
            self._picks[shape] = self._pick(shape)
        self._nodes = []
        self.behind.append(self._nodes)
        kernel, strides = self._picks[shape]
        peak = self("GlobalMaxPool", name)
        if signed:  # by a convolution, for Neg and Abs would have to turn it round
            negative = self("Conv", name, self._kernel(np.full((shape[0], 1, 1, 1), -1, np.float32)), group=shape[0])
            peak = self("Max", peak, self("GlobalMaxPool", negative))
        sample = self("Conv", name, kernel, group=shape[0], strides=strides)
        return [peak, self("GlobalAveragePool", name), sample]

    def _pick(self, shape: tuple[int, ...]) -> tuple[str, list[int]]:
        """A convolution that hands out one value of each cell of a grid: its kernel and strides.

        Each channel in a place of its own inside the cells, by the sequence of _positions, so that all channels
        together see all of the map, and its rows and columns evenly.
        """
        (channels, *size), share = shape, max(self._sample // shape[0], 1)
        rows = min(max(round(math.sqrt(share * size[0] / size[1])), 1), size[0], share)
        columns = min(share // rows, size[1])
        rows = min(share // columns, size[0])
        strides = [side // cells for side, cells in zip(size, (rows, columns), strict=True)]
        # The last cell ends where the map does: what is left over makes all cells larger, and they overlap.
        kernel = [side - (cells - 1) * step for side, cells, step in zip(size, (rows, columns), strides, strict=True)]
        inside = (_positions(0, channels) * np.array(kernel, np.float32)).astype(int)
        weight = np.zeros((channels, 1, *kernel), np.float32)
        weight[np.arange(channels), 0, inside[:, 0], inside[:, 1]] = 1
        return self._kernel(weight), strides

    def _kernel(self, weight: F32) -> str:
        self._count += 1
        name = f"{_PREFIX}/kernel_{self._count}"
        self._graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
        return name

    def _places(self, name: str, flat: str) -> str:
        """Which of the N places of (B, C, N) to look at: all where they are few, else those next in the sequence."""
        channels, places = (self("Shape", flat, start=i, end=i + 1) for i in (1, 2))
        width = self("Shape", name, start=-1)
        height = self("Div", places, width)
        sample = self("Shape", _POSITIONS, start=0, end=1)
        share = self("Max", self("Div", sample, channels), self.constant([1]))
        count = self("Min", share, places)
        some = self("Slice", _POSITIONS, self.constant([0]), count, self.constant([0]))
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
        self._nodes.append(onnx.helper.make_node(op, inputs, [name], name, **attrs))
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
