"""Pass: a float16 trunk between frame input and decoder, with every type written into the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from edge_retina.errors import ModelError
from edge_retina.rewrite.opset import LEAST_OPSET
from edge_retina.rewrite.trunk import F16, F32, Trunk

__all__ = ["LARGEST_CALIBRATED", "Half", "half_overflow", "to_half"]

# float16 ends at 65504; another picture than those of the calibration may double what they showed.
LARGEST_CALIBRATED = 32752.0
# Float32 by what they compute: sums over whole planes, which leave float16's range or its 11 bits though their result
# does not; squares, exponentials and powers; statistics (BatchNormalization's variances) far below 6e-5.
_FLOAT32_OPS = frozenset(
    (
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
        *("LpNormalization", "LRN", "MeanVarianceNormalization", "RMSNormalization"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"),
        *("ReduceSumSquare", "CumSum", "GlobalAveragePool", "GlobalLpPool", "LpPool"),
        *("Exp", "Log", "LogSoftmax", "Pow", "Softmax", "Softplus"),
    )
)
# Their largest output is their largest input: what is too large for float16 stays so behind them.
_CARRIERS = frozenset(
    (
        *("Concat", "DequantizeLinear", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad"),
        *("QuantizeLinear", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
        "Unsqueeze",
    )
)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# Inputs that ONNX or TensorRT wants in float32 whatever the data are: roi and scales.
_FLOAT32_INPUTS = {"Resize": (1, 2)}
# In products of many a constant that rounds to 0 is no loss; elsewhere it may be the epsilon of a division.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_DOWN, _UP = "half/", "full/"


@dataclass(frozen=True)
class Half:
    """What to_half did: the number of edits, and the tensors of the trunk that stayed float32."""

    edits: int
    kept: tuple[str, ...]


def half_overflow(ranges: Mapping[str, float]) -> tuple[str, ...]:
    """Names, sorted, of tensors whose largest calibrated magnitude leaves too little of float16's range.

    ranges: tensor name to largest magnitude. The limit is LARGEST_CALIBRATED, half of what float16 holds; NaN exceeds
    it too.
    """
    return tuple(sorted(name for name, largest in ranges.items() if not abs(largest) <= LARGEST_CALIBRATED))


def to_half(graph: gs.Graph, keep: Collection[str] = ()) -> Half:
    """Make the trunk float16, from behind the frame input to the heads, in a graph that has frame input and decoder.

    Rule: floating-point tensors between the last `frame/` tensor and the inputs of AnchorDecode become float16, weights
    and scales of Q/DQ with them; heads are float32 again under their names. Float32 stay: shape arithmetic, a Resize's
    scales, operators of _FLOAT32_OPS, of other domains and without a float16 form, nodes that write or read a tensor
    named in `keep` (one whose values float16 cannot hold), nodes with a constant that float16 cannot hold. A Q takes
    the type of what it reads, a DQ that of those who read it. A tensor is cast once per direction. Scope: main graph;
    frame input, decoder and function bodies are not touched. A graph that is half already is left alone, whatever
    `keep` says. Raises ModelError: no decoder, Q/DQ below opset 19, a scale that is not exact in float16, control flow
    in the trunk.
    """
    trunk = Trunk(graph)
    if any(name.startswith((_DOWN, _UP)) for name in graph.tensors()):
        return Half(0, _float32_names(trunk))
    _check(trunk)
    edits = _drop_casts(trunk)
    edits += _Types(trunk, frozenset(keep)).write()
    if edits:  # functions as they are
        graph.toposort(recurse_subgraphs=False, recurse_functions=False)
    return Half(edits, _float32_names(Trunk(graph)))


def _check(trunk: Trunk) -> None:
    """Raises ModelError for what the pass has no rule for."""
    for node in trunk.nodes:
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            raise ModelError(
                f"float16 wants a trunk without control flow, found {node.op} {node.name!r}; build it in fp32, or "
                "export the model again with fixed shapes"
            )
        if node.op in _QUANTIZERS and trunk.graph.opset < LEAST_OPSET:
            raise ModelError(
                f"float16 scales want opset {LEAST_OPSET} or newer, found {trunk.graph.opset}; raise_opset comes first"
            )


def _drop_casts(trunk: Trunk) -> int:
    """Take out Casts between float16 and float32 on the picture's way; returns how many."""
    gone = 0
    for node in trunk.nodes:
        if node.op != "Cast" or not trunk.is_data(node) or not all(map(trunk.is_float, (*node.inputs, *node.outputs))):
            continue
        source, result = node.inputs[0], node.outputs[0]
        node.outputs.clear()
        node.inputs.clear()
        if any(result is head for head in trunk.heads) and source.inputs:
            producer = source.inputs[0]
            producer.outputs = [result if t is source else t for t in producer.outputs]
            source, result = result, source
        for reader in list(result.outputs):
            reader.inputs = [source if t is result else t for t in reader.inputs]
        gone += 1
    trunk.nodes = [node for node in trunk.nodes if node.outputs]
    trunk.graph.nodes = [node for node in trunk.graph.nodes if node.outputs]
    return gone


def _float32_names(trunk: Trunk) -> tuple[str, ...]:
    """Tensors that the picture goes through in float32, save those that our Casts made."""
    nodes = [node for node in trunk.nodes if trunk.is_data(node) and not node.name.startswith((_DOWN, _UP))]
    return tuple(t.name for node in nodes for t in node.outputs if trunk.types.get(t.name) == F32)


class _Types:
    """Chooses a type for every node of a trunk and writes it into the graph."""

    def __init__(self, trunk: Trunk, keep: frozenset[str]) -> None:
        self.trunk, self.graph = trunk, trunk.graph
        self.too_large: set[int] = set()
        for node in trunk.nodes:
            carried = node.op in _CARRIERS and any(id(t) in self.too_large for t in node.inputs)
            self.too_large.update(id(t) for t in node.outputs if carried or t.name in keep)
        self.chosen: dict[int, np.dtype[Any]] = {}
        self.native: dict[int, np.dtype[Any]] = {}
        self._made: dict[tuple[int, np.dtype[Any]], gs.Tensor] = {}
        self._constants: list[tuple[gs.Constant, gs.Constant]] = []
        for node in trunk.nodes:
            if node.op not in _QUANTIZERS and node.op != "Cast" and trunk.is_data(node):
                self._choose(node, F32 if self._wants_float32(node) else F16)
        for node in trunk.nodes:
            if node.op == "DequantizeLinear":
                # Of those only the Casts have no type yet; they read any.
                readers = [self.chosen.get(id(reader)) for reader in node.outputs[0].outputs]
                narrow = id(node.outputs[0]) not in self.too_large and F16 in (readers or [F16])
                self._choose(node, F16 if narrow else F32)
        for node in trunk.nodes:
            if node.op == "QuantizeLinear":
                source = node.inputs[0]
                stored = source.values.dtype if isinstance(source, gs.Constant) else F32
                self._choose(node, self.native.get(id(source), stored))

    def _choose(self, node: gs.Node, dtype: np.dtype[Any]) -> None:
        self.chosen[id(node)] = dtype
        self.native.update((id(t), dtype) for t in node.outputs if self.trunk.is_float(t))

    def _wants_float32(self, node: gs.Node) -> bool:
        if node.op in _FLOAT32_OPS or node.domain not in (None, "", "ai.onnx"):
            return True
        if any(id(t) in self.too_large for t in (*node.inputs, *node.outputs)):
            return True
        floats = [i for i, t in enumerate(node.inputs) if self.trunk.is_float(t) and i not in _not_cast(node)]
        if not all(_takes_half(node.op, self.graph.opset, i) for i in floats):
            return True
        constants = [node.inputs[i].values for i in floats if isinstance(node.inputs[i], gs.Constant)]
        return not all(_fits(values, node.op in _WEIGHTED) for values in constants)

    def write(self) -> int:
        """Casts, constants and types; returns the number of Casts and constants made."""
        for head in {id(head): head for head in self.trunk.heads}.values():
            if self.native.get(id(head)) == F16:
                self._head(head)
        for node in self.trunk.nodes:
            if id(node) in self.chosen:
                skip = _not_cast(node)
                node.inputs = [
                    t if i in skip or not self.trunk.is_float(t) else self._as(t, self.chosen[id(node)], node)
                    for i, t in enumerate(node.inputs)
                ]
            for tensor in node.outputs:
                if tensor.dtype is not None:
                    tensor.dtype = self.native.get(id(tensor), tensor.dtype)
        for new, old in self._constants:
            others = [made for made, of in self._constants if of is old and made is not new]
            if not old.outputs and not others:
                new.name = old.name
        return len(self._made)

    def _head(self, head: gs.Variable) -> None:
        """Put a Cast between a head and its producer, under the head's name behind it."""
        narrow = gs.Variable(_DOWN + head.name, F16, head.shape)
        producer = head.inputs[0]
        producer.outputs = [narrow if t is head else t for t in producer.outputs]
        for reader in [node for node in head.outputs if node is not self.trunk.call]:
            reader.inputs = [narrow if t is head else t for t in reader.inputs]
        self.trunk.types[narrow.name] = self.native[id(narrow)] = F16
        self.native[id(head)] = F32
        self._made[id(narrow), F32] = head
        head.dtype = F32
        self.graph.nodes.append(gs.Node("Cast", _UP + head.name, {"to": np.float32}, [narrow], [head]))

    def _as(self, tensor: gs.Tensor, dtype: np.dtype[Any], node: gs.Node) -> gs.Tensor:
        """The same values in another type; made once."""
        if isinstance(tensor, gs.Constant):
            native = tensor.values.dtype
            if dtype == F16 and node.op in _QUANTIZERS:
                _check_scale(tensor, node)
        else:
            native = self.native.get(id(tensor), self.trunk.types.get(tensor.name, tensor.dtype))
        if native == dtype:
            return tensor
        if (id(tensor), dtype) not in self._made:
            name = (_DOWN if dtype == F16 else _UP) + tensor.name
            if isinstance(tensor, gs.Constant):
                made: gs.Tensor = gs.Constant(name, _cast(tensor.values, dtype))
                self._constants.append((made, tensor))
            else:
                made = gs.Variable(name, dtype, tensor.shape)
                self.graph.nodes.append(gs.Node("Cast", name, {"to": dtype.type}, [tensor], [made]))
            self._made[id(tensor), dtype] = made
        return self._made[id(tensor), dtype]


def _not_cast(node: gs.Node) -> tuple[int, ...]:
    return _FLOAT32_INPUTS.get(node.op, ())


def _takes_half(op: str, opset: int, index: int) -> bool:
    if not onnx.defs.has(op):
        return False
    inputs = onnx.defs.get_schema(op, max_inclusive_version=opset).inputs
    return "tensor(float16)" in inputs[min(index, len(inputs) - 1)].types


def _cast(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.asarray(values.astype(dtype))


def _fits(values: npt.NDArray[Any], weights: bool) -> bool:
    """True when float16 holds the values: none goes to infinity nor, unless they are weights, to zero."""
    narrow = _cast(values, F16)
    return bool(
        (np.isfinite(narrow) | ~np.isfinite(values)).all() and (weights or ((narrow == 0) == (values == 0)).all())
    )


def _check_scale(scale: gs.Constant, node: gs.Node) -> None:
    exact = _cast(scale.values, F16).astype(F32)
    if not ((exact == scale.values) & (exact > 0)).all():
        raise ModelError(
            f"scale {scale.name!r} of {node.op} {node.name!r} is not exact in float16; quantize with scales that are"
        )
