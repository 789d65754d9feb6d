"""ONNX Runtime's trace: by hand, and as it writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import tiny_model, write_pictures
from onnx import helper

from edge_retina import build
from edge_retina.bench.names import Names
from edge_retina.bench.profile import profile_ort
from edge_retina.bench.trace import Operator, read_profile, read_trace
from edge_retina.errors import RuntimeFailure


def event(name: str, start: int, us: int, kind: str = "", cat: str = "Node") -> dict[str, Any]:
    return {"name": name, "ts": start, "dur": us, "cat": cat, "args": {"op_name": kind} if kind else {}}


def written(folder: Path, *events: dict[str, Any]) -> Path:
    path = folder / "trace.json"
    path.write_text(json.dumps(events))
    return path


def model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], []))


NO_NODES = Names(model(), ())


def test_no_events(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path)) == []
    with pytest.raises(RuntimeFailure, match="wanted the operators of 0 calls, found 0 runs"):
        read_profile([], [], NO_NODES)


@pytest.mark.parametrize("content", ["", "[1]", '[{"name": "model_run"}]', '{"a": 1}'])
def test_no_trace(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(RuntimeFailure, match=r"t\.json: wanted a trace"):
        read_trace(tmp_path / "t.json")


def test_operators_of_each_run_and_a_loop_counted_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        event("session_initialization", 0, 50, cat="Session"),
        event("early_kernel_time", 60, 5, "Cast"),
        event("model_run", 100, 100, cat="Session"),
        event("model_run", 300, 50, cat="Session"),
        event("inner_kernel_time", 125, 10, "Add"),
        event("loop_kernel_time", 120, 30, "Loop"),
        event("loop_fence_before", 119, 1, "Loop"),
        event("a_kernel_time", 101, 9, "Conv"),
        event("a_kernel_time", 301, 19, "Conv"),
    )
    assert read_trace(path) == [[Operator("a", "Conv", 9), Operator("loop", "Loop", 30)], [Operator("a", "Conv", 19)]]


def test_what_the_runtime_added_belongs_to_what_ran_before() -> None:
    run = [
        Operator("frame/Cast_1", "Cast", 1000),
        Operator("stem", "Conv", 5000),
        Operator("ReorderOutput_token_3", "ReorderOutput", 500),
        Operator("_inlfunc_AnchorDecode_decode/TopK_1", "TopK", 250),
        Operator("Transpose_token_9", "Transpose", 250),
    ]
    names = Names(model(helper.make_node("Conv", ["x", "w"], ["y"], "stem")), {name for name, *_ in run})
    profile = read_profile([run, run], [8.0, 10.0], names)
    assert profile.stages == {"preprocess": (1, 1), "trunk": (5.5, 5.5), "decode": (0.5, 0.5), "host": (1, 3)}
    assert [(layer.name, layer.stage, layer.ms) for layer in profile.layers][1:3] == [
        ("stem", "trunk", 5),
        ("ReorderOutput_token_3", "trunk", 0.5),
    ]
    with pytest.raises(RuntimeFailure, match="wanted the operators of 3 calls, found 2"):
        read_profile([run, run], [8.0, 10.0, 9.0], names)


def test_names_of_fused_operators_by_hand() -> None:
    nodes = [
        helper.make_node("Conv", ["model/x", "w"], ["model/c"], "/net/conv"),
        helper.make_node("Add", ["model/skip", "model/c"], ["model/a"], "/net/add"),
        helper.make_node("Relu", ["model/a"], ["model/r"], "/net/relu"),
        helper.make_node("Conv", ["model/r", "v"], ["model/last"]),
        helper.make_node("IntegerConv3x3", ["model/r"], ["logits_0"], "cpu//net/one", domain="edge_retina"),
        helper.make_node("IntegerConv3x3", ["model/r"], ["deltas_0"], "cpu//net/two", domain="edge_retina"),
    ]
    parts = ["_inlfunc_IntegerConv3x3_IntegerConv3x3/Pad_1", "_inlfunc_IntegerConv3x3_token_12_IntegerConv3x3/Pad_1"]
    names = Names(model(*nodes), parts)
    assert names.of("model/r_nchwc", "Conv") == ("/net/conv + /net/add + /net/relu", "Conv", "trunk")
    assert names.of("/net/relu", "Relu") == ("/net/relu", "Relu", "trunk")
    assert names.of("/net/conv_token_7", "QLinearConv") == ("/net/conv", "QLinearConv", "trunk")
    assert names.of("model/last_nchwc", "Conv") == ("last", "Conv", "trunk")
    assert names.of("InsertedPrecisionFreeCast_w", "Cast") == ("/net/conv", "Cast", "trunk")
    assert names.of(parts[0], "Pad") == ("/net/one", "IntegerConv3x3", "trunk")
    assert names.of(parts[1], "Pad") == ("/net/two", "IntegerConv3x3", "trunk")
    assert names.of("ReorderInput", "ReorderInput") == ("ReorderInput", "ReorderInput", None)
    # As many calls as were inlined, or nobody knows which is which.
    assert Names(model(*nodes), parts[1:]).of(parts[1], "Pad")[0] == "IntegerConv3x3, call 13"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_real_profile_in_the_users_names(tmp_path: Path, precision: str) -> None:
    own, _ = tiny_model(tmp_path / "m.onnx")
    calib = {"calib": write_pictures(tmp_path / "calib", 4)} if precision == "int8" else {}
    bundle = build(tmp_path / "m.onnx", precision=precision, **calib)
    images = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(2)]
    profile = profile_ort(bundle, images, frames=3, warm_up=1, threads=1)
    assert list(profile.stages) == ["preprocess", "trunk", "decode", "host"]
    whole = np.sum(list(profile.stages.values()), axis=0)
    assert whole == pytest.approx(profile.call_ms)
    known = {node.name or node.output[0] for node in own.graph.node}  # its activations have no names
    convs = [layer for layer in profile.layers if "Conv" in layer.kind]
    assert {layer.stage for layer in convs} == {"trunk"}
    assert {part for layer in convs for part in layer.name.split(" + ")} <= known
    wanted = {node.name for node in own.graph.node if node.op_type == "Conv"}
    assert wanted <= {part for layer in convs for part in layer.name.split(" + ")}


def test_batches_are_profiled_too(tmp_path: Path) -> None:
    tiny_model(tmp_path / "m.onnx")
    images: Sequence[Any] = [np.zeros((48, 64, 3), np.uint8)] * 2
    profile = profile_ort(build(tmp_path / "m.onnx"), images, frames=2, batch=2, threads=1)
    assert len(profile.call_ms) == 2
