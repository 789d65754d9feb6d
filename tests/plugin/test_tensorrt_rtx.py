"""The real parser of TensorRT 11, as TensorRT-RTX has it, finds the plugin and hands it the call's attributes.

There it ends: RTX has no plugins and stops the process (its addPluginV3 calls std::terminate).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import rtx
from decoder import decoder_model, make_spec
from plugin.build import headers, library
from plugin.shim import attributes_of

from edge_retina.lowering import lower
from edge_retina.spec import DetectorSpec
from edge_retina.toolchain import find_headers

WORKER = Path(__file__).with_name("rtx_worker.py")
SPECS = {
    "usual": make_spec(),
    "corners": make_spec(box_coding="corner", clip="none", class_choice="best", top_k_scope="all"),
}


def call_of(spec: DetectorSpec) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    """A decoder as lowering leaves it for TensorRT: a call without a body."""
    model = onnx.load_from_string(lower(decoder_model(spec).SerializeToString(), "tensorrt", spec, plugin=True))
    assert not model.functions
    (call,) = (node for node in model.graph.node if node.op_type == "AnchorDecode")
    return model, call


@pytest.fixture
def parse(tmp_path: Path) -> Callable[[onnx.ModelProto], str]:
    headers()
    found = find_headers()
    if found is None or found.version[0] < 11:
        pytest.skip("TensorRT-RTX is of the lineage of 11; these headers are of 10")

    def parsed(model: onnx.ModelProto) -> str:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        command = [rtx.interpreter(), str(WORKER), str(library()), str(path)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ}, timeout=120).stdout

    return parsed


def test_the_library_registers(parse: Callable[[onnx.ModelProto], str]) -> None:
    said = parse(call_of(SPECS["usual"])[0])
    (line,) = (line for line in said.splitlines() if line.startswith("creator "))
    assert line.startswith("creator AnchorDecode 1 ")
    for name in attributes_of(SPECS["usual"]):
        assert f"'{name}'" in line


@pytest.mark.parametrize("name", SPECS)
def test_the_parser_makes_the_plugin(parse: Callable[[onnx.ModelProto], str], name: str) -> None:
    said = parse(call_of(SPECS[name])[0])
    assert "Successfully created plugin: AnchorDecode" in said
    assert "ERROR" not in said


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [
        ("nms_iou", None, "nms_iou is missing"),
        ("nms_iou", 1.5, "nms_iou[0] wants a number from 0, at most 1, found 1.5"),
        ("top_k", 5001, "top_k[0] wants 1 to 5000, found 5001"),
        ("clip", "whole", "clip wants one of content, input, pixels, after_nms, none, found 'whole'"),
        ("strides", [8, 8], "level_shapes wants 2 of INT32, found 4"),
        ("top_k", 5.0, "top_k wants INT32, found FLOAT32"),
    ],
)
def test_what_the_plugin_refuses_is_a_parse_error(
    parse: Callable[[onnx.ModelProto], str], attribute: str, value: object, told: str
) -> None:
    model, call = call_of(SPECS["usual"])
    kept = [a for a in call.attribute if a.name != attribute]
    call.ClearField("attribute")
    call.attribute.extend(kept)
    if value is not None:
        call.attribute.append(onnx.helper.make_attribute(attribute, value))
    said = parse(model)
    assert f"ERROR edge_retina::AnchorDecode: {told}" in said
    assert "parsed False" in said
