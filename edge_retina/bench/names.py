"""The operators of ONNX Runtime's optimised graph, by the names that the user's own model has for them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from edge_retina.bench.stages import stage_of

__all__ = ["Names"]

# What ONNX Runtime puts around the names that it makes of others.
_PREFIX = re.compile(r"^(InsertedPrecisionFreeCast_|qdq/)")
_SUFFIX = re.compile(r"(_nchwc|_nhwc|_token_\d+|/dq|/q)$")
# The body of a function where it was called: _inlfunc_NAME_ for the first call of the graph, and for the others
# _inlfunc_NAME_token_N_, N ascending; read from graphs of ONNX Runtime 1.32.
_INLINED = re.compile(r"^_inlfunc_(?P<function>[A-Za-z0-9]+?)(?:_token_(?P<token>\d+))?_(?=[A-Za-z])")
# Of the user's tensors, and of convolutions that were replaced for the CPU: see rewrite.heads, rewrite.integer_conv.
_TENSOR, _REPLACED = "model/", "cpu/"
# A convolution is called by its result, after all that was fused into it.
_CONVS = ("Conv", "FusedConv", "QLinearConv")
_FUSED = ("Add", "BatchNormalization", "Clip", "HardSigmoid", "LeakyRelu", "Mul", "Relu")
_MOST_FUSED = 8


class Names:
    """Of one bundle and one session over it. model: the bundle's. operators: names of all that the session ran."""

    def __init__(self, model: onnx.ModelProto, operators: Iterable[str]) -> None:
        self._nodes = {node.name: node for node in model.graph.node if node.name}
        self._makers = {tensor: node for node in model.graph.node for tensor in node.output if tensor}
        self._readers = {tensor: node for node in model.graph.node for tensor in node.input if tensor}
        calls: dict[str, list[str]] = {}
        for node in model.graph.node:
            if node.domain:
                calls.setdefault(node.op_type, []).append(_own(node))
        tokens: dict[str, set[int]] = {}
        for found in filter(None, map(_INLINED.match, operators)):
            tokens.setdefault(found["function"], set()).add(int(found["token"] or -1))
        self._calls = {
            (function, token): name
            for function, numbers in tokens.items()
            if len(numbers) == len(names := calls.get(function, ()))
            for token, name in zip(sorted(numbers), names, strict=True)
        }

    def of(self, operator: str, kind: str) -> tuple[str, str, str | None]:
        """The user's name of an operator, its kind and its stage.

        kind: the runtime's. What is done to a weight has the name of the layer that reads it. Parts of one function
        that stands for one layer have one name. The stage is None for what the runtime added by itself, such as a
        change of layout: it belongs to what ran before.
        """
        if inlined := _INLINED.match(operator):
            function = inlined["function"]
            if (stage := stage_of(operator)) == "decode":
                return f"{function}/{operator[inlined.end() :]}", kind, stage
            token = int(inlined["token"] or -1)
            return self._calls.get((function, token), f"{function}, call {token + 1}"), function, "trunk"
        bare = _SUFFIX.sub("", _PREFIX.sub("", operator))
        node = self._nodes.get(operator) or self._nodes.get(bare) or self._makers.get(bare) or self._readers.get(bare)
        if node is None:
            return operator, kind, _known(operator)
        fused = self._fused(node, kind)
        return " + ".join(map(_own, fused)), kind, _known(fused[0].name) or "trunk"

    def _fused(self, node: onnx.NodeProto, kind: str) -> list[onnx.NodeProto]:
        """From the convolution to the node that it is called by; that node alone where it was not fused."""
        chain = [node]
        while kind in _CONVS and chain[0].op_type in _FUSED and len(chain) < _MOST_FUSED:
            before = [maker for name in chain[0].input if (maker := self._makers.get(name)) is not None]
            if not before:
                break
            # Of a residual's two sides the convolution's own is the one that is a convolution.
            chain.insert(0, next((maker for maker in before if maker.op_type == "Conv"), before[0]))
        return chain if chain[0].op_type == "Conv" else [node]


def _own(node: onnx.NodeProto) -> str:
    """What the user calls a node; by its result where it has no name."""
    return node.name.removeprefix(_REPLACED) or node.output[0].removeprefix(_TENSOR)


def _known(operator: str) -> str | None:
    """The stage, where the name tells that it is not the trunk's."""
    stage = stage_of(operator)
    return None if stage == "trunk" else stage
