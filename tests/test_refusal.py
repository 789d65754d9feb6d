"""What TensorRT's messages become: those of the real TensorRT-RTX, word for word, and what other versions say."""

from __future__ import annotations

import pytest
from fakes.fake_builder import Error, names
from onnx import TensorProto, helper

from edge_retina.errors import ModelError, RuntimeFailure, UsageError
from edge_retina.refusal import build_refusal, dla_refusal, no_builder, parse_refusal

NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/"
    "checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)


def model() -> bytes:
    """frame/Cast (ours) -> conv (theirs) -> qdq/q (ours) -> AnchorDecode (ours), and a Relu without a name."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["a"], "frame/Cast_1", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["a", "w"], ["b"], "/model/conv"),
        helper.make_node("QuantizeLinear", ["b", "s"], ["c"], "qdq/b/q"),
        helper.make_node("AnchorDecode", ["c"], ["boxes"], "AnchorDecode", domain="edge_retina"),
        helper.make_node("Relu", ["b"], ["d"]),
        helper.make_node("Identity", ["e"], ["f"], "frame/Identity_2"),
    ]
    return helper.make_model(helper.make_graph(nodes, "g", [], [])).SerializeToString()


def refused(*errors: Error) -> str:
    parser_error = names("11.4.1", rtx=False)["ParserError"]
    return str(parse_refusal([parser_error(error) for error in errors], [], model()))


def test_no_error_and_no_word():
    said = parse_refusal([], [], b"")
    assert isinstance(said, ModelError)
    why = "it does not say why; build again: edge-retina build MODEL.onnx"
    assert str(said) == f"TensorRT cannot read the model: {why}"
    assert "bad magic" in str(parse_refusal([], ["--- Begin node ---", "bad magic"], b""))


@pytest.mark.parametrize(
    ("operator", "code", "told", "because"),
    [
        (
            "Foo",
            "INVALID_NODE",
            'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
            "TensorRT has no such operator",
        ),
        ("Unique", "UNSUPPORTED_NODE", "false", "TensorRT has no such operator"),
        (
            "AnchorDecode",
            "INVALID_NODE",
            'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
            "the AnchorDecode plugin is not registered",
        ),
        (
            "DequantizeLinear",
            "INVALID_NODE",
            "Invalid Node - bias_dq\nITensor::getDimensions: Error Code 4: API Usage Error (bias_dq: input has type "
            f"Int32 but must have type FP8, FP4, Int4, Int8, or UInt8. In checkType at /_src/n.cpp:456)\n{NO_DRIVER}",
            "a bias is quantized to int32",
        ),
        (
            "Add",
            "INVALID_NODE",
            "Invalid Node - add\nAPI Usage Error (add: ElementWiseOperation SUM must have same input types. But they "
            f"are of types Float and Half.)\n{NO_DRIVER}",
            "data of different types meet in it",
        ),
        ("Conv", "INVALID_NODE", "`input` and `bias` must be of same type.", "data of different types meet in it"),
        (
            "QuantizeLinear",
            "INVALID_NODE",
            "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.",
            "TensorRT quantizes symmetrically only",
        ),
        (
            "DequantizeLinear",
            "INVALID_NODE",
            "Assertion failed: K == scaleSize: The number of scales is not equal to the number of output channels.",
            "DequantizeLinear lacks axis=0",
        ),
        ("Mod", "INVALID_NODE", "Invalid Node - m\nsomething new", "something new; see the messages"),
    ],
)
def test_causes(operator, code, told, because):
    said = refused(Error(told, 1, "/model/conv", operator, code))
    assert said.startswith(f"TensorRT refuses {operator} '/model/conv', a layer of your model: ")
    assert because in said
    assert "cudaError" not in said
    assert "\n" not in said
    assert "; " in said.partition(because)[2] or "; " in because  # what to try


@pytest.mark.parametrize(
    ("index", "name", "whose"),
    [
        (1, "/model/conv", "a layer of your model"),
        (0, "frame/Cast_1", "which edge-retina put next to your layer '/model/conv'"),
        (2, "qdq/b/q", "which edge-retina put next to your layer '/model/conv'"),
        (3, "AnchorDecode", "which edge-retina put next to your layer '/model/conv'"),
        (4, "", "a layer of your model"),
        (5, "frame/Identity_2", "which edge-retina put there"),
    ],
)
def test_whose_layer_it_is(index, name, whose):
    assert f"{name!r}, {whose}: " in refused(Error("x", index, name, "Op"))


def test_a_node_that_the_model_does_not_have_and_one_inside_a_function():
    assert "'nms/Loop_1' in AnchorDecode: x" in refused(Error("x", 77, "nms/Loop_1", "Loop", stack=("AnchorDecode",)))


def test_more_than_one_error():
    assert "(and 2 more): " in refused(*[Error("x", 1, "/model/conv", "Conv")] * 3)


@pytest.mark.parametrize(
    ("logged", "kind", "told"),
    [
        ([], RuntimeFailure, "gave no plan: it does not say why"),
        ([NO_DRIVER], RuntimeFailure, "gave no plan: it does not say why"),
        (
            ["[tacticSupply.cpp::getSupportedFormats::48] Error Code 2: Internal Error (nms_0 has no runners that "
             "implement it In getSupportedFormats at /_src/optimizer/builder/tacticSupply.cpp:48)"],
            ModelError,
            r"no kernel for NonMaxSuppression \(Error Code 2: Internal .*nms_0 has no runners that implement it\)",
        ),
        (
            ["Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot compile operation "
             "'$$myelin$$(Unnamed Loop* 0)^nms/round/MatMul_0' for Turing (SM75): FP32 GEMM is not supported.)"],
            ModelError,
            "multiplies no float32 matrices on Turing .*; leave SM75 out",
        ),
        (["ITopKLayer pick: K exceeds the maximum value allowed (3840)."], ModelError, "a smaller top_k"),
        (
            ["Error Code 1: Cuda Runtime (out of memory)"],
            RuntimeFailure,
            r"out of GPU memory while compiling for 1x1x1 \(workspace: 7 MiB\); close what else .*--workspace",
        ),
        (["Target GPU SM 53 is not supported by this TensorRT release"], RuntimeFailure, "does not support this GPU"),
        (["Could not find any implementation for node {c}."], RuntimeFailure, "more memory with --workspace"),
    ],
)  # fmt: skip
def test_builds_without_a_plan(logged, kind, told):
    said = build_refusal(logged, workspace=7 << 20, profile="1x1x1")
    assert type(said) is kind
    with pytest.raises(kind, match=told):
        raise said


def test_out_of_memory_without_a_limit():
    assert "(workspace: all of the GPU's)" in str(build_refusal(["out of memory"], workspace=None, profile="p"))


def test_a_builder_that_cannot_be_made():
    said = no_builder("tensorrt", [], TypeError("factory function returned nullptr"))
    assert str(said).startswith("tensorrt cannot start: factory function returned nullptr; it compiles only where")
    assert "no CUDA-capable device" in str(no_builder("tensorrt", ["no CUDA-capable device"], TypeError("x")))


def test_dla_is_refused_with_the_reason_and_the_road():
    said = dla_refusal("10.3.0")
    assert isinstance(said, UsageError)
    for word in ("neither Q/DQ nor strongly typed", "this one is 10.3.0", "--target tensorrt", "qdq-translator"):
        assert word in str(said)
    assert "this one" not in str(dla_refusal())
