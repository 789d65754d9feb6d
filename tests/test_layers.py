"""The layers of networks and engines, and what precision their convolutions have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_retina.errors import RuntimeFailure
from edge_retina.layers import Layer, check_precision, conv_precisions, engine_layers

ENGINE = """\
Name: conv0_myl0_1, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,32,32,32], Strides: [1,1,1,1], \
StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: b, Dimensions: \
[1,32,1,1], Strides: [32,1,32,32], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }, \
{ Name: w, Dimensions: [32,32,3,3], Strides: [288,1,96,32], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) \
Channel major format }], Outputs: [ { Name: y, Dimensions: [1,32,32,32], Strides: [32768,1,1024,32], StrideOrder: \
[3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, \
Metadata: [ONNX Layer: conv0][ONNX Layer: d0]
Name: __myl_Cast_myl0_8, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [1,8], Strides: [8,1], StrideOrder: [1,0], \
Datatype: Half, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: z, Dimensions: [1,8], \
Strides: [8,1], StrideOrder: [1,0], Datatype: Float, Format: (Linear) Row major linear format }], TacticName: t, \
StreamId: 0, Metadata:
"""


def test_no_text_has_no_layers():
    assert engine_layers("") == ()
    assert engine_layers("\nnothing of the kind\n") == ()


def test_an_engines_text():
    assert engine_layers(ENGINE) == (
        Layer(
            "conv0_myl0_1",
            "correlation",
            (("a", "Int8"),),
            (("y", "Half"),),
            ("conv0", "d0"),
            (("w", "Int8"), ("b", "Float")),
        ),
        Layer("__myl_Cast_myl0_8", "kgen", (("y", "Half"),), (("z", "Float"),)),
    )


def conv(name: str, *kinds: str, inputs: tuple[str, ...] = ("x", "w")) -> Layer:
    return Layer(name, "CONVOLUTION", tuple(zip(inputs, kinds, strict=False)), ((f"{name}.out", kinds[0]),), (name,))


def dequantize(name: str, stored: str, kind: str = "HALF") -> Layer:
    return Layer(f"dq_{name}", "DEQUANTIZE", ((f"{name}.codes", stored), ("s", kind)), ((name, kind),))


def shares(int8: float = 0.0, fp16: float = 0.0, fp32: float = 0.0, other: float = 0.0) -> dict[str, float]:
    return {"int8": int8, "fp16": fp16, "fp32": fp32, "other": other}


def test_a_network_without_convolutions():
    assert conv_precisions([], {}) == shares()


def test_a_parsed_network_by_hand():
    """Of 100: 50 with data and weights from int8, 20 with weights only, 20 half, 10 float."""
    network = [
        *(dequantize("x", "INT8"), dequantize("w", "INT8")),
        conv("both", "HALF", "HALF"),
        conv("weights", "HALF", "HALF", inputs=("raw", "w")),
        conv("half", "HALF", inputs=("raw",)),
        conv("float", "FLOAT", inputs=("raw",)),
        Layer("relu", "ACTIVATION", (("both.out", "HALF"),), (("r", "HALF"),)),
    ]
    macs = {"both.out": 50, "weights.out": 20, "half.out": 20, "float.out": 10}
    assert conv_precisions(network, macs) == shares(int8=0.5, fp16=0.4, fp32=0.1)


def test_the_engine_decides_where_it_is_known():
    """Asked for int8: one is, whatever it adds; one came out in float, one with half weights, one is not shown."""
    network = [dequantize("x", "INT8"), dequantize("w", "INT8"), *(conv(n, "HALF", "HALF") for n in "abcd")]
    engine = [
        Layer(
            "1", "correlation", (("p", "Int8"), ("skip", "Half")), (), ("a", "dq_x"), (("w", "Int8"), ("s", "Float"))
        ),
        Layer("2", "CaskConvolution", (("p", "Float"),), (), ("b",), (("w", "Float"),)),
        Layer("3", "runtime_fusion", (("p", "Int8"),), (), ("c",), (("w", "Half"),)),
        Layer("4", "kgen", (("p", "Int8"),), (), ("a", "b", "c", "d"), (("w", "Int8"),)),
    ]
    macs = dict.fromkeys((f"{n}.out" for n in "abcd"), 1)
    assert conv_precisions(network, macs) == shares(int8=1.0)
    assert conv_precisions(network, macs, engine) == shares(0.25, 0.25, 0.25, 0.25)


def test_a_convolution_that_the_network_lacks_is_an_error():
    with pytest.raises(RuntimeFailure, match=r"2 convolutions .* found 1, without 'b.out'"):
        conv_precisions([conv("a", "FLOAT")], {"a.out": 1, "b.out": 1})


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_an_engine_that_came_out_in_float_is_an_error(precision):
    with pytest.raises(RuntimeFailure, match=rf"50% .* {precision}, the engine has 20.0% .*fp32 60.0%"):
        check_precision(shares(int8=0.2, fp16=0.2, fp32=0.6), precision)


def test_an_engine_as_asked_for_is_none():
    check_precision(shares(int8=0.96, fp16=0.04), "int8", least=0.95)
    check_precision(shares(fp16=0.9, fp32=0.1), "fp16")
    check_precision(shares(fp32=1.0), "fp32")


# --- IEngineInspector's JSON

X, Y = {"Name": "x", "Dimensions": [1, 3, 8, 8]}, {"Name": "y", "Dimensions": [1, 8, 4, 4]}
# The fields as TensorRT's engine explorer has them in its examples, and as the migration guide to 11 splits them.
CONV = {"Name": "stem + relu", "LayerType": "CaskConvolution", "Bias": {"Type": "Float", "Count": 8}, "StreamId": 0}
TEN = {
    **CONV,
    "Inputs": [X | {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
    "Outputs": [Y | {"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
    "Weights": {"Type": "Int8", "Count": 216},
}
ELEVEN = {
    **CONV,
    "Inputs": [X | {"Format": "Thirty-two wide channel vectorized row major", "DataType": "Int8"}],
    "Outputs": [Y | {"Format": "Channel major where channel % 8 == 0", "Datatype": "Half"}],
    "Weights": {"Type": "Int8", "Count": 216},
    "Metadata": "[ONNX Layer: /model/stem]\x1f[ONNX Layer: relu]",
}


def engine(*layers: Any, rest: dict[str, Any] | None = None) -> tuple[Layer, ...]:
    return engine_layers(json.dumps({"Layers": layers, **(rest or {"Bindings": ["x", "y"]})}))


def test_json_without_layers():
    assert engine() == ()


def test_the_json_of_10_and_of_11():
    sides = ((("x", "Int8"),), (("y", "Half"),))
    weights = (("weights", "Int8"),)
    assert engine(TEN) == (Layer("stem + relu", "CaskConvolution", *sides, ("stem", "relu"), weights),)
    io = {"I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "UInt8"}]}
    nodes = ("/model/stem", "relu")
    assert engine(ELEVEN, rest=io) == (Layer("stem + relu", "CaskConvolution", *sides, nodes, weights),)


def test_a_generated_kernel_lists_its_constants_the_largest_first():
    constants = [
        {"Name": "b", "Dimensions": [8], "Datatype": "Float"},
        {"Name": "w", "Dimensions": [8, 3], "Type": "Half"},
    ]
    [layer] = engine({"Name": "k", "LayerType": "kgen", "Inputs": [], "Constants": constants})
    assert layer.constants == (("w", "Half"), ("b", "Float"))


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("Row major linear FP32", "Float"),
        ("Row major linear FP16 format", "Half"),
        ("Row major Int8 format", "Int8"),
        ("BFloat16", "BFloat16"),
        ("N/A due to dynamic shapes", ""),
    ],
)
def test_types_in_the_words_of_formats(told, kind):
    assert engine({"Name": "r", "Inputs": [{"Name": "x", "Format/Datatype": told}]})[0].inputs == (("x", kind),)


def test_an_engine_without_details_has_names_only_and_no_layers():
    assert engine("stem + relu", "down") == ()


@pytest.mark.parametrize(("told", "share"), [("Row major FP32", shares(fp32=1.0)), ("N/A", shares(int8=1.0))])
def test_where_the_type_of_the_data_is_not_told_the_weights_decide(told, share):
    network = [dequantize("x", "INT8"), dequantize("w", "INT8"), conv("stem", "HALF", "HALF")]
    layers = engine(TEN | {"Inputs": [X | {"Format/Datatype": told}]})
    assert conv_precisions(network, {"stem.out": 5}, layers) == share


def test_what_is_not_shown_is_not_known_to_be_wider():
    check_precision(shares(int8=0.1, other=0.9), "int8")
    with pytest.raises(RuntimeFailure, match=r"fp32 60\.0%"):
        check_precision(shares(int8=0.1, other=0.3, fp32=0.6), "int8")
