"""From an ONNX to a bundle: what comes out runs and agrees with the reference, and what cannot work is told at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models import tiny_model
from onnx import helper, numpy_helper

import edge_retina
from edge_retina import Detector, boxes, build, read_bundle
from edge_retina.errors import BundleError, ModelError, NotADetector, OutputError, SpecError, UsageError
from edge_retina.geometry import fit_frame
from edge_retina.importer import load_onnx


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What cannot be built; nothing is written then


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelError, match="a graph without nodes"):
        build(tmp_path / "m.onnx")
    assert names_in(tmp_path) == ["m.onnx"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        build(tmp_path / "m.onnx")
    assert names_in(tmp_path) == []


def test_a_bundle(model: Path) -> None:
    bundle = build(model)
    with pytest.raises(ModelError, match="found a zip; a bundle is run with: edge-retina run"):
        build(bundle.path, model.with_name("again.edge"))
    assert names_in(model.parent) == ["m.edge", "m.onnx"]


def test_not_a_detector(tmp_path: Path) -> None:
    proto, _ = tiny_model()
    del proto.metadata_props[:]
    with pytest.raises(NotADetector):
        build(save(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'; use one of fp32, fp16, int8"),
        ({"precision": "int8"}, "INT8 wants calibration pictures: --calib"),
        ({"precision": "int8", "calib": "in", "int8_share": 1.5}, "the INT8 share wants 0 to 1, found 1.5"),
        ({"precision": "fp16", "max_ap_drop": 0.01}, "an allowed AP drop wants pictures to measure on"),
        ({"precision": "fp16", "calib": "in", "max_ap_drop": 2.0}, "the allowed AP drop wants 0 to 1"),
    ],
)
def test_options_that_make_no_sense(model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(model, **options)
    assert names_in(model.parent) == ["m.onnx"]


@pytest.mark.parametrize("size", [(0, 64), (64, 16385)])
def test_an_absurd_frame_size(model: Path, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="frame size wants 1 to 16384 pixels a side"):
        build(model, frame_size=size)


def test_the_bundle_would_replace_the_model(model: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(UsageError, match="the bundle would replace the model; choose another name with -o"):
        build(model, model.parent / "." / "m.onnx")
    assert model.read_bytes() == before


@pytest.mark.parametrize("content", [b"mine", b"PK\x03\x04", b"PK\x03\x04" + b"\0" * 26 + b"other.json"])
def test_the_bundle_would_replace_something_else(model: Path, content: bytes) -> None:
    (model.parent / "out").write_bytes(content)
    with pytest.raises(UsageError, match="is there and is no bundle; choose another name with -o"):
        build(model, model.parent / "out")
    assert (model.parent / "out").read_bytes() == content


def test_a_folder_to_write_into(model: Path) -> None:
    (model.parent / "is there").mkdir()
    (model.parent / "empty.edge").touch()
    for out, wanted in (("is there", "is there/m.edge"), ("new/", "new/m.edge"), ("empty.edge", "empty.edge")):
        for _ in range(2):  # a bundle gives way to the next
            assert build(model, f"{model.parent}/{out}").path == model.parent / wanted


def test_labels_that_do_not_fit(model: Path) -> None:
    with pytest.raises(SpecError, match="wants logits of level 0 as an output"):
        build(model, overrides={"labels": ["one", "two"]})


@pytest.mark.parametrize("place", ["file/m.edge", "/proc/m.edge", "/proc/1/m.edge"])
def test_a_place_that_cannot_be_written(model: Path, place: str) -> None:
    (model.parent / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        build(model, model.parent / place)
    assert names_in(model.parent) == ["file", "m.onnx"]


def test_a_full_disk_leaves_the_old_bundle(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(model).path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; the disk or quota is full"):
        build(model, overrides={"nms_iou": 0.25})
    assert names_in(model.parent) == ["m.edge", "m.onnx"]
    assert (model.parent / "m.edge").read_bytes() == before


# What can


@pytest.mark.parametrize("levels", [2, 3, 5])
@pytest.mark.parametrize("classes", [1, 4])
def test_agrees_with_the_reference(tmp_path: Path, levels: int, classes: int) -> None:
    proto, spec = tiny_model(tmp_path / "m.onnx", levels=levels, classes=classes)
    image = noise(*spec.input_size, 3)  # as large as the input: no resizing
    normalised = (image[:, :, ::-1].astype(np.float32) - np.float32(spec.mean)) / np.float32(spec.std)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    heads = [head[0] for head in session.run(None, {"images": normalised.transpose(2, 0, 1)[None].copy()})]
    wanted = boxes.detect(heads[:levels], heads[levels:], spec, fit_frame(spec, *spec.input_size))
    found = Detector.load(build(tmp_path / "m.onnx").path)(image)
    assert len(found) == len(wanted[0]) > 5
    assert found.labels.tolist() == wanted[2].tolist()
    np.testing.assert_allclose(found.xyxy, wanted[0], atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted[1], atol=1e-5)


def test_the_bundle_says_what_it_is(model: Path) -> None:
    stages: list[str] = []
    bundle = edge_retina.build(model, on_stage=stages.append)
    assert stages == ["read", "import", "rewrite", "check", "write"]
    manifest = read_bundle(bundle.path).manifest
    assert bundle.path == model.with_suffix(".edge")
    assert (manifest.precision, manifest.frame_size, manifest.batch_max) == ("fp32", None, None)
    assert manifest.model_digest == load_onnx(model).digest
    assert set(manifest.tools) == {"numpy", "onnx", "onnx-graphsurgeon", "onnxruntime"}
    assert bundle.labels == ("thing_0", "thing_1", "thing_2")


def test_the_same_model_gives_the_same_bytes(model: Path) -> None:
    assert build(model).path.read_bytes() == build(model).path.read_bytes()


def test_overrides_reach_the_bundle(model: Path) -> None:
    spec = build(model, overrides={"labels": ["a", "b", "c"], "max_detections": 3}).spec
    assert (spec.labels, spec.max_detections, spec.origins["labels"]) == (("a", "b", "c"), 3, "user")
    found = Detector.load(model.with_suffix(".edge"))(noise(64, 64, 3))
    assert len(found) == 3
    assert set(found.names) == {"a", "b", "c"}


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_every_opset_gives_the_same_detections(tmp_path: Path, opset: int) -> None:
    found = []
    for number in (18, opset):
        tiny_model(tmp_path / "m.onnx", opset=number)
        found.append(Detector.load(build(tmp_path / "m.onnx").path)(noise(48, 100, 3)))
    assert len(found[0]) > 5
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    np.testing.assert_allclose(found[0].xyxy, found[1].xyxy, atol=1e-4)


def test_external_data_end_up_inside(tmp_path: Path) -> None:
    onnx.save(tiny_model()[0], tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    bundle = build(tmp_path / "m.onnx")
    (tmp_path / "m.data").unlink()
    assert len(Detector.load(bundle.path)(noise(64, 64, 3))) > 5


def test_one_frame_size(model: Path) -> None:
    bundle = build(model, frame_size=(48, 100))
    free = build(model, model.with_name("free.edge"))
    assert bundle.manifest.frame_size == (48, 100)
    image = noise(48, 100, 3)
    detector = Detector.load(bundle.path)
    np.testing.assert_array_equal(detector(image).xyxy, Detector.load(free.path)(image).xyxy)
    with pytest.raises(UsageError, match=r"takes frames of 100x48 only, found 64x64; .* build it without --frame-size"):
        detector(noise(64, 64, 3))


# Batches


def with_fixed_batch(size: int) -> onnx.ModelProto:
    """A model whose export had the batch size written into a Reshape."""
    proto, _ = tiny_model()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    for output in proto.graph.output:
        node = next(n for n in proto.graph.node if n.output[0] == output.name)
        node.output[0] = f"{output.name}.raw"
        shape = [axis.dim_value for axis in output.type.tensor_type.shape.dim]
        proto.graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{output.name}.shape"))
        proto.graph.node.append(helper.make_node("Reshape", [node.output[0], f"{output.name}.shape"], [output.name]))
    return proto


def test_a_batch_equals_its_frames_whatever_the_graph_takes(tmp_path: Path) -> None:
    images = [noise(64, 64, 3, seed=seed) for seed in range(3)]
    fixed = build(save(with_fixed_batch(1), tmp_path / "fixed.onnx"))
    tiny_model(tmp_path / "free.onnx")
    free = build(tmp_path / "free.onnx")
    assert (fixed.manifest.batch_max, free.manifest.batch_max) == (1, None)
    for bundle in (fixed, free):
        detector = Detector.load(bundle.path)
        assert detector.batch([]) == []
        for alone, together in zip(map(detector, images), detector.batch(images), strict=True):
            assert len(alone) > 5
            np.testing.assert_array_equal(alone.xyxy, together.xyxy)
            np.testing.assert_array_equal(alone.scores, together.scores)
            np.testing.assert_array_equal(alone.labels, together.labels)


def test_a_graph_for_pairs_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ModelError, match=r"does not run on a single frame; .* export it for batch 1 or with a free batch"
    ):
        build(save(with_fixed_batch(2), tmp_path / "m.onnx"))
    assert capfd.readouterr() == ("", "")  # ONNX Runtime keeps its own account to itself
    assert names_in(tmp_path) == ["m.onnx"]


# The check


def test_weights_of_nan_where_no_reader_looks(tmp_path: Path) -> None:
    # In a Constant node. NaN scores exceed no threshold: without the check, a detector that never finds anything.
    proto, _ = tiny_model()
    tensor = next(t for t in proto.graph.initializer if t.name == "classes.weight")
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0, 0, 0] = np.nan
    proto.graph.initializer.remove(tensor)
    value = numpy_helper.from_array(array, "value")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["classes.weight"], value=value))
    with pytest.raises(ModelError, match="gives NaN or infinity on a frame of noise, in logits_0; is the checkpoint"):
        build(save(proto, tmp_path / "m.onnx"))
    assert names_in(tmp_path) == ["m.onnx"]


def test_numbers_that_outgrow_float32(tmp_path: Path) -> None:
    # Finite weights, but a std so small that the normalised frame overflows.
    tiny_model(tmp_path / "m.onnx", spec_overrides={"std": (1e-37,) * 3})
    with pytest.raises(
        ModelError, match=r"mean .* and std \(1e-37, .*\) \(for pixels 0..255\) the ones it was trained"
    ):
        build(tmp_path / "m.onnx")


# Detector.load


def test_loading_what_is_no_bundle(model: Path) -> None:
    with pytest.raises(BundleError, match="no such file; make it: edge-retina build"):
        Detector.load(model.parent / "none.edge")
    with pytest.raises(BundleError, match="this is an ONNX; build it first: edge-retina build"):
        Detector.load(model)
    with pytest.raises(UsageError, match="unknown target 'npu'; use one of auto, tensorrt, tensorrt_rtx, ort"):
        Detector.load(build(model).path, target="npu")


def test_a_model_that_mixes_its_batch_takes_single_frames_only(tmp_path: Path) -> None:
    """Told by its heads: noise gives no detections that could differ."""
    model, _ = tiny_model(spec_overrides={"score_threshold": 0.99})
    first = model.graph.node[0]
    mean = helper.make_node("ReduceMean", [first.input[0]], ["whole_batch"], keepdims=1)
    centred = helper.make_node("Sub", [first.input[0], "whole_batch"], ["centred"])
    for node in model.graph.node:
        node.input[:] = ["centred" if name == "images" else name for name in node.input]
    model.graph.node.insert(0, centred)
    model.graph.node.insert(0, mean)
    onnx.save(model, tmp_path / "m.onnx")
    assert build(tmp_path / "m.onnx").manifest.batch_max == 1
