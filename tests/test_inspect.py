"""inspect: facts as plain values, and as rows for people."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from models import tiny_model

from edge_retina import build
from edge_retina.errors import BundleCorrupt, BundleError, ModelError, NotADetector, SpecError
from edge_retina.importer import HeadLayout, Imported, import_model, load_onnx
from edge_retina.inspect import _steps, inspect_file, rows, spec_file, start_spec
from edge_retina.spec import DetectorSpec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize(("name", "kind"), [("m.onnx", ModelError), ("m", ModelError), ("m.edge", BundleCorrupt)])
def test_zero_bytes(tmp_path: Path, name: str, kind: type[Exception]) -> None:
    (tmp_path / name).touch()
    with pytest.raises(kind, match="empty"):
        inspect_file(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [("m.onnx", ModelError), ("m.edge", BundleError)])
def test_missing(tmp_path: Path, name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"[Nn]o such file"):
        inspect_file(tmp_path / name)


def test_a_folder_and_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ModelError, match="found a folder or a device"):
            inspect_file(path)


def test_facts_of_an_onnx(model: Path) -> None:
    facts = inspect_file(model)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["kind"], facts["file"], facts["opset"]) == ("onnx", str(model), 18)
    # Stem, its Relu, one level down, its Relu, and two heads on each of two levels.
    assert facts["nodes"] == 8
    # 8 x 8 cells x 3 anchors x 3 classes = 576, and 4 x 4 x 9 = 144.
    assert facts["candidates"] == 720
    assert facts["heads"] == {
        "trunk_input": "images",
        "logits": ["logits_3", "logits_4"],
        "deltas": ["deltas_3", "deltas_4"],
        "input": "nchw",
        "heads": "nchw",
        "class_major": False,
        "delta_order": [0, 1, 2, 3],
        "activated": False,
    }
    assert facts["spec"]["origins"]["mean"] == "metadata"
    assert [step.split(":")[0] for step in facts["rewrite"]] == ["heads", "frame_input", "decode", "nms"]
    assert "4 head tensors, of 8 nodes" in facts["rewrite"][0]


def test_facts_of_a_bundle(model: Path) -> None:
    bundle = build(model, frame_size=(48, 64))
    facts = inspect_file(bundle.path)
    assert json.loads(json.dumps(facts))["frame_size"] == [48, 64]
    assert (facts["kind"], facts["digest"], facts["precision"]) == ("bundle", bundle.digest, "fp32")
    assert facts["model_digest"] == inspect_file(model)["digest"]
    assert facts["spec"] == inspect_file(model)["spec"]
    assert set(facts["members"]) == {"model.onnx", "labels.txt"}
    # Known by its content, not by its name.
    other = bundle.path.rename(model.with_name("m.bin"))
    assert inspect_file(other)["kind"] == "bundle"


def test_a_damaged_bundle(model: Path) -> None:
    path = build(model).path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt, match="truncated"):
        inspect_file(path)


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["tiny", "tv_v1_raw_ts", "tv_v2_whole_ts"])
def test_a_spec_file_gives_the_same_model(model: Path, name: str) -> None:
    path = model if name == "tiny" else FIXTURES / f"{name}.onnx"
    source = load_onnx(path)
    found = import_model(source)
    written = json.loads(json.dumps(spec_file(inspect_file(path))))
    assert "origins" not in written
    again = import_model(source, overrides=written)
    assert again == found
    assert set(again.spec.origins.values()) == {"user"}


def test_a_started_spec_filled_in_gives_the_model(tmp_path: Path) -> None:
    made, spec = tiny_model()
    del made.metadata_props[:]
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(NotADetector):
        inspect_file(path)
    started = start_spec(path)
    assert [name for name, value in started.items() if value is None] == [
        "mean",
        "std",
        "shortest_side",
        "cell_anchors",
    ]
    wanted = spec.to_dict()
    chosen = {name: wanted[name] for name in ("family", "labels", "mean", "std", "pad_value", "cell_anchors")}
    found = import_model(load_onnx(path), overrides={**started, **chosen})
    assert found.spec == spec
    assert (found.logits, found.deltas) == (("logits_3", "logits_4"), ("deltas_3", "deltas_4"))


def test_steps_name_what_is_not_canonical() -> None:
    _, spec = tiny_model()
    plain = Imported(spec, "x", ("l", "m"), ("d", "e"))
    assert [step.split(":")[0] for step in _steps(plain, 9)] == ["heads", "frame_input", "decode", "nms"]
    layout = HeadLayout(input="nhwc", heads="joined", delta_order=(1, 0, 3, 2), activated=True)
    first, second, *_ = _steps(Imported(spec, "x", ("l",), ("d",), layout), 9)
    assert first == (
        "canonical: input nhwc, heads joined, delta_order 1 0 3 2, scores after the sigmoid become [B, A*K, H, W] and "
        "[B, A*4, H, W]"
    )
    assert "'x' and the 2 head tensors, of 9 nodes" in second


def test_overrides(model: Path) -> None:
    facts = inspect_file(model, overrides={"nms_iou": 0.25})
    assert (facts["spec"]["nms_iou"], facts["spec"]["origins"]["nms_iou"]) == (0.25, "user")
    with pytest.raises(SpecError):
        inspect_file(model, overrides={"labels": ["one"]})


def test_rows_by_hand() -> None:
    spec = DetectorSpec(
        family="mine",
        labels=tuple("abcdefghij"),
        input_size=(64, 96),
        mean=(1.5, 2.0, 3.0),
        std=(1.0, 1.0, 1.0),
        resize="shortest_side",
        shortest_side=(64, 90),
        strides=((8, 8), (16, 8)),
        level_shapes=((8, 12), (4, 12)),
        cell_anchors=(((-4.0, -4.0, 4.0, 4.0), (-2.0, -8.0, 2.0, 8.0)), ((-8.0, -4.0, 8.0, 4.0),)),
        origins={"mean": "graph", "cell_anchors": "family"},
    )
    table = {name: (value, origin) for name, value, origin in rows(spec)}
    assert table["labels"] == ("10: a, b, c, d, e, f, g, h, ...", "default")
    assert table["input_size"][0] == "64 x 96 (H x W)"
    assert table["mean"] == ("1.5, 2, 3  (pixels 0..255)", "graph")
    assert table["shortest_side"][0] == "shortest 64, longest 90"
    assert table["strides"][0] == "8, 16 x 8"
    assert table["level_shapes"][0] == "8x12, 4x12"
    # 8 x 8, and 4 x 16: both have an area of 64; ratios 1 and 4. 16 x 8: the root of 128 is 11.3.
    assert table["anchors, level 0"] == ("2: sizes 8; ratios 1, 4", "family")
    assert table["anchors, level 1"] == ("1: sizes 11.3; ratios 0.5", "family")
    assert table["class_aware_nms"][0] == "yes"


def test_every_field_has_a_row() -> None:
    _, spec = tiny_model()
    shown = {name for name, _, _ in rows(spec)}
    assert set(spec.to_dict()) - {"origins", "cell_anchors"} <= shown
    assert {"anchors, level 0", "anchors, level 1"} <= shown
