"""Reading an ONNX file, and finding out whose detector it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_model
from onnx import helper, numpy_helper

from edge_retina import importer
from edge_retina.errors import ModelError, NotADetector, SpecError, UsageError
from edge_retina.importer import Source, import_model, load_onnx
from edge_retina.rewrite.heads import cut_heads
from edge_retina.spec import METADATA_KEY, REQUIRED


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def with_weight(model: onnx.ModelProto, name: str, change: Any) -> onnx.ModelProto:
    """The model with one weight replaced by what `change` makes of it."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    return model


def spoil(value: float) -> Any:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array.reshape(-1)[7] = value
        return array

    return change


def classifier() -> onnx.ModelProto:
    """Image in, 10 scores out."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["prob"]),
    ]
    image = helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, [1, 3, 224, 224])
    prob = helper.make_tensor_value_info("prob", onnx.TensorProto.FLOAT, [1, 10])
    weight = numpy_helper.from_array(np.ones((3, 10), np.float32), "weight")
    graph = helper.make_graph(nodes, "classifier", [image], [prob], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# load_onnx: files that are none


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelError, match=r"m\.onnx: wanted an ONNX model, found a graph without nodes \(an empty or"):
        load_onnx(tmp_path / "m.onnx")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: cannot be read: No such file"):
        load_onnx(tmp_path / "m.onnx")


def test_a_path_with_nul() -> None:
    with pytest.raises(ModelError, match=r"cannot be read: .*embedded null"):
        load_onnx(Path("a\0b"))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="wanted an ONNX file, found a folder"):
        load_onnx(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="found a folder or a device"):
        load_onnx(tmp_path / "m.onnx")


def test_a_zip(tmp_path: Path) -> None:
    (tmp_path / "m.edge").write_bytes(b"PK\3\4" + bytes(60))
    with pytest.raises(ModelError, match="found a zip; a bundle is run with: edge-retina run"):
        load_onnx(tmp_path / "m.edge")


def test_a_file_beyond_protobuf(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="larger than 2 GiB"):
        load_onnx(tmp_path / "m.onnx")


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_model_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        load_onnx(path)


WHOLE = tiny_model()[0].SerializeToString()


@settings(deadline=None, max_examples=60)
@given(length=st.integers(0, len(WHOLE) - 1))
def test_any_truncation_is_a_model_error(length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "short.onnx"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ModelError):
        import_model(load_onnx(path))


@settings(deadline=None, max_examples=60)
@given(position=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_any_damaged_byte_is_a_model_or_a_model_error(
    position: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(WHOLE[:position] + bytes([value]) + WHOLE[position + 1 :])
    try:
        found = import_model(load_onnx(path))
    except ModelError:
        return
    assert found.logits == ("logits_3", "logits_4")


# load_onnx: weights


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    path = save(with_weight(tiny_model()[0], "boxes.weight", spoil(value)), tmp_path / "m.onnx")
    source = load_onnx(path)
    with pytest.raises(ModelError, match=r"weight 'boxes\.weight' holds NaN or infinity; export a checkpoint"):
        cut_heads(source.graph, import_model(source))


def test_a_half_weight_that_is_not_finite(tmp_path: Path) -> None:
    path = save(
        with_weight(tiny_model()[0], "stem.bias", lambda a: a.astype(np.float16) + np.float16(np.inf)), tmp_path / "m"
    )
    source = load_onnx(path)
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        cut_heads(source.graph, import_model(source))


def test_a_weight_with_too_few_bytes(tmp_path: Path) -> None:
    model, _ = tiny_model()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    with pytest.raises(ModelError, match=r"stem\.weight.*too small"):
        load_onnx(save(model, tmp_path / "m.onnx"))


def external(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return folder / "m.onnx"


def test_external_data(tmp_path: Path) -> None:
    path = external(tmp_path, tiny_model()[0])
    inside = save(tiny_model()[0], tmp_path / "inside.onnx")
    stems = [load_onnx(p).graph.tensors()["stem.weight"].values for p in (path, inside)]
    np.testing.assert_array_equal(*stems)


def test_external_data_missing(tmp_path: Path) -> None:
    path = external(tmp_path, tiny_model()[0])
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match=r"its weights are in a second file that cannot be read: .*m\.data"):
        load_onnx(path)


def test_external_data_cut_short(tmp_path: Path) -> None:
    path = external(tmp_path, tiny_model()[0])
    os.truncate(tmp_path / "m.data", 1000)
    with pytest.raises(ModelError):
        load_onnx(path)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path, tiny_model()[0])
    path.write_bytes(path.read_bytes().replace(b"m.data", b"../etc"))
    with pytest.raises(ModelError, match="cannot be read"):
        load_onnx(path)


def test_the_digest_covers_external_data(tmp_path: Path) -> None:
    # Once it did not, where a tensor was smaller than the ONNX beside it.
    digests = []
    for name, change in (("a", lambda a: a), ("b", lambda a: a), ("c", lambda a: a + 1)):
        (tmp_path / name).mkdir()
        digests.append(load_onnx(external(tmp_path / name, with_weight(tiny_model()[0], "stem.bias", change))).digest)
    assert digests[0] == digests[1] != digests[2]


# load_onnx: opsets


@pytest.mark.parametrize(("opset", "read_as"), [(11, 17), (12, 17), (13, 13), (18, 18), (21, 21)])
def test_opsets(tmp_path: Path, opset: int, read_as: int) -> None:
    path = tmp_path / "m.onnx"
    _, spec = tiny_model(path, opset=opset)
    found = load_onnx(path)
    assert found.opset == found.graph.opset == read_as
    assert import_model(found).spec == spec  # metadata survive the conversion


def test_no_opset(tmp_path: Path) -> None:
    model, _ = tiny_model()
    del model.opset_import[:]
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        load_onnx(save(model, tmp_path / "m.onnx"))


# import_model


def test_no_spec_no_overrides(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    _, spec = tiny_model(path)
    found = import_model(load_onnx(path), overrides={})
    assert found.spec == spec
    assert found.spec.origins["mean"] == "metadata"


def test_a_classifier_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotADetector) as caught:
        import_model(load_onnx(save(classifier(), tmp_path / "m.onnx")))
    message = str(caught.value)
    for part in (
        "Looked for: edge_retina: the metadata key edge_retina.spec",
        "torchvision: two shared 3x3 Convs",
        "Found inputs: data [1, 3, 224, 224]; outputs: prob [1, 10]",
        "families tried: edge_retina, torchvision",
        f"--spec spec.json: {', '.join(REQUIRED)}",
    ):
        assert part in message


def test_an_unknown_family(tmp_path: Path) -> None:
    source = load_onnx(save(classifier(), tmp_path / "m.onnx"))
    with pytest.raises(UsageError, match="unknown family 'yolo'; use one of edge_retina, torchvision"):
        import_model(source, family="yolo")
    with pytest.raises(NotADetector, match=r"families tried: torchvision\)"):
        import_model(source, family="torchvision")


def test_a_person_replaces_fields(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    tiny_model(path)
    spec = import_model(load_onnx(path), overrides={"labels": ["a", "b", "c"], "nms_iou": 0.25, "origins": {}}).spec
    assert (spec.labels, spec.nms_iou) == (("a", "b", "c"), 0.25)
    assert (spec.origins["labels"], spec.origins["mean"]) == ("user", "metadata")
    with pytest.raises(SpecError, match="unknown field 'colour'"):
        import_model(load_onnx(path), overrides={"colour": "rgb"})


def test_metadata_that_contradict_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    tiny_model(path, spec_overrides={"labels": ("a", "b")})
    with pytest.raises(SpecError, match=r"logits of level 0 as an output \[B, 6, 8, 8\]"):
        import_model(load_onnx(path))
    # And a person can put them right.
    assert import_model(load_onnx(path), overrides={"labels": ["a", "b", "c"]}).spec.labels == ("a", "b", "c")


def test_a_person_contradicts_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    tiny_model(path)
    with pytest.raises(SpecError, match=r"logits of level 0 as an output \[B, 6, 8, 8\]"):
        import_model(load_onnx(path), overrides={"labels": ["a", "b"]})


def test_a_person_describes_a_graph_without_metadata(tmp_path: Path) -> None:
    model, spec = tiny_model()
    del model.metadata_props[:]
    source = load_onnx(save(model, tmp_path / "m.onnx"))
    with pytest.raises(NotADetector):
        import_model(source)
    with pytest.raises(
        SpecError, match="missing field labels, input_size, mean, std, strides, level_shapes, cell_anchors"
    ):
        import_model(source, overrides={"family": "mine"})
    wanted = {name: spec.to_dict()[name] for name in REQUIRED}
    found = import_model(source, overrides=wanted)
    assert found.logits == ("logits_3", "logits_4")
    assert found.spec.origins == dict.fromkeys(REQUIRED, "user")
    assert found.spec.pad_value == (0, 0, 0)


FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": ["one"]}, "the spec wants number of labels 1, the heads of this torchvision model want"),
        ({"input_size": [32, 32]}, "the spec wants input_size"),
    ],
)
def test_a_family_settles_what_the_heads_say(values: dict[str, Any], message: str) -> None:
    found = sorted(FIXTURES.glob("*raw*.onnx"))
    if not found:
        pytest.skip("no torchvision fixture")
    with pytest.raises(SpecError, match=message):
        import_model(load_onnx(found[0]), overrides=values)
    assert import_model(load_onnx(found[0]), overrides={"nms_iou": 0.25}).spec.nms_iou == 0.25


def test_broken_metadata(tmp_path: Path) -> None:
    model, _ = tiny_model()
    helper.set_model_props(model, {METADATA_KEY: "{"})
    with pytest.raises(SpecError, match="wanted JSON"):
        import_model(load_onnx(save(model, tmp_path / "m.onnx")))


def test_exporters_are_reached_from_here() -> None:
    """In a trainer's environment, which may not have what another trainer's needs."""
    for file in (Path(importer.__file__).parent / "exporters").glob("[a-z]*.py"):
        if file.stem != "attach":
            assert callable(getattr(importer, f"export_{file.stem}"))
    for name in ("export_yolo", "torchvision_export", "export_attach"):
        with pytest.raises(AttributeError, match=name):
            getattr(importer, name)


@pytest.mark.parametrize("fixture", ["mmdet_ts", "odtk_resnet18_ts", "tv_v1_raw_ts"])
def test_padding_stays_zero_when_the_mean_is_overridden(fixture: str) -> None:
    """These trainers pad after normalising, which pad_value, a colour before it, has to follow."""
    source = load_onnx(Path(__file__).parents[1] / "fixtures" / f"{fixture}.onnx")
    mean = [100.0, 110.0, 120.0]
    spec = import_model(source, overrides={"mean": mean}).spec
    assert (spec.pad_value, spec.origins["pad_value"]) == (tuple(mean), "user")
    assert import_model(source, overrides={"mean": mean, "pad_value": [1, 2, 3]}).spec.pad_value == (1, 2, 3)
    assert import_model(source, overrides={"nms_iou": 0.4}).spec.pad_value == import_model(source).spec.mean


def test_padding_follows_the_mean_of_metadata_too(tmp_path: Path) -> None:
    tiny_model(path := tmp_path / "m.onnx")
    assert import_model(load_onnx(path), overrides={"mean": [1.0, 2.0, 3.0]}).spec.pad_value == (1, 2, 3)


def test_heads_may_be_named_by_an_identity_that_was_bypassed() -> None:
    """A person sees it in a viewer; recognition looks past it."""
    model, _ = tiny_model()
    model.graph.node.append(onnx.helper.make_node("Identity", ["images"], ["seen"]))
    stem = next(node for node in model.graph.node if "images" in node.input and node.op_type == "Conv")
    stem.input[0] = "seen"
    nodes = [model.graph.node[-1], *list(model.graph.node)[:-1]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    source = Source(model, "")
    heads = {"trunk_input": "seen", "logits": ["logits_3", "logits_4"], "deltas": ["deltas_3", "deltas_4"]}
    assert import_model(source, overrides={"heads": heads}).trunk_input == "images"
    with pytest.raises(SpecError, match="no tensor 'never'"):
        import_model(source, overrides={"heads": {**heads, "trunk_input": "never"}})
