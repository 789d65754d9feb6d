"""Why TensorRT refused a model, as a sentence: which node, which of the user's layers, why, and what to try."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_retina.errors import ModelError, RuntimeFailure, UsageError

if TYPE_CHECKING:
    import onnx

__all__ = ["build_refusal", "dla_refusal", "no_builder", "parse_refusal"]

# Words of TensorRT's parser or builder to what they mean and what to try; the first that fits.
# Source: the messages of TensorRT-RTX 1.7.1 and of the ONNX parsers of TensorRT 10.1 to 10.16.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"AnchorDecode.*(plugin not found|no importer|not found in plugin registry)",
        "the AnchorDecode plugin is not registered",
        "build its library (plugins/anchor_decode/README.md) for this TensorRT, or add --no-plugin",
    ),
    (
        r"nonmaxsuppression|\bnms\w* has no runners",
        "TensorRT-RTX has no kernel for NonMaxSuppression",
        "export the model without NMS of its own, or use --target tensorrt or --target ort",
    ),
    (
        r"k exceeds the maximum|topk.*3840",
        "its TopK asks for more than TensorRT's 3840",
        "build with a --spec that has a smaller top_k, or use --target ort",
    ),
    (
        r"turing.*gemm is not supported",
        "TensorRT-RTX multiplies no float32 matrices on Turing (SM75), and NMS does",
        "leave SM75 out",
    ),
    (
        r"has type int32 but must have|dequantizelinear.*int32",
        "a bias is quantized to int32, and TensorRT takes biases in float only",
        "export the float model and let --int8 quantize it, or quantize with QuantizeBias=False",
    ),
    (
        r"zero ?point",
        "TensorRT quantizes symmetrically only, and a zero point here is not 0",
        "export the float model and let --int8 quantize it",
    ),
    (
        r"number of scales|scale ?size",
        "its scales do not go with the channels, for DequantizeLinear lacks axis=0",
        "export the float model and let --int8 quantize it",
    ),
    (
        r"must have same input types|must be of same type|same data ?type|types? mismatch",
        "data of different types meet in it, and a strongly typed network converts none by itself",
        "build without --fp16 and --int8 to get on, and report it with the model",
    ),
    (
        r"plugin not found|no importer registered|not found in plugin registry|unsupported_node\b|unsupported operator",
        "TensorRT has no such operator",
        "export the model without it, or use --target ort",
    ),
)
_OTHERWISE = ("", "see the messages of TensorRT in the log, or use --target ort")
# Without a driver each of these follows a refusal, and says nothing about it.
_NOISE = re.compile(r"cudaError 35|CUDA initialization failure with error: 35", re.IGNORECASE)
# Where in TensorRT's source that is.
_PLACE = re.compile(r"^\[[\w.:]+\] | In \w+ at [\w./]+:\d+")
# Names that edge_retina.rewrite gives to nodes of its own.
_OURS = re.compile(r"^(frame|qdq|half|full|decode|nms)/|/(data|weight)$|^AnchorDecode$")
_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|cudaErrorMemoryAllocation|MEM_ALLOC|cudaError 2\b", re.I)
_GPU = re.compile(r"SM ?[\d.]+ is not supported|unsupported (SM|GPU|device)|no kernel image|compute capability", re.I)


def parse_refusal(errors: Sequence[Any], logged: Iterable[str], model: bytes) -> ModelError:
    """What a parser's errors say about a model.

    errors: ParserError of TensorRT, the first one decides. logged: what the logger was told as errors, for where there
    are none. model: the ONNX that was parsed.
    """
    if not errors:
        return ModelError(
            f"TensorRT cannot read the model: {_words(logged)}; build again: edge-retina build MODEL.onnx"
        )
    error = errors[0]
    name, operator = error.node_name(), error.node_operator()
    told = f"{operator} {error.code().name} {error.desc()}"
    because, remedy = _cause(told) or (_words([error.desc()]), _OTHERWISE[1])
    inside = "".join(f" in {function}" for function in error.local_function_stack()[:1])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ModelError(
        f"TensorRT refuses {operator or 'a node'} {name!r}{inside}{_whose(model, name, error.node())}{more}: "
        f"{because}; {remedy}"
    )


def build_refusal(logged: Sequence[str], *, workspace: int | None, profile: str) -> ModelError | RuntimeFailure:
    """Why a builder gave no plan. logged: what it told as errors. workspace: bytes it had, None for all."""
    told = "\n".join(line for line in logged if not _NOISE.search(line))
    if _MEMORY.search(told):
        had = "all of the GPU's" if workspace is None else f"{workspace / 2**20:.0f} MiB"
        return RuntimeFailure(
            f"TensorRT ran out of GPU memory while compiling for {profile} (workspace: {had}); close what else uses "
            f"the GPU, or build with a smaller --workspace, --batch or --largest-frame: {_words([told])}"
        )
    if _GPU.search(told):
        return RuntimeFailure(
            f"this TensorRT does not support this GPU: {_words([told])}; install a TensorRT that does (the table in "
            "docs/tensorrt.md), or use --target ort"
        )
    if cause := _cause(told):
        return ModelError(f"TensorRT cannot compile the model: {cause[0]} ({_words([told])}); {cause[1]}")
    if re.search("could not find any implementation", told, re.IGNORECASE):
        return RuntimeFailure(
            f"TensorRT found no kernel for a layer: {_words([told])}; give it more memory with --workspace, or use "
            "another --optimization-level"
        )
    return RuntimeFailure(f"TensorRT gave no plan: {_words([told])}; {_OTHERWISE[1]}")


def no_builder(name: str, logged: Iterable[str], cause: BaseException) -> RuntimeFailure:
    """A builder that could not be made, which without a GPU or with too old a driver is so. name: the module's."""
    told = _words(logged) if any(logged) else cause
    return RuntimeFailure(
        f"{name} cannot start: {told}; it compiles only where an NVIDIA GPU and its driver are: check nvidia-smi (on "
        "Jetson: tegrastats), or use --target ort or, without a GPU, tensorrt_rtx"
    )


def dla_refusal(version: str | None = None) -> UsageError:
    """Why plans are not compiled for a DLA, and what to do instead. version: of the TensorRT that is there.

    Sources: TensorRT 11.4.1, "Working with DLA"; NVIDIA/Deep-Learning-Accelerator-SW, qdq-translator.
    """
    has = f"; this one is {version}" if version else ""
    return UsageError(
        "DLA is not a target: in TensorRT 10 a DLA takes neither Q/DQ nor strongly typed networks, 10.8 to 11.3 have "
        f"none, and 11.4.1 has it on AGX Orin only{has}. Compile for the GPU (--target tensorrt). For a DLA take the "
        "bundle's model.onnx and ranges.json to NVIDIA's qdq-translator "
        "(github.com/NVIDIA/Deep-Learning-Accelerator-SW), which makes what trtexec --useDLACore=0 --allowGPUFallback "
        "wants"
    )


def _cause(told: str) -> tuple[str, str] | None:
    fits = (cause for cause in _CAUSES if re.search(cause[0], told, re.IGNORECASE | re.DOTALL))
    found = next(fits, None)
    return found and found[1:]


def _words(lines: Iterable[str]) -> str:
    """The first message that says something, on one line and no longer than one can read."""
    parts = [part.strip() for line in lines for part in line.splitlines()]
    said = [part for part in parts if part and not _NOISE.search(part) and not part.startswith("---")]
    # "Invalid Node - conv" is followed by why.
    reasons = [part for part in said if not part.startswith(("Invalid Node", "In node", "Node name"))]
    return _PLACE.sub("", (reasons or said or ["it does not say why"])[0])[:300]


def _whose(model: bytes, name: str, index: int) -> str:
    """Which of the user's layers a node is, or stands next to."""
    import onnx

    nodes = onnx.load_from_string(model).graph.node
    found = next((node for node in nodes if name and node.name == name), None)
    if found is None and 0 <= index < len(nodes):
        found = nodes[index]
    if found is None:
        return ""
    if not _OURS.search(found.name):
        return ", a layer of your model"
    if near := _nearest(nodes, found):
        return f", which edge-retina put next to your layer {near!r}"
    return ", which edge-retina put there"


def _nearest(nodes: Sequence[onnx.NodeProto], start: onnx.NodeProto) -> str:
    """Name of the nearest layer of the user's, first of those that read the node's result; "" for none."""
    makers: Mapping[str, onnx.NodeProto] = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    seen, queue = {start.output[0]}, [start]
    for node in queue:
        if not _OURS.search(node.name):
            return str(node.name or node.output[0])
        after = [reader for name in node.output for reader in readers.get(name, ())]
        before = [makers[name] for name in node.input if name in makers]
        for other in (*after, *before):
            if other.output[0] not in seen:
                seen.add(other.output[0])
                queue.append(other)
    return ""
