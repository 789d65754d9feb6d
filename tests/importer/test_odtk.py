from types import SimpleNamespace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, Heads, assert_same, flat, golden_rows, middle, rows_of, tidied

from edge_retina import Detector, build
from edge_retina.boxes import sigmoid
from edge_retina.errors import SpecError
from edge_retina.importer import odtk
from edge_retina.importer.exporters.odtk import spec_of
from edge_retina.spec import METADATA_KEY

SIZE = (128, 256)
# Every so many head values are in the golden files; see fixtures/make_odtk.py.
HEAD_STEP = 61
CLASSES = {"odtk_resnet18_ts": 10, "odtk_mobilenet_dynamo": 5}

WANTED = {
    "family": "odtk",
    "input_size": SIZE,
    "color_order": "rgb",
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "pad_value": (123.675, 116.28, 103.53),
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "floor",
    "placement": "top_left",
    "strides": ((8, 8), (16, 16), (32, 32), (64, 64), (128, 128)),
    "level_shapes": ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2)),
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": 80.0,
    "inclusive_pixels": True,
    "clip": "input",
    "score_threshold": 0.05,
    "top_k": 1000,
    "nms_iou": 0.5,
    "class_aware_nms": True,
    "max_detections": 100,
}


@pytest.fixture(scope="module", params=CLASSES)
def imported(request):
    found = odtk.recognise(tidied(request.param), {})
    assert found is not None
    return request.param, found


def test_nothing_there():
    assert odtk.recognise(gs.Graph(), {}) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v2_whole_ts", "detectron2_raw_dynamo", "detectron2_whole_ts"])
def test_other_families_are_left_alone(name):
    assert odtk.recognise(tidied(name), {}) is None


def test_our_own_metadata_goes_first():
    assert odtk.recognise(tidied("odtk_resnet18_ts"), {METADATA_KEY: "{}"}) is None


def test_spec_is_the_known_one(imported):
    name, found = imported
    wanted = {**WANTED, "labels": tuple(f"class_{i}" for i in range(CLASSES[name]))}
    assert {field: getattr(found.spec, field) for field in wanted} == wanted


def test_anchors(imported):
    """By hand: scale outer, ratio 1, 2, 1/2 inner, about the middle of the cell; width = side / sqrt(ratio)."""
    _, found = imported
    upright, lying = (-7.313708, -18.627417, 15.313708, 26.627417), (-18.627417, -7.313708, 26.627417, 15.313708)
    np.testing.assert_allclose(found.spec.cell_anchors[0][:3], [(-12, -12, 20, 20), upright, lying], atol=1e-5)
    # 128 * 4 * 2 ** (2/3) = 812.7493, ratio 1/2, about 64.
    np.testing.assert_allclose(found.spec.cell_anchors[4][8], (-510.7006, -223.3503, 638.7006, 351.3503), atol=1e-3)
    assert [len(cell) for cell in found.spec.cell_anchors] == [9] * 5


def test_every_field_has_its_origin(imported):
    _, found = imported
    from_graph = {"family", "input_size", "level_shapes"}
    fields = {*WANTED, "labels", "cell_anchors"}
    assert found.spec.origins == {field: "graph" if field in from_graph else "family" for field in fields}


def test_logits_are_taken_before_the_sigmoid(imported):
    name, found = imported
    graph = tidied(name)
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    tensors = graph.tensors()
    for level in range(5):
        (reader,) = tensors[found.logits[level]].outputs
        assert (reader.op, reader.outputs[0].name) == ("Sigmoid", f"score_{level + 1}")
    assert found.deltas == tuple(f"box_{level}" for level in range(1, 6))
    odtk.recognise(graph, {})
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_heads_are_odtks(imported):
    name, found = imported
    heads = Heads(tidied(name), found)
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            logits, deltas = map(flat, heads(middle(photo, SIZE)))
            np.testing.assert_allclose(sigmoid(logits[::HEAD_STEP]), golden[f"{photo}.score"], atol=1e-4)
            np.testing.assert_allclose(deltas[::HEAD_STEP], golden[f"{photo}.box"], atol=5e-4)


@pytest.mark.parametrize("name", CLASSES)
def test_detections_are_odtks(name, tmp_path):
    with (
        np.load(FIXTURES / f"{name}.npz") as golden,
        Detector.load(build(FIXTURES / f"{name}.onnx", tmp_path / "m.edge").path) as detector,
    ):
        for photo in PHOTOS:
            inclusive, *rest = golden_rows(golden, photo)
            wanted = (inclusive + np.float32([0, 0, 1, 1]), *rest)  # its x2, y2 are the last pixel inside
            assert_same(rows_of(detector(middle(photo, SIZE))), wanted, detector.spec, photo)


def test_scores_without_a_sigmoid_are_another_familys():
    graph = tidied("odtk_resnet18_ts")
    for node in graph.nodes:
        if node.op == "Sigmoid":
            node.op = "Relu"
    assert odtk.recognise(graph, {}) is None


def resized(graph, height, width):
    """The graph of an export at another size; without recorded shapes, as a simplifier may leave it."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = None
    graph.inputs[0].shape = ["batch", 3, height, width]
    return graph


def test_another_size():
    spec = odtk.recognise(resized(tidied("odtk_resnet18_ts"), 384, 640), {}).spec
    assert spec.input_size == (384, 640)
    assert spec.level_shapes == ((48, 80), (24, 40), (12, 20), (6, 10), (3, 5))


def test_a_size_that_odtk_would_pad_is_refused():
    with pytest.raises(SpecError, match=r"found 160x224.*--size 256 256"):
        odtk.recognise(resized(tidied("odtk_resnet18_ts"), 160, 224), {})


def test_dynamic_size_is_refused():
    with pytest.raises(SpecError, match="--size H W"):
        odtk.recognise(resized(tidied("odtk_resnet18_ts"), "height", "width"), {})


@pytest.mark.parametrize(("boxes", "message"), [(27 * 6, "rotated"), (15 * 4, "9 anchors per cell.*export_odtk")])
def test_other_anchors_are_refused(boxes, message):
    graph = gs.import_onnx(onnx.load(FIXTURES / "odtk_resnet18_ts.onnx"))
    for node in graph.nodes:
        if node.outputs[0].name.startswith("box_"):
            for tensor in node.inputs[1:]:
                tensor.values = np.resize(tensor.values, (boxes, *tensor.values.shape[1:]))
    with pytest.raises(SpecError, match=message):
        odtk.recognise(graph, {})


def live_model(**changed):
    """The attributes that odtk.model.Model(classes=5) has."""
    scales = [4 * 2 ** (i / 3) for i in range(3)]
    values = {"classes": 5, "ratios": [1.0, 2.0, 0.5], "scales": scales, "stride": 128, "rotated_bbox": False}
    limits = {"threshold": 0.05, "top_n": 1000, "nms": 0.5, "detections": 100}
    return SimpleNamespace(**values | limits | changed)


def test_the_live_model_says_what_the_graph_says(imported):
    _, found = imported
    assert spec_of(live_model(classes=found.spec.num_classes), SIZE) == found.spec


def test_the_live_model_says_what_the_graph_does_not_hold():
    model = live_model(ratios=[1.0], scales=[4.0, 8.0], threshold=0.3, top_n=50, nms=0.4, detections=7)
    spec = spec_of(model, (256, 128), labels=list("abcde"), shortest_side=(200, 256))
    assert spec.cell_anchors[0] == ((-12, -12, 20, 20), (-28, -28, 36, 36))
    assert spec.level_shapes == ((32, 16), (16, 8), (8, 4), (4, 2), (2, 1))
    assert (spec.labels, spec.shortest_side) == (tuple("abcde"), (200, 256))
    assert (spec.score_threshold, spec.top_k, spec.nms_iou, spec.max_detections) == (0.3, 50, 0.4, 7)


@pytest.mark.parametrize(
    ("changed", "size", "labels", "message"),
    [
        ({"rotated_bbox": True}, SIZE, None, "rotated"),
        ({}, (160, 224), None, "multiples of 128, found 160x224"),
        ({}, SIZE, ["cat"], "5 classes, found 1 labels"),
    ],
)
def test_a_live_model_that_cannot_be_described(changed, size, labels, message):
    with pytest.raises(SpecError, match=message):
        spec_of(live_model(**changed), size, labels=labels)
