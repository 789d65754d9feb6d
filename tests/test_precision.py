"""Bundles in INT8 and FP16: what is in them, what is reused, what is refused, and that nothing else is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from models import hard_model, tiny_model, write_pictures
from onnx import helper, numpy_helper

import edge_retina.int8
import edge_retina.precision
import edge_retina.summary
from edge_retina import Detector, build, read_bundle
from edge_retina.bundle import Bundle
from edge_retina.calibrate.ranges import Ranges
from edge_retina.errors import AccuracyLost, BundleError, InputError, ModelError, UsageError
from edge_retina.proof import Measured, Unlabelled
from edge_retina.quantize import Recipe

PAGE = b"<!doctype html>"
PLAIN = Recipe(equalize=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 6)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def hard(tmp_path: Path) -> Path:
    hard_model(tmp_path / "hard.onnx")
    return tmp_path / "hard.onnx"


@pytest.fixture(autouse=True, scope="module")
def _no_page() -> Iterator[None]:
    """The report measures times, so that it takes some and is never the same twice."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(edge_retina.precision, "report_page", lambda *_, **__: PAGE)
        yield


def int8(model: Path, pictures: Path, out: Path | None = None, **options: Any) -> tuple[Bundle, list[str]]:
    notes: list[str] = []
    bundle = build(model, out, precision="int8", calib=pictures, on_note=notes.append, **options)
    return bundle, notes


def about(notes: list[str], word: str) -> list[str]:
    return [note for note in notes if word in note]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# INT8: what is in the bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Bundle, list[str]]:
    """One build with all there is; the report is tested elsewhere."""
    path = tmp_path_factory.mktemp("made") / "m.onnx"
    tiny_model(path)
    return int8(path, pictures)


def test_what_is_in_the_bundle(made):
    bundle, notes = made
    assert bundle.manifest.precision == "int8"
    assert bundle.manifest.batch_max is None
    assert set(bundle.manifest.members) == {"labels.txt", "model.onnx", "ranges.json", "report.html"}
    accuracy = bundle.manifest.accuracy
    assert set(accuracy) == {"measured", "agreement", "int8_share", "float_layers", "disagreement"}
    assert accuracy["measured"].startswith(
        "no annotations were given: agreement with the FP32 model's own detections on 6"
    )
    assert set(accuracy["agreement"]) == {"int8"}
    assert accuracy["agreement"]["int8"]["images"] == 6
    assert 0.9 < accuracy["agreement"]["int8"]["AP"] <= 1.0
    assert accuracy["int8_share"] == 1.0
    assert accuracy["float_layers"] == []
    assert 0 < accuracy["disagreement"]["onnxruntime"] < 0.06
    assert bundle.manifest.calibration_digest == hashlib.sha256(bundle.read("ranges.json")).hexdigest()
    assert about(notes, "few") == [
        "calibration: 6 pictures are few, wanted 100 to 1000; run: edge-retina calib pick --from VIDEO -n 256 -o calib/"
    ]
    assert read_bundle(bundle.path).manifest == bundle.manifest


def test_its_ranges(made):
    bundle, _ = made
    ranges = Ranges.from_json(bundle.read("ranges.json"))
    assert ranges.binding.model == bundle.manifest.model_digest
    assert ranges.binding.count == 6
    assert len(ranges.warnings) == 1
    used = {name: value["range"] for name, value in json.loads(bundle.read("ranges.json"))["tensors"].items()}
    for name, found in ranges.statistics.items():
        assert 0 < used[name] <= found.maximum


def test_it_runs(made, pictures):
    bundle, _ = made
    images = [cv2.imread(str(path)) for path in sorted(pictures.iterdir())]
    with Detector.load(bundle.path) as detector:
        alone = [detector(image) for image in images]
        together = detector.batch(images)
    assert all(len(found) for found in alone)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.xyxy, other.xyxy)


def test_a_page_with_measured_times(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(edge_retina.precision, "report_page", edge_retina.summary.report_page)
    tiny_model(tmp_path / "m.onnx")
    bundle, _ = int8(tmp_path / "m.onnx", pictures)
    page = bundle.read("report.html").decode()
    assert "INT8: agreement with FP32" in page
    assert "down_1" in page


def test_the_same_bytes_every_time(model, pictures, made):
    assert int8(model, pictures)[0].path.read_bytes() == made[0].path.read_bytes()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(method="max"),
        Recipe(method="percentile"),
        Recipe(method="entropy"),
        Recipe(search_scales=False),
        Recipe(correct_bias=False),
        Recipe(effort="high"),
    ],
    ids=lambda recipe: f"{recipe.method} {recipe.search_scales} {recipe.correct_bias} {recipe.effort}",
)
def test_each_switch_makes_other_weights_of_the_same_statistics(model, pictures, made, recipe):
    other, notes = int8(model, pictures, ranges=made[0].path, recipe=recipe)
    assert about(notes, "reused") == about(notes, "stale") == []
    assert other.read("model.onnx") != made[0].read("model.onnx")
    before, after = (json.loads(bundle.read("ranges.json")) for bundle in (made[0], other))
    for value in (*before["tensors"].values(), *after["tensors"].values()):
        del value["range"]
    assert before == after


def test_without_equalisation(hard, pictures):
    shares = {}
    for recipe in (Recipe(), PLAIN):
        bundle, _ = int8(hard, pictures, recipe=recipe, int8_share=1.0)
        shares[recipe.equalize] = bundle.manifest.accuracy["disagreement"]["onnxruntime"]
        factors = Ranges.from_json(bundle.read("ranges.json")).factors
        assert ("model/narrow" in factors) == recipe.equalize
    assert shares[True] < shares[False] / 5


# Ranges that are there already


def test_ranges_of_the_older_bundle_are_reused(model, pictures, monkeypatch):
    first, _ = int8(model, pictures)
    before = first.path.read_bytes()
    monkeypatch.setattr(edge_retina.precision, "calibrate", pytest.fail)
    again, notes = int8(model, pictures)
    assert again.path == first.path
    assert again.path.read_bytes() == before
    assert about(notes, "reused") == [f"ranges of {first.path} reused: same model, preprocessing and pictures"]
    assert len(about(notes, "are few")) == 1


@pytest.mark.parametrize("how", ["bundle", "json"])
def test_ranges_that_are_given(model, pictures, made, monkeypatch, how):
    given = made[0].path
    if how == "json":
        given = model.with_name("ranges.json")
        given.write_bytes(made[0].read("ranges.json"))
    monkeypatch.setattr(edge_retina.precision, "calibrate", pytest.fail)
    bundle, _ = int8(model, pictures, ranges=given)
    assert bundle.path.read_bytes() == made[0].path.read_bytes()


def other_model(model: Path, pictures: Path) -> dict[str, Any]:
    tiny_model(model, seed=5)
    return {}


def other_pictures(model: Path, pictures: Path) -> dict[str, Any]:
    return {"calib": write_pictures(model.parent / "other", 6, seed=7)}


def one_other_picture(model: Path, pictures: Path) -> dict[str, Any]:
    folder = write_pictures(model.parent / "other", 6)
    image = cv2.imread(str(folder / "003.png"))
    image[0, 0] ^= 1
    cv2.imwrite(str(folder / "003.png"), image)
    return {"calib": folder}


STALE: dict[str, tuple[Callable[[Path, Path], dict[str, Any]], str]] = {
    "model": (other_model, "model"),
    "mean": (lambda *_: {"overrides": {"mean": [1.0, 2.0, 3.0]}}, "preprocessing"),
    "colour order": (lambda *_: {"overrides": {"color_order": "bgr"}}, "preprocessing"),
    "resize": (lambda *_: {"overrides": {"resize": "stretch"}}, "preprocessing"),
    "frame size": (lambda *_: {"frame_size": (64, 64)}, "preprocessing"),
    "equalisation": (lambda *_: {"recipe": PLAIN}, "preprocessing"),
    "pictures": (other_pictures, "pictures"),
    "one pixel": (one_other_picture, "pictures"),
    "count": (lambda *_: {"calib_most": 4}, "pictures, count"),
}


@pytest.mark.parametrize("name", STALE)
def test_stale_ranges(model, pictures, made, monkeypatch, name):
    """Not reused, and said so; as --ranges they are refused."""
    change, differs = STALE[name]
    older = model.with_name("older.edge")
    older.write_bytes(made[0].path.read_bytes())
    options = {"calib": pictures, **change(model, pictures)}
    notes: list[str] = []
    with pytest.raises(InputError) as refused:
        build(model, older, precision="int8", ranges=made[0].path, **options)
    assert str(refused.value) == (
        f"{made[0].path}: its ranges are of another calibration (differs: {differs}); leave out --ranges to calibrate"
    )
    assert older.read_bytes() == made[0].path.read_bytes()
    calibrated = []
    real = edge_retina.precision.calibrate
    monkeypatch.setattr(edge_retina.precision, "calibrate", lambda *a, **k: calibrated.append(1) or real(*a, **k))
    build(model, older, precision="int8", on_note=notes.append, **options)
    assert calibrated == [1]
    assert about(notes, "stale") == [f"ranges of {older} are stale (differs: {differs}): calibrating anew"]
    assert about(notes, "reused") == []


def test_beside_a_stale_bundle_all_is_as_without_it(model, pictures, made):
    older = model.with_name("older.edge")
    older.write_bytes(made[0].path.read_bytes())
    options = {"overrides": {"mean": [90.0, 90.0, 90.0]}}
    stale, fresh = (int8(model, pictures, out, **options)[0] for out in (older, model.with_name("fresh.edge")))
    assert stale.path.read_bytes() == fresh.path.read_bytes()


def test_what_does_not_touch_ranges(model, pictures, made, monkeypatch):
    monkeypatch.setattr(edge_retina.precision, "calibrate", pytest.fail)
    for options in ({"overrides": {"nms_iou": 0.3, "labels": ["a", "b", "c"]}}, {"int8_share": 0.5}):
        int8(model, pictures, model.with_name("other.edge"), ranges=made[0].path, **options)
    copies = model.with_name("copies")
    copies.mkdir()
    for path in pictures.iterdir():  # elsewhere and named otherwise, but the same pictures
        (copies / f"copy-{path.name}").write_bytes(path.read_bytes())
    int8(model, copies, ranges=made[0].path)


def test_ranges_of_a_camera_are_never_reused(model, pictures, made):
    """As if the pictures that are there had come from one."""
    ranges = Ranges.from_json(made[0].read("ranges.json"))
    camera = replace(ranges, binding=replace(ranges.binding, pictures=None))
    path = model.with_name("camera.json")
    path.write_bytes(camera.to_json({}))
    with pytest.raises(InputError, match=r"\(differs: pictures of a camera, which do not come back\)"):
        int8(model, pictures, ranges=path)
    assert names_in(model.parent) == ["camera.json", "m.onnx"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, InputError, "wanted a bundle or a ranges.json, found no such file"),
        (b"", InputError, "wanted calibrated ranges"),
        (b'{"format": 9}', InputError, "has format 9, wanted 1"),
        (b"PK", BundleError, "given"),
    ],
)
def test_ranges_that_cannot_be_read(model, pictures, content, error, message):
    path = model.with_name("given")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        int8(model, pictures, ranges=path)
    assert not (model.parent / "m.edge").exists()


def test_a_folder_or_a_pipe_for_ranges(model, pictures):
    os.mkfifo(model.with_name("pipe"))
    for path in (model.with_name("pipe"), model.parent):
        with pytest.raises(InputError, match=r"wanted a bundle or a ranges\.json"):
            int8(model, pictures, ranges=path)


def test_a_bundle_without_ranges(model, pictures):
    plain = build(model)
    with pytest.raises(BundleError, match=r"no member 'ranges\.json'"):
        int8(model, pictures, ranges=plain.path)
    _, notes = int8(model, pictures)  # in its place
    assert about(notes, "ranges of") == []


def spoil(ranges: Ranges, how: str) -> Ranges:
    tensors, factors = dict(ranges.statistics), dict(ranges.factors)
    first = "model/stem.relu"
    if how == "missing":
        del tensors[first]
    elif how == "strange":
        tensors["model/nothing"] = tensors[first]
    elif how == "channels":
        old = tensors[first]
        tensors[first] = replace(old, mean=old.mean[:2], energy=old.energy[:2], peak=old.peak[:2])
    elif how == "factors":
        factors["model/nothing"] = np.ones(6, np.float32)
    elif how == "short":
        factors["model/stem"] = np.ones(1, np.float32)
    return replace(ranges, statistics=tensors, factors=factors)


@pytest.mark.parametrize(
    ("how", "differs"),
    [
        ("missing", "tensor 'model/stem.relu'"),
        ("strange", "tensor 'model/nothing'"),
        ("channels", "channels of 'model/stem.relu'"),
        ("factors", "6 factors of 'model/nothing'"),
        ("short", "1 factors of 'model/stem'"),
    ],
)
def test_ranges_of_other_tensors(model, pictures, made, how, differs):
    """As another version's rewrite of the same ONNX would leave them."""
    path = model.with_name("ranges.json")
    path.write_bytes(spoil(Ranges.from_json(made[0].read("ranges.json")), how).to_json({}))
    with pytest.raises(InputError, match=re.escape(f"(differs: {differs})")):
        int8(model, pictures, ranges=path)


def test_an_older_bundle_with_ranges_of_other_tensors(model, pictures, made, monkeypatch):
    """It may not keep a build from succeeding."""
    older, _ = int8(model, pictures, ranges=made[0].path)
    real = Ranges.from_json(older.read("ranges.json"))
    monkeypatch.setattr(edge_retina.int8, "_read_ranges", lambda _: spoil(real, "missing"))
    _, notes = int8(model, pictures)
    assert about(notes, "stale") == [
        f"ranges of {older.path} are stale (differs: tensor 'model/stem.relu'): calibrating anew"
    ]


# What the pictures are like


def test_near_duplicates_grey_and_resized(model):
    """All at once, with the measured numbers; the build goes on."""
    folder = write_pictures(model.with_name("in"), 5, size=(48, 80), grey=True)
    (folder / "again.png").write_bytes((folder / "000.png").read_bytes())
    bundle, notes = int8(model, folder, frame_size=(64, 64))
    calibration = about(notes, "calibration: ")
    assert [note.removeprefix("calibration: ") for note in calibration] == [
        "6 pictures are few, wanted 100 to 1000; run: edge-retina calib pick --from VIDEO -n 256 -o calib/",
        "1 of 6 pictures are nearly the same as an earlier one and add little",
        "all 6 pictures are grey; if the camera gives colour, calibrate on colour",
        "6 of 6 pictures were resized to 64x64; pictures as the camera gives them are better",
    ]
    assert bundle.manifest.frame_size == (64, 64)
    assert list(Ranges.from_json(bundle.read("ranges.json")).warnings) == [
        n.removeprefix("calibration: ") for n in calibration
    ]
    again = int8(model, folder, frame_size=(64, 64))[1]
    assert about(again, "calibration: ") == calibration  # reused, and still said


def test_a_hundred_good_pictures_need_no_words(model):
    _, notes = int8(model, write_pictures(model.with_name("in"), 100))
    assert notes == []


def test_black_pictures(model):
    """Ranges of next to nothing do no harm."""
    folder = model.with_name("in")
    folder.mkdir()
    cv2.imwrite(str(folder / "black.png"), np.zeros((64, 64, 3), np.uint8))
    bundle, notes = int8(model, folder)
    assert len(about(notes, "1 pictures are few")) == 1
    with Detector.load(bundle.path) as detector:
        detector(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("content", ["nothing", "text", "broken"])
def test_pictures_that_are_none(model, content):
    folder = model.with_name("in")
    folder.mkdir()
    if content == "text":
        (folder / "notes.txt").write_text("no picture")
    if content == "broken":
        (folder / "a.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises((InputError, UsageError)):
        int8(model, folder)
    assert names_in(model.parent) == ["in", "m.onnx"]


def test_activations_beyond_every_scale(model, pictures):
    """No float16 scale reaches 1e25: INT8 is of no use there, and the figures say so."""
    proto = onnx.load(model)
    for name, factor in {"stem": 1e25, "down_1": 1e-25, "classes": 1e-25, "boxes": 1e-25}.items():
        tensor = next(t for t in proto.graph.initializer if t.name == f"{name}.weight")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    model.write_bytes(proto.SerializeToString())
    bundle, _ = int8(model, pictures)
    assert bundle.manifest.accuracy["agreement"]["int8"]["AP"] < 0.5


# The gate


def test_a_drop_that_is_too_large(hard, pictures):
    out = hard.with_name("out.edge")
    build(hard, out)
    before = out.read_bytes()
    with pytest.raises(AccuracyLost) as lost:
        int8(hard, pictures, out, recipe=PLAIN, int8_share=1.0, max_ap_drop=0.05)
    assert lost.value.exit_code == 9
    message = str(lost.value)
    assert re.match(
        r"INT8 agrees with FP32 to 0\.\d{4} only, 0\.\d{4} less than in full; allowed are 0\.05\. ", message
    )
    worst = re.findall(r"(\w+) \((\d\.\d{3})\)", message)
    assert {name for name, _ in worst[:2]} == {"wide", "narrow"}
    assert [float(cost) for _, cost in worst] == sorted((float(cost) for _, cost in worst), reverse=True)
    for way in ("--auto", "--int8-effort high", "--float-layers"):
        assert way in message
    assert out.read_bytes() == before
    assert names_in(hard.parent) == ["hard.onnx", "out.edge"]


def test_a_drop_that_is_allowed(model, pictures):
    bundle, notes = int8(model, pictures, max_ap_drop=0.1)
    accuracy = bundle.manifest.accuracy
    assert 1 - accuracy["agreement"]["int8"]["AP"] <= 0.1
    assert about(notes, "--auto") == []


def test_auto_gives_back_until_it_holds(hard, pictures):
    bundle, notes = int8(hard, pictures, recipe=PLAIN, int8_share=1.0, max_ap_drop=0.2, auto=True)
    accuracy = bundle.manifest.accuracy
    assert accuracy["agreement"]["int8"]["AP"] >= 0.8
    assert {"wide", "narrow"} <= set(accuracy["float_layers"])
    share = accuracy["int8_share"]
    assert 0 < share < 1
    count = len(accuracy["float_layers"])
    assert about(notes, "--auto") == [
        f"--auto returned {count} convolutions to float: INT8 share 100.0% -> {share:.1%}"
    ]
    assert about(notes, "left in float")[0].endswith(f"{share:.1%} of the convolutions' work is INT8")
    assert accuracy["disagreement"]["onnxruntime"] < 0.2


def judged(monkeypatch: pytest.MonkeyPatch, *points: float) -> list[str]:
    """The figure that each measurement gives, the last one from then on; returns what was measured."""
    real, measured = Unlabelled.measure, []

    def measure(self: Unlabelled, bundle: Bundle, on_step: Any) -> Measured:
        found = real(self, bundle, on_step)
        point = points[min(len(measured), len(points) - 1)]
        measured.append(bundle.manifest.precision)
        assert found.accuracy is not None
        return replace(found, accuracy=replace(found.accuracy, AP=point))

    monkeypatch.setattr(Unlabelled, "measure", measure)
    return measured


def test_auto_that_never_holds(model, pictures, monkeypatch):
    """Some layer stays INT8, or it would be no INT8 build: then it is refused."""
    measured = judged(monkeypatch, 1.0, 0.5)
    with pytest.raises(AccuracyLost) as lost:
        int8(model, pictures, max_ap_drop=0.01, auto=True)
    assert measured == ["fp32", "int8", "int8", "int8", "int8"]
    assert "allowed are 0.01, and no less with all layers but one in float" in str(lost.value)
    assert names_in(model.parent) == ["m.onnx"]


@pytest.mark.parametrize(("drop", "kept"), [(0.25, True), (0.2499, False)])
def test_the_limit_itself_is_allowed(model, pictures, monkeypatch, drop, kept):
    judged(monkeypatch, 1.0, 0.75)
    if kept:
        int8(model, pictures, max_ap_drop=drop)
    else:
        with pytest.raises(AccuracyLost):
            int8(model, pictures, max_ap_drop=drop)


def test_more_accurate_than_before(model, pictures, monkeypatch):
    judged(monkeypatch, 0.5, 0.75)
    int8(model, pictures, max_ap_drop=0.0)


def test_nothing_detected(model, pictures):
    """Scores of 0.3 never come: without a limit that is said, with one nothing is built."""
    proto = onnx.load(model)
    bias = next(t for t in proto.graph.initializer if t.name == "classes.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - 10, bias.name))
    model.write_bytes(proto.SerializeToString())
    for precision in ("int8", "fp16"):
        notes: list[str] = []
        bundle = build(model, precision=precision, calib=pictures, on_note=notes.append)
        assert len(about(notes, "accuracy is not measured: the FP32 model finds nothing")) == 1
        assert bundle.manifest.accuracy["measured"].startswith("accuracy is not measured")
        assert "fp32" not in bundle.manifest.accuracy
        before = bundle.path.read_bytes()
        with pytest.raises(InputError, match=r"finds nothing .* Name annotated pictures: --eval ann\.json"):
            build(model, precision=precision, calib=pictures, max_ap_drop=0.01)
        assert bundle.path.read_bytes() == before


# The choice of float layers


def test_layers_that_int8_ruins_are_left_in_float(hard, pictures):
    bundle, notes = int8(hard, pictures, recipe=PLAIN)
    assert sorted(bundle.manifest.accuracy["float_layers"]) == ["narrow", "wide"]
    assert bundle.manifest.accuracy["int8_share"] > 0.9
    assert len(about(notes, "left in float: ")) == 1


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (["stem"], ["stem"]),
        (["s*", "down_?"], ["stem", "down_1"]),
        (["logits_*"], ["logits_0", "logits_1"]),
        (["deltas_1"], ["deltas_1"]),  # one level of a shared weight
    ],
)
def test_layers_named_by_the_user(model, pictures, made, patterns, wanted):
    bundle, _ = int8(model, pictures, ranges=made[0].path, float_layers=patterns)
    assert bundle.manifest.accuracy["float_layers"] == wanted
    assert bundle.manifest.accuracy["int8_share"] < 1


def test_all_layers_named_by_the_user(model, pictures, made):
    with pytest.raises(UsageError, match="--float-layers leaves nothing in INT8"):
        int8(model, pictures, ranges=made[0].path, float_layers=["*"])
    assert names_in(model.parent) == ["m.onnx"]


def test_a_pattern_without_a_match(model, pictures):
    with pytest.raises(
        UsageError, match=r"--float-layers 'backbone\*' matches none of the 6 convolutions, such as stem"
    ):
        int8(model, pictures, float_layers=["stem", "backbone*"])
    assert names_in(model.parent) == ["m.onnx"]


# With labels


def annotations(folder: Path, **changes: Any) -> Path:
    """Of what the tiny model finds best in 4 pictures: its FP32 AP is high, and not 1."""
    tiny_model(folder / "labelled.onnx")
    write_pictures(folder / "images", 4, seed=3)
    rows: list[dict[str, Any]] = []
    with Detector.load(build(folder / "labelled.onnx").path) as detector:
        images = []
        for number, path in enumerate(sorted((folder / "images").iterdir()), 1):
            found = detector(cv2.imread(str(path)))
            images.append({"id": number, "file_name": path.name, "width": 64, "height": 64})
            rows += [row | {"category_id": row["category_id"] + 1} for row in found.to_coco(number)[:3]]
    for number, row in enumerate(rows, 1):
        row |= {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        del row["score"]
    categories = [{"id": number + 1, "name": f"thing_{number}"} for number in range(3)]
    data = {"images": images, "annotations": rows, "categories": categories, **changes}
    path = folder / "ann.json"
    path.write_text(json.dumps(data))
    for stray in ("labelled.onnx", "labelled.edge"):
        (folder / stray).unlink()
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_with_labels(model, pictures, precision):
    path = annotations(model.parent)
    options = {} if precision == "fp32" else {"calib": pictures, "max_ap_drop": 0.5}
    bundle = build(model, precision=precision, annotations=path, **options)
    accuracy = bundle.manifest.accuracy
    assert accuracy["measured"] == f"average precision on 4 annotated pictures of {path}"
    assert accuracy["fp32"]["objects"] == 12
    assert 0 < accuracy["fp32"]["AP"] < 1
    assert abs(accuracy[precision]["AP"] - accuracy["fp32"]["AP"]) <= 0.5
    assert bundle.read("report.html") == PAGE


def test_labels_and_no_calibration(model):
    bundle = build(model, precision="fp16", annotations=annotations(model.parent), max_ap_drop=0.1)
    assert {"fp32", "fp16"} < set(bundle.manifest.accuracy)
    assert bundle.manifest.calibration_digest is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, "holds no object, so there is nothing to measure"),
        ({"annotations": [{"image_id": 99, "category_id": 1, "bbox": [1, 1, 9, 9]}]}, "holds no object"),
        ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1}]}, "holds no object"),
        ({"annotations": [{"image_id": 1}]}, "malformed COCO annotations"),
        ({"annotations": ["no object"]}, "malformed COCO annotations"),
        ({"images": []}, "wanted annotated pictures, found annotations of none"),
        ({"images": [{"id": 1, "file_name": "gone.png"}]}, r"gone\.png is not there \(1 of 1 pictures are missing\)"),
    ],
)
def test_labels_that_say_nothing(model, pictures, changes, message):
    path = annotations(model.parent, **changes)
    with pytest.raises(InputError, match=message):
        int8(model, pictures, annotations=path, max_ap_drop=0.01)
    assert not model.with_suffix(".edge").exists()


def test_labels_where_the_model_finds_nothing_right(model, pictures):
    """AP 0 cannot drop: a limit would pass whatever INT8 does."""
    far = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}]
    path = annotations(model.parent, annotations=far)
    with pytest.raises(InputError, match="FP32 itself reaches only AP"):
        int8(model, pictures, annotations=path, max_ap_drop=0.01)
    assert not model.with_suffix(".edge").exists()
    assert int8(model, pictures, annotations=path)[0].manifest.accuracy["fp32"]["AP"] == 0


# FP16


def amplified(path: Path, gain: float, op: str = "Conv") -> Path:
    """A tiny model whose features grow by `gain` in front of down_1, and shrink again behind it."""
    proto, _ = tiny_model()
    graph = proto.graph
    down = next(node for node in graph.node if node.name == "down_1")
    if op == "Conv":
        for name, factor in (("down_1.weight", gain), ("down_1.bias", gain)):
            tensor = next(t for t in graph.initializer if t.name == name)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    else:
        graph.initializer.append(numpy_helper.from_array(np.float32(gain), "gain"))
        grown = helper.make_node("Mul", [down.output[0], "gain"], ["down_1.grown"], "grown")
        graph.node.insert(list(graph.node).index(down) + 1, grown)
    graph.initializer.append(numpy_helper.from_array(np.float32(1 / gain), "shrink"))
    source = "down_1" if op == "Conv" else "down_1.grown"
    relu = next(node for node in graph.node if node.op_type == "Relu" and node.input[0] == "down_1")
    relu.input[0] = source
    for node in graph.node:
        if node is not relu:
            node.input[:] = ["down_1.small" if name == "down_1.relu" else name for name in node.input]
    graph.node.insert(
        list(graph.node).index(relu) + 1, helper.make_node("Mul", ["down_1.relu", "shrink"], ["down_1.small"], "shrink")
    )
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("op", ["Conv", "Mul"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_what_overflows_stays_float32_and_is_named(tmp_path, pictures, op, calibrated):
    model = amplified(tmp_path / "m.onnx", 1e5, op)
    notes: list[str] = []
    bundle = build(model, precision="fp16", calib=pictures if calibrated else None, on_note=notes.append)
    kept = about(notes, "stay FP32")
    assert len(kept) == 1
    assert len(about(notes, "noise only")) == (not calibrated)
    grown = "down_1" if op == "Conv" else "down_1.grown"
    assert re.match(r"\d tensors stay FP32, for they would overflow FP16 or their operators need it: ", kept[0])
    assert {grown, "down_1.relu"} <= set(kept[0].split(": ")[1].split(", "))
    with Detector.load(bundle.path) as half, Detector.load(build(model, tmp_path / "f.edge").path) as full:
        image = cv2.imread(str(pictures / "000.png"))
        found, wanted = half(image), full(image)
    assert len(wanted)
    np.testing.assert_allclose(found.scores[:5], wanted.scores[:5], atol=5e-3)
    assert (bundle.manifest.accuracy is not None) == calibrated
    assert (bundle.manifest.calibration_digest is not None) == calibrated


def test_nothing_overflows(model, pictures):
    notes: list[str] = []
    bundle = build(model, precision="fp16", calib=pictures, on_note=notes.append)
    assert about(notes, "FP32") == []
    accuracy = bundle.manifest.accuracy
    assert set(accuracy) == {"measured", "agreement"}
    assert 0.99 < accuracy["agreement"]["fp16"]["AP"] <= 1
    weights = onnx.load_from_string(bundle.read("model.onnx")).graph.initializer
    kinds = {t.data_type for t in weights if t.name.endswith(".weight")}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_fp16_is_the_same_every_time(model, pictures):
    first, second = (build(model, precision="fp16", calib=pictures).path.read_bytes() for _ in range(2))
    assert first == second


def test_too_much_for_fp16(model, pictures, monkeypatch):
    judged(monkeypatch, 1.0, 0.9)
    with pytest.raises(
        AccuracyLost, match=r"FP16 agrees .* to 0\.9000 only, .*allowed are 0\.05; build it without --fp16"
    ):
        build(model, precision="fp16", calib=pictures, max_ap_drop=0.05)
    assert names_in(model.parent) == ["m.onnx"]


def test_pictures_are_not_all_held_at_once(model, pictures, monkeypatch):
    """Looking for overflow takes 64 pictures, which may be large: each goes before the next one comes."""
    real, alive = edge_retina.precision.gather, []

    def gather(graph: Any, tensors: Any, frames: Any, **options: Any) -> Any:
        alive.append(isinstance(frames, Iterator))
        return real(graph, tensors, frames, **options)

    monkeypatch.setattr(edge_retina.precision, "gather", gather)
    build(model, precision="fp16", calib=pictures)
    assert alive == [True]


def test_nan_on_a_picture(model, pictures):
    """On noise the model is sound; a white picture makes it infinite, which is told with the tensor."""
    proto = onnx.load(model)
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1e38), "huge"))
    proto.graph.node.insert(1, helper.make_node("Pow", ["stem", "many"], ["stem.power"], "power"))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(64), "many"))
    relu.input[0] = "stem.power"
    model.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="NaN or infinit"):
        int8(model, pictures)
    assert names_in(model.parent) == ["m.onnx"]


# Interrupted


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_an_interruption_leaves_nothing_behind(model, pictures, monkeypatch, precision):
    """At whatever step it comes."""
    temporary = model.with_name("tmp")
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    steps = 0

    def count(*_: int) -> None:
        nonlocal steps
        steps += 1

    fresh = model.with_name("other.edge")
    build(model, fresh, precision=precision, calib=pictures, on_step=count)
    older = fresh.rename(model.with_suffix(".edge")).read_bytes()
    assert steps > 10
    for last in sorted({1, 2, 7, steps // 2, steps}):
        left = last

        def stop(*_: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

        options = {"overrides": {"mean": [90.0, 90.0, float(last)]}}  # or its ranges would be reused
        with pytest.raises(KeyboardInterrupt):
            build(model, precision=precision, calib=pictures, on_step=stop, **options)
        assert names_in(model.parent) == ["m.edge", "m.onnx", "tmp"]
        assert names_in(temporary) == []
        assert model.with_suffix(".edge").read_bytes() == older


@pytest.mark.parametrize("name", ["effdet_lite_dynamo", "effdet_tf_ts"])
def test_fp16_of_a_model_that_pads_with_infinity(tmp_path, name):
    """TensorFlow's "same" padding in front of a MaxPool."""
    fixture = Path(__file__).parent / "fixtures" / f"{name}.onnx"
    bundle = build(fixture, tmp_path / "m.edge", precision="fp16")
    assert bundle.manifest.precision == "fp16"
