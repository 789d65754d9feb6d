"""What each runtime is given: a bundle's model, lowered for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_retina.bundle import PRECISIONS
from edge_retina.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edge_retina.bundle import Bundle
    from edge_retina.spec import DetectorSpec

__all__ = ["PLUGIN_NAMESPACE", "PLUGIN_VERSION", "TARGETS", "lower", "lower_bundle"]

# Of the plugin that takes AnchorDecode's place in TensorRT; its name is the function's.
PLUGIN_NAMESPACE, PLUGIN_VERSION = "edge_retina", "1"
# Target to the form of NMS in its AnchorDecode; None: what the bundle has.
TARGETS: dict[str, str | None] = {"ort": None, "tensorrt": "operator", "tensorrt_rtx": "fixpoint"}
# The largest k of TensorRT's TopK.
_MOST_OF_TOP_K = 3840


def lower(
    model: bytes,
    target: str,
    spec: DetectorSpec,
    *,
    precision: str = "fp32",
    keep: Collection[str] = (),
    plugin: bool = True,
) -> bytes:
    """A bundle's model in the form that a runtime wants.

    model: ONNX as in the bundle, with its spec and precision. target: one of TARGETS. keep: what rewrite.half is to
    leave in float32. plugin: for "tensorrt", call the CUDA plugin instead of carrying AnchorDecode's body.

    ort: the model as it is. tensorrt, tensorrt_rtx: for fp16 and int8 a float16 trunk and float32 decoding; for int8
    signed activations and none of what is there for ONNX Runtime's sake; always a fixed number of candidates, so that
    no shape depends on the data. tensorrt_rtx has neither plugins nor a kernel for NonMaxSuppression: its NMS has the
    fixpoint form.
    Raises UsageError, ModelError.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}; use one of {', '.join(TARGETS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; use one of {', '.join(PRECISIONS)}")
    if (nms := TARGETS[target]) is None:
        return model
    import onnx
    import onnx_graphsurgeon as gs

    from edge_retina.rewrite.frame_input import cast_first

    graph = gs.import_onnx(onnx.load_from_string(model))
    cast_first(graph)
    called = target == "tensorrt" and plugin
    _redecode(graph, spec if called else _within_top_k(spec), nms)
    if precision == "int8":
        from edge_retina.rewrite.integer_conv import restore_convs
        from edge_retina.rewrite.signed import to_signed
        from edge_retina.rewrite.stem import restore_stem

        restore_convs(graph)
        restore_stem(graph)
        to_signed(graph)
    if precision != "fp32":
        from edge_retina.rewrite.half import to_half

        to_half(graph, keep)
    if called:
        _call_plugin(graph)
        _give_half_heads(graph)
    lowered: bytes = gs.export_onnx(graph).SerializeToString(deterministic=True)
    return lowered


def lower_bundle(bundle: Bundle, target: str, *, plugin: bool = True) -> bytes:
    """What `lower` makes of a bundle; of INT8 the tensors whose calibrated values overflow FP16 stay FP32.

    Raises UsageError, ModelError, BundleCorrupt.
    """
    keep: tuple[str, ...] = ()
    if "ranges.json" in bundle.manifest.members:
        from edge_retina.calibrate.ranges import Ranges
        from edge_retina.rewrite.half import half_overflow

        keep = half_overflow(Ranges.from_json(bundle.read("ranges.json"), f"{bundle.path}: ranges.json").maxima())
    # An FP16 model has its types already, and only its build knew what had to stay FP32.
    precision = "fp32" if bundle.manifest.precision == "fp16" else bundle.manifest.precision
    return lower(bundle.model(), target, bundle.spec, precision=precision, keep=keep, plugin=plugin)


def _within_top_k(spec: DetectorSpec) -> DetectorSpec:
    """The spec with no more candidates than TensorRT's TopK can give, 3840: of a trainer's 5000 the best.

    What is left out could be a detection only where fewer than max_detections of the 3840 survive NMS.
    """
    if spec.max_detections > _MOST_OF_TOP_K:
        raise ModelError(
            f"TensorRT's TopK gives at most {_MOST_OF_TOP_K}, this model's max_detections is {spec.max_detections}; "
            "build it with a --spec that has fewer, or run it with the plugin or in ONNX Runtime"
        )
    return replace(spec, top_k=min(spec.top_k, _MOST_OF_TOP_K))


def _redecode(graph: gs.Graph, spec: DetectorSpec, nms: str) -> None:
    """Replace AnchorDecode by one with a fixed number of candidates and the given form of NMS."""
    from edge_retina.rewrite.decode import add_decode, find_function
    from edge_retina.rewrite.nms import add_nms

    function, call = find_function(graph), _call(graph)
    if function is None:
        raise ModelError("the model has no AnchorDecode to lower; give the model of a bundle: edge-retina build")
    graph.outputs = list(call.inputs)
    graph.nodes.remove(call)
    call.inputs.clear()
    graph.functions.remove(function)
    add_decode(graph, spec, static=True)
    add_nms(graph, spec, nms)


def _call(graph: gs.Graph) -> gs.Node:
    from edge_retina.rewrite.decode import DOMAIN, FUNCTION

    return next((node for node in graph.nodes if (node.domain, node.op) == (DOMAIN, FUNCTION)), None)


def _call_plugin(graph: gs.Graph) -> None:
    """Drop AnchorDecode's body and name the plugin; with both there, which one wins depends on TensorRT's version."""
    from edge_retina.rewrite.decode import find_function

    graph.functions.remove(find_function(graph))
    _call(graph).attrs |= {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}


def _give_half_heads(graph: gs.Graph) -> None:
    """Give the plugin float16 heads as they are: it widens them as it reads, half the bytes and no pass for a Cast.

    Only where all heads are float16, for the plugin takes one type.
    """
    import numpy as np

    call = _call(graph)
    casts = [cast for head in call.inputs[:-1] for cast in head.inputs if cast.op == "Cast"]
    if len(casts) < len(call.inputs) - 1 or any(cast.inputs[0].dtype != np.float16 for cast in casts):
        return
    for place, cast in enumerate(casts):
        call.inputs[place] = cast.inputs[0]
    graph.cleanup()
