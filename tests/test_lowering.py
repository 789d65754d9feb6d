"""Lowering for each runtime, held against ONNX Runtime, and built by the real TensorRT-RTX where there is one.

Built are the digits model and a RetinaNet with ResNet-50 at 640x640: 2 and 4 s an engine on two cores.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import rtx
from lowered import PRECISIONS, bundled
from models import tiny_model

from edge_retina import lowering
from edge_retina.errors import ModelError, RuntimeFailure, UsageError
from edge_retina.importer import import_model, load_onnx
from edge_retina.layers import check_precision, conv_precisions
from edge_retina.lowering import lower
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.decode import call_attributes
from edge_retina.rewrite.frame_input import cast_first
from edge_retina.rewrite.macs import conv_macs
from edge_retina.runtime.ort import OrtRuntime
from edge_retina.spec import DetectorSpec

FRAME = (48, 80)


def load(model: bytes) -> onnx.ModelProto:
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def operators(proto: onnx.ModelProto) -> set[str]:
    def walk(nodes):
        for node in nodes:
            yield node.op_type
            for attribute in node.attribute:
                yield from walk(attribute.g.node)

    return set(walk(proto.graph.node)) | {op for f in proto.functions for op in walk(f.node)}


def detect(model: bytes, size: tuple[int, int] = FRAME, batch: int = 2) -> list[np.ndarray]:
    frames = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    with OrtRuntime(model) as runtime:
        return list(runtime.run(frames))


def call_of(proto: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.op_type == "AnchorDecode")


# --- the graphs


def test_unknown_target_and_precision_name_the_known_ones():
    model, spec = bundled("tiny", "fp32", None)
    with pytest.raises(UsageError, match="ort, tensorrt, tensorrt_rtx"):
        lower(model, "openvino", spec)
    with pytest.raises(UsageError, match="fp32, fp16, int8"):
        lower(model, "ort", spec, precision="int4")


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt_rtx"])
def test_a_model_without_decoder_is_an_error(target):
    model, spec = tiny_model()
    with pytest.raises(ModelError, match="no AnchorDecode"):
        lower(model.SerializeToString(), target, spec)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnx_runtime_gets_the_model_as_it_is(precision):
    model, spec = bundled("tiny", precision, None)
    assert lower(model, "ort", spec, precision=precision) == model


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_plugin_form_has_no_body_and_names_the_plugin(precision):
    model, spec = bundled("tiny", precision, None)
    proto = load(lower(model, "tensorrt", spec, precision=precision))
    assert not proto.functions
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in call_of(proto).attribute}
    assert (attributes.pop("plugin_version"), attributes.pop("plugin_namespace")) == (b"1", b"edge_retina")
    assert set(attributes) == set(call_attributes(spec))
    assert [t.name for t in proto.graph.output] == ["boxes", "scores", "labels", "count"]
    assert len(call_of(proto).input) == 2 * spec.num_levels + 1


def test_the_body_goes_with_operator_nms_to_tensorrt_and_with_fixpoint_nms_to_rtx():
    model, spec = bundled("tiny", "fp32", None)
    body = load(lower(model, "tensorrt", spec, plugin=False))
    assert "NonMaxSuppression" in operators(body)
    assert not {"plugin_version", "plugin_namespace"} & {a.name for a in call_of(body).attribute}
    rtx_body = load(lower(model, "tensorrt_rtx", spec))
    assert "Loop" in operators(rtx_body)
    assert not operators(rtx_body) & {"NonMaxSuppression", "NonZero"}


@pytest.mark.parametrize("plugin", [True, False])
def test_rtx_is_never_told_of_a_plugin(plugin):
    model, spec = bundled("tiny", "fp32", None)
    proto = load(lower(model, "tensorrt_rtx", spec, plugin=plugin))
    assert [f.name for f in proto.functions] == ["AnchorDecode"]
    assert not any(a.name.startswith("plugin") for node in proto.graph.node for a in node.attribute)


@pytest.mark.parametrize("frame", [None, FRAME])
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt_rtx"])
def test_lowered_fp32_detects_the_same(target, frame):
    model, spec = bundled("tiny", "fp32", frame)
    wanted = detect(model)
    assert (wanted[3] > 3).all()
    for ours, theirs in zip(detect(lower(model, target, spec, plugin=False)), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lowered_half_detects_nearly_the_same(precision):
    """float16 has 11 bits: logits about -5 are known to 0.002 or so, and with int8 a code may fall on either side."""
    model, spec = bundled("tiny", precision, None)
    boxes, scores, labels, count = detect(lower(model, "tensorrt_rtx", spec, precision=precision))
    wanted = detect(model)
    assert np.abs(scores - wanted[1]).max() < (0.005 if precision == "fp16" else 0.02)
    assert np.abs(count - wanted[3]).max() <= 0.1 * wanted[3].max()
    assert (boxes.dtype, labels.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt_rtx"])
def test_types_of_a_half_graph(target, precision):
    model, spec = bundled("tiny", precision, None)
    proto = load(lower(model, target, spec, precision=precision))
    graph = gs.import_onnx(proto)
    biases = [node.inputs[2].values.dtype for node in graph.nodes if node.op == "Conv"]
    assert set(biases) == {np.dtype(np.float16)}
    quantizers = [node for node in graph.nodes if node.op in ("QuantizeLinear", "DequantizeLinear")]
    assert bool(quantizers) == (precision == "int8")
    # The first Q reads the float32 picture; whoever computes with what a DQ gives is float16.
    assert all(node.inputs[1].values.dtype == np.float16 for node in quantizers if node.op == "DequantizeLinear")
    assert all(node.inputs[2].values.dtype == np.int8 and not node.inputs[2].values.any() for node in quantizers)
    call = next(node for node in graph.nodes if node.op == "AnchorDecode")
    heads = call.inputs[:-1]
    if target == "tensorrt":  # the plugin reads float16 heads as they are
        assert {tensor.dtype for tensor in heads} == {np.dtype(np.float16)}
        assert not any(tensor.inputs[0].op == "Cast" for tensor in heads)
    else:
        assert {tensor.inputs[0].attrs["to"] for tensor in heads} == {onnx.TensorProto.FLOAT}


def test_the_plugin_gets_heads_of_one_type():
    """One head is kept in float32, so that all of them come to the plugin in it."""
    model, spec = bundled("tiny", "fp16", None)
    kept = call_of(load(lower(model, "tensorrt_rtx", spec, precision="fp16"))).input[0]
    graph = gs.import_onnx(load(model))
    producer = next(node for node in graph.nodes if kept in [tensor.name for tensor in node.outputs])
    while producer.op != "Conv":
        producer = producer.inputs[0].inputs[0]
    name = producer.outputs[0].name
    call = call_of(proto := load(lower(model, "tensorrt", spec, precision="fp16", keep=(name,))))
    made = {output: node.op_type for node in proto.graph.node for output in node.output}
    assert [made[head] for head in call.input[1:-1]] == ["Cast"] * (len(call.input) - 2)


def test_what_is_kept_stays_float32():
    model, spec = bundled("tiny", "fp16", None)
    stem = next(node.output[0] for node in load(model).graph.node if node.op_type == "Conv")
    graph = gs.import_onnx(load(lower(model, "tensorrt", spec, precision="fp16", keep=(stem,))))
    types = {node.outputs[0].name: node.inputs[1].values.dtype.name for node in graph.nodes if node.op == "Conv"}
    assert types.pop(stem) == "float32"
    assert set(types.values()) == {"float16"}


@pytest.mark.parametrize("target", lowering.TARGETS)
def test_the_same_model_gives_the_same_bytes(target):
    model, spec = bundled("tiny", "int8", None)
    assert lower(model, target, spec, precision="int8") == lower(model, target, spec, precision="int8")


def test_a_lowered_model_lowers_to_itself():
    model, spec = bundled("tiny", "fp16", None)
    once = lower(model, "tensorrt_rtx", spec, precision="fp16")
    assert lower(once, "tensorrt_rtx", spec, precision="fp16") == once


# --- the real builder


def profile(frame: tuple[int, int] | None, batches: tuple[int, int, int]) -> dict[str, Any]:
    sizes = [frame] * 3 if frame else [(64, 64), (480, 640), (2160, 4096)]
    return {"frames": [[batch, *size, 3] for batch, size in zip(batches, sizes, strict=True)]}


def build(name: str, precision: str, frame: tuple[int, int] | None, batches: tuple[int, int, int]) -> dict[str, float]:
    """Lower for TensorRT-RTX and build; what precision the engine's convolutions have."""
    rtx.interpreter()
    model, spec = bundled(name, precision, frame)
    lowered = lower(model, "tensorrt_rtx", spec, precision=precision)
    built = rtx.build(lowered, profiles=profile(frame, batches))
    assert built.ok, f"{built.stage}: {built.error}"
    assert built.engine_bytes > 1e6
    macs = conv_macs(load(lowered))
    found = conv_precisions(built.network, macs, built.engine)
    assert found == pytest.approx(conv_precisions(built.network, macs))
    check_precision(found, precision)
    return found


@pytest.mark.parametrize("frame", [None, (480, 640)])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["digits", "r50"])
def test_rtx_builds_one_engine_for_batches_of_one_to_four(name, precision, frame):
    found = build(name, precision, frame, (1, 4, 4))
    if precision == "int8":
        assert found["int8"] >= 0.8
        assert found["int8"] + found["fp16"] == pytest.approx(1)
    else:
        assert found[precision] == pytest.approx(1)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rtx_builds_an_engine_for_one_batch_size(precision, batch):
    build("digits", precision, (480, 640), (batch, batch, batch))


def test_rtx_built_in_float_is_no_int8_engine():
    model, spec = bundled("tiny", "fp32", None)
    lowered = lower(model, "tensorrt_rtx", spec)
    built = rtx.build(lowered, profiles=profile(None, (1, 1, 1)))
    found = conv_precisions(built.network, conv_macs(load(lowered)), built.engine)
    with pytest.raises(RuntimeFailure, match=r"engine has 0\.0% .*fp32 100\.0%"):
        check_precision(found, "int8")


def test_rtx_looks_for_the_plugin_and_says_so():
    model, spec = bundled("tiny", "fp32", None)
    found = rtx.build(lower(model, "tensorrt", spec), parse_only=True)
    assert not found.ok
    assert found.stage == "parse"
    assert "AnchorDecode" in found.error
    assert "Plugin not found" in found.error


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rtx_parses_what_goes_to_tensorrt_without_plugin(precision):
    """It has no kernel for NonMaxSuppression, so that parsing is as far as this form goes here."""
    model, spec = bundled("tiny", precision, None)
    found = rtx.build(lower(model, "tensorrt", spec, precision=precision, plugin=False), parse_only=True)
    assert found.ok, found.error


def test_rtx_refuses_the_bundles_own_int8():
    """Zero point 128, which is why lowering makes it signed. Frames cast first, or it refuses those."""
    model, _ = bundled("tiny", "int8", None)
    graph = gs.import_onnx(onnx.load_from_string(model))
    cast_first(graph)
    found = rtx.build(gs.export_onnx(graph).SerializeToString(), parse_only=True)
    assert not found.ok
    assert "zero point" in found.error.lower()


FORMS: list[dict[str, Any]] = [
    {"box_coding": "corner", "clip": "after_nms", "drop_empty": True},
    {"clip": "pixels"},
    {"inclusive_pixels": True, "clip": "input"},
    {"class_choice": "best", "class_aware_nms": False, "clip": "none", "top_k_scope": "all", "top_k": 100},
    {"top_k_scope": "all", "top_k": 5000, "drop_empty": True},
]


def other_trainers(form: dict[str, Any], levels: int = 2) -> tuple[bytes, DetectorSpec]:
    with TemporaryDirectory() as folder:
        _, spec = tiny_model(path := Path(folder) / "m.onnx", levels=levels, spec_overrides=form)
        source = load_onnx(path)
    return rewrite(source.graph, import_model(source)).SerializeToString(), spec


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_decoding_as_other_trainers_do_is_the_same_in_both_forms(form):
    model, spec = other_trainers(form)
    wanted = detect(model)
    assert (wanted[3] > 3).all()
    for target in ("tensorrt", "tensorrt_rtx"):
        for ours, theirs in zip(detect(lower(model, target, spec, plugin=False)), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-4)


def test_more_candidates_than_tensorrts_top_k_gives_become_the_best_3840():
    form = {"top_k_scope": "all", "top_k": 5000, "input_size": (512, 512), "level_shapes": ((64, 64), (32, 32))}
    spec = tiny_model(spec_overrides=form, input_size=(512, 512))[1]
    assert lowering._within_top_k(spec).candidates() == 3840
    with pytest.raises(ModelError, match=r"at most 3840, this model's max_detections is 4000"):
        lowering._within_top_k(tiny_model(spec_overrides={"max_detections": 4000})[1])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rtx_builds_decoding_as_other_trainers_do(form):
    rtx.interpreter()
    model, spec = other_trainers(form)
    built = rtx.build(lower(model, "tensorrt_rtx", spec), profiles=profile(None, (1, 1, 2)))
    assert built.ok, f"{built.stage}: {built.error}"
