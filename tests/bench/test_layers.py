"""TensorRT's layers by stage and name: names as a real engine of TensorRT-RTX has them, times by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edge_retina.bench import layers
from edge_retina.bench.layers import find_nodes, read_pieces
from edge_retina.errors import RuntimeFailure
from edge_retina.runtime.worker import Pieces

NODES = {
    "__mye19782_0_myl1_0": ("shape_call", ()),
    "__myl_MulMulAddTran_myl1_18": ("kgen", ("frame/Resize_176", "frame/Transpose_177")),
    "/model/stem/Conv_myl1_20": ("correlation", ("/model/stem/Conv", "/model/Relu")),
    "__mye64814_myl1_41": ("signal", ()),
    "__myl_Cast_myl1_168": (
        "kgen",
        ("frame/Cast_166", *(f"decode/Slice_{i} | AnchorDecode (AnchorDecode)" for i in (1, 2, 3, 4))),
    ),
}
TOLD = tuple((name, ms) for name, ms in zip(NODES, (0.1, 0.9, 4.0, 1.0, 4.0), strict=True))


def test_nothing_told() -> None:
    for runs in ([], [Pieces(1, 1, 1, ())]):
        with pytest.raises(RuntimeFailure, match="told of no layer"):
            read_pieces(runs, {})


def test_the_networks_time_is_dealt_out_by_stage() -> None:
    profile = read_pieces([Pieces(1.0, 20.0, 0.5, TOLD)], NODES)
    assert {stage: ms[0] for stage, ms in profile.stages.items()} == pytest.approx(
        {"upload": 1, "preprocess": 2, "trunk": 10, "decode": 8, "download": 0.5}
    )
    assert profile.call_ms == (21.5,)
    by_name = {layer.name: layer for layer in profile.layers}
    assert by_name["/model/stem/Conv + /model/Relu"].ms == 4
    assert by_name["__mye64814_myl1_41"].stage == "trunk"
    fused = "frame/Cast_166 + AnchorDecode/decode/Slice_1 + AnchorDecode/decode/Slice_2 + 2 more"
    assert by_name[fused].stage == "decode"


def test_without_a_list_names_alone_tell() -> None:
    names = (
        "frame/Cast_0",
        "/model/stem/Conv + /model/Relu",
        "Reformatting CopyNode for Input Tensor 0 to /model/p6/Conv",
        "{ForeignNode[decode/Reshape_0...nms/TopK_9]}",
        "AnchorDecode",
    )
    profile = read_pieces([Pieces(0, 5, 0, tuple((name, 1.0) for name in names))], {})
    assert [layer.stage for layer in profile.layers] == ["preprocess", "trunk", "trunk", "decode", "decode"]
    assert [layer.name for layer in profile.layers] == list(names)


def test_the_plan_that_has_most_of_the_layers_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(*names: str) -> SimpleNamespace:
        return SimpleNamespace(about={"layers": [{"name": n, "type": "kgen", "nodes": [f"{n}/node"]} for n in names]})

    plans = {"a": plan("x"), "b": plan("x", "y"), "other": plan("x", "y", "z"), "gone": None}
    keys = {name: SimpleNamespace(bundle="digest", target="tensorrt", name=name) for name in plans}
    keys["other"].target = "tensorrt_rtx"
    monkeypatch.setattr(layers, "list_plans", lambda: [SimpleNamespace(key=key) for key in keys.values()])
    monkeypatch.setattr(layers, "read_plan", lambda key: plans[key.name])
    assert find_nodes("digest", "tensorrt", ["x", "y", "z"]) == {
        "x": ("kgen", ("x/node",)),
        "y": ("kgen", ("y/node",)),
    }
    assert find_nodes("another", "tensorrt", ["x"]) == {}
