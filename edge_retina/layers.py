"""What a parsed network and a built engine are made of, and in which precision their convolutions came out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_retina.errors import RuntimeFailure

__all__ = ["Layer", "check_precision", "conv_precisions", "engine_layers", "network_layers"]


@dataclass(frozen=True)
class Layer:
    """One layer of a parsed network or a built engine.

    type: TensorRT's own word. inputs, outputs, constants: name and data type of each tensor; constants are those built
    into an engine's layer, largest first. nodes: names of the ONNX nodes it comes from.
    """

    name: str
    type: str
    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    nodes: tuple[str, ...] = ()
    constants: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layer:
        """Read what dataclasses.asdict and JSON made of a layer."""
        lists = ("inputs", "outputs", "constants")
        tensors = {key: tuple((name, kind) for name, kind in data[key]) for key in lists}
        return cls(data["name"], data["type"], nodes=tuple(data["nodes"]), **tensors)


def network_layers(network: Any) -> tuple[Layer, ...]:
    """The layers of a TensorRT INetworkDefinition, as the parser made them."""

    def tensors(get: Callable[[int], Any], count: int) -> tuple[tuple[str, str], ...]:
        return tuple((t.name, t.dtype.name) for t in map(get, range(count)) if t is not None)

    layers = (network.get_layer(i) for i in range(network.num_layers))
    return tuple(
        Layer(
            layer.name,
            layer.type.name,
            tensors(layer.get_input, layer.num_inputs),
            tensors(layer.get_output, layer.num_outputs),
            (layer.name,),
        )
        for layer in layers
    )


def engine_layers(text: str) -> tuple[Layer, ...]:
    """The layers of a built engine, from what IEngineInspector gives: JSON, or the text of its format ONELINE.

    JSON: of TensorRT 10 ("Format/Datatype" of a tensor in one field) and 11 (in two); text: of TensorRT-RTX 1.7. Of a
    fused layer `nodes` names every ONNX node in it. A tensor whose type is not told ("N/A due to dynamic shapes") has
    "". What describes no layer is passed over: without profiling verbosity DETAILED, all there is are names.
    Source: TensorRT's engine explorer, which reads the same JSON; migration guide 10 to 11, IEngineInspector.
    """
    if text.lstrip().startswith("{"):
        return tuple(_from_json(layer) for layer in json.loads(text)["Layers"] if isinstance(layer, dict))
    return tuple(
        Layer(
            found["name"],
            found["type"],
            _tensors(found["inputs"]),
            _tensors(found["outputs"]),
            tuple(_NODE.findall(found["rest"])),
            _tensors(found["constants"] or "", largest_first=True),
        )
        for found in filter(None, map(_LINE.match, text.splitlines()))
    )


def _from_json(layer: Mapping[str, Any]) -> Layer:
    """A layer of the inspector's JSON; a convolution holds its weights, a generated kernel lists constants."""

    def tensors(key: str) -> list[tuple[str, str]]:
        return [(str(tensor.get("Name", "")), _kind(tensor)) for tensor in layer.get(key) or ()]

    def held() -> list[tuple[str, str]]:
        if isinstance(weights := layer.get("Weights"), dict):
            return [("weights", _kind(weights))]
        constants = sorted(layer.get("Constants") or (), key=lambda t: -math.prod(t.get("Dimensions") or [0]))
        return [(str(tensor.get("Name", "")), _kind(tensor)) for tensor in constants]

    name = str(layer.get("Name", ""))
    return Layer(
        name,
        str(layer.get("LayerType", "")),
        tuple(tensors("Inputs")),
        tuple(tensors("Outputs")),
        # Where there is no metadata a fused layer's own name lists what is in it.
        tuple(_NODE.findall(layer.get("Metadata") or "")) or tuple(name.split(" + ")),
        tuple(held()),
    )


def _kind(tensor: Mapping[str, Any]) -> str:
    """Data type in the words of the text form: Float, Half, Int8 ..."""
    told = next((str(tensor[key]) for key in _TYPE_FIELDS if key in tensor), "")
    found = _TYPE.search(told)
    return _WORDS.get(found[0].upper(), found[0]) if found else ""


_TYPE_FIELDS = ("Format/Datatype", "Datatype", "DataType", "Type")
_TYPE = re.compile(r"\b(BFloat16|BF16|Float|FP32|Half|FP16|FP8|FP4|U?Int8|Int4|Int32|Int64|Bool)\b", re.IGNORECASE)
_WORDS = {"FP32": "Float", "FP16": "Half", "INT8": "Int8", "INT32": "Int32", "INT64": "Int64"}
# Every list is empty or ends in a brace; the brackets inside it follow numbers.
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>|.*?\})\], "
    r"(?:Constants: \[(?P<constants>|.*?\})\], )?Outputs: \[(?P<outputs>|.*?\})\](?P<rest>.*)$"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([\d,-]*)\].*?Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


def _tensors(text: str, *, largest_first: bool = False) -> tuple[tuple[str, str], ...]:
    found = _TENSOR.findall(text)
    if largest_first:
        found.sort(key=lambda tensor: -math.prod(int(size) for size in tensor[1].split(",") if size))
    return tuple((name, kind) for name, _, kind in found)


_CONVS = ("CONVOLUTION", "DECONVOLUTION")
# TensorRT's words, of INetworkDefinition and of IEngineInspector, to ours; narrowest first.
_KINDS = {"int8": "int8", "half": "fp16", "float": "fp32"}
# Layers of an engine that convolve; generated kernels before and after them name the node as well. A fusion is one of
# a matrix product, which a 1x1 convolution may become.
_KERNELS = re.compile("conv|correlation|gemm|fusion", re.IGNORECASE)


def conv_precisions(
    network: Iterable[Layer], macs: Mapping[str, int], engine: Iterable[Layer] = ()
) -> dict[str, float]:
    """Share of the convolutions' multiply-accumulates in each precision: int8, fp16, fp32, other; they sum to 1.

    network: layers of the parsed network. macs: of rewrite.macs, for the same model. engine: layers of the built
    engine, where it can be read; then it decides, and what it does not show is other. A convolution is int8 when data
    and weights are; in a parsed network, when both come from int8 through DequantizeLinear.
    Raises RuntimeFailure when the network lacks a convolution of `macs`.
    """
    producers: dict[str, Layer] = {}
    convs: dict[str, Layer] = {}
    for layer in network:
        producers |= {name: layer for name, _ in layer.outputs}
        convs |= {name: layer for name, _ in layer.outputs if layer.type in _CONVS}
    if missing := [name for name in macs if name not in convs]:
        raise RuntimeFailure(
            f"wanted {len(macs)} convolutions in the parsed network, found {len(macs) - len(missing)}, without "
            f"{missing[0]!r}; were the network and the multiply-accumulates read from one model?"
        )
    built: dict[str, list[str]] = {}
    engine = tuple(engine)
    for layer in filter(lambda layer: _KERNELS.search(layer.type), engine):
        for node in layer.nodes:
            # Data and weights; what is added to their product may have any type.
            kinds = [kind for _, kind in (*layer.inputs[:1], *layer.constants[:1]) if kind]
            built.setdefault(node, []).extend(kinds)
    work = dict.fromkeys((*_KINDS.values(), "other"), 0)
    for name, count in macs.items():
        conv = convs[name]
        kinds = built.get(conv.name, []) if engine else [_stored(t, producers) for t in conv.inputs[:2]]
        work[_widest(kinds)] += count
    total = sum(work.values()) or 1
    return {kind: count / total for kind, count in work.items()}


def _stored(tensor: tuple[str, str], producers: Mapping[str, Layer]) -> str:
    """Data type of a tensor, or of what it was dequantized from."""
    name, kind = tensor
    source = producers.get(name)
    return source.inputs[0][1] if source is not None and source.type == "DEQUANTIZE" else kind


def _widest(kinds: Iterable[str]) -> str:
    ours = [_KINDS.get(kind.lower(), "other") for kind in kinds]
    order = [*_KINDS.values(), "other"]
    return max(ours, key=order.index, default="other")


def check_precision(shares: Mapping[str, float], precision: str, least: float = 0.5) -> None:
    """Raise RuntimeFailure when more than 1 - least of the convolutions' work is wider than the precision asked for.

    shares: of conv_precisions. What is "other" is not known to be wider. FP32 always holds: nothing is wider.
    """
    order = [*_KINDS.values()]
    wider = sum(shares[kind] for kind in order[order.index(precision) + 1 :])
    if wider > 1 - least:
        found = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
        raise RuntimeFailure(
            f"wanted at least {least:.0%} of the convolutions' work in {precision}, the engine has "
            f"{shares[precision]:.1%} ({found}); another TensorRT version may fuse this model, or build it "
            f"{'with --fp16' if precision == 'int8' else 'without --fp16'}"
        )
