"""Which stage an operator belongs to: by the names that the rewriting really gives."""

from __future__ import annotations

import pytest
from models import rewritten, tiny_model

from edge_retina.bench.stages import LayerTime, Profile, stage_of, voted


def test_no_names() -> None:
    assert voted([]) == "trunk"


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("frame/Resize_176", "preprocess"),
        ("frame/Slice_151/GatherSliceToSplitFusion", "preprocess"),
        ("AnchorDecode", "decode"),
        ("_inlfunc_AnchorDecode_nms/TopK_260", "decode"),
        ("decode/TopK_4 | AnchorDecode (AnchorDecode)", "decode"),
        ("$$myelin$$(Unnamed Loop* 0)^nms/round/MatMul_1_myl1_196", "trunk"),
        ("/model/backbone/frame/Conv", "trunk"),
        ("/model/decoder/Conv", "trunk"),
        ("/model/stem/Conv + /model/Relu", "trunk"),
        ("frame/Cast_0 + AnchorDecode", None),
    ],
)
def test_stage_of_a_name(name: str, stage: str | None) -> None:
    assert stage_of(name) == stage


def test_names_of_a_rewritten_model() -> None:
    model, _ = rewritten(tiny_model()[0])
    found = {node.name or node.output[0]: stage_of(node.name) for node in model.graph.node}
    assert {name for name, stage in found.items() if stage == "decode"} == {"AnchorDecode"}
    assert {name.split("/")[0] for name, stage in found.items() if stage == "preprocess"} == {"frame"}
    convs = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert {found[name] for name in convs} == {"trunk"}
    assert all(stage_of(node.name) == "decode" for function in model.functions for node in function.node if node.name)


def test_most_votes_and_of_equals_the_first() -> None:
    assert voted(["frame/Cast_1", "AnchorDecode", "decode/Add_2"]) == "decode"
    assert voted(["/model/Conv", "frame/Cast_1"]) == "preprocess"


def test_shares_and_the_slowest() -> None:
    layers = tuple(LayerTime(name, "Conv", "trunk", ms) for name, ms in (("a", 1.0), ("b", 3.0), ("c", 2.0)))
    profile = Profile({"trunk": (6.0, 6.0), "host": (2.0, 2.0)}, (8.0, 8.0), layers)
    assert [layer.name for layer in profile.slowest(2)] == ["b", "c"]
    told = profile.to_json(1)
    assert (told["stages"]["trunk"]["share"], told["stages"]["host"]["p50_ms"]) == (0.75, 2)
    assert told["layers"] == [{"name": "b", "kind": "Conv", "stage": "trunk", "ms": 3.0, "share": 0.375}]
    assert [layer["name"] for layer in profile.to_json()["layers"]] == ["a", "b", "c"]
