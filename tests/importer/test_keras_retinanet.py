from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, Heads, assert_same, corner, detect, flat, golden_rows, load, session_of

from edge_retina import boxes
from edge_retina.errors import SpecError
from edge_retina.geometry import Geometry
from edge_retina.importer import keras_hub, keras_retinanet
from edge_retina.importer.imported import HeadLayout
from edge_retina.rewrite import rewrite
from edge_retina.spec import METADATA_KEY

HEAD_STEP = 61  # every so many values are in the golden files; see fixtures/make_keras_retinanet.py

COMMON = {
    "family": "keras_retinanet",
    "color_order": "bgr",
    "mean": (103.939, 116.779, 123.68),
    "std": (1.0, 1.0, 1.0),
    "pad_value": (103.939, 116.779, 123.68),
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "half_up",
    "placement": "top_left",
    "strides": ((8, 8), (16, 16), (32, 32), (64, 64), (128, 128)),
    "box_coding": "corner",
    "delta_weights": (5.0, 5.0, 5.0, 5.0),
    "clip": "pixels",
    "score_threshold": 0.05,
    "class_choice": "every",
    "top_k": 5000,
    "top_k_scope": "all",
    "nms_iou": 0.5,
    "class_aware_nms": True,
    "max_detections": 300,
}
WANTED = {
    "keras_retinanet_training": {
        **COMMON,
        "labels": tuple(f"class_{i}" for i in range(6)),
        "input_size": (160, 224),
        "level_shapes": ((20, 28), (10, 14), (5, 7), (3, 4), (2, 2)),
    },
    "keras_retinanet_inference": {
        **COMMON,
        "labels": tuple(f"class_{i}" for i in range(3)),
        "input_size": (96, 128),
        "level_shapes": ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1)),
    },
    "keras_retinanet_other": {
        **COMMON,
        "labels": tuple(f"class_{i}" for i in range(4)),
        "input_size": (128, 160),
        "level_shapes": ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2)),
        "score_threshold": 0.2,
        "class_choice": "best",
        "nms_iou": 0.4,
        "class_aware_nms": False,
        "max_detections": 60,
    },
}
# The finest cell's first, fourth and ninth anchor: size 32 about (4, 4), ratios 0.5, 1 and 2, scales 1, 1 and 2^(2/3);
# with other parameters size 24, ratios 0.6, 1 and 1.8, scales 1, 1 and 1.6.
FIRST_ANCHORS = ((-18.6274, -7.3137, 26.6274, 15.3137), (-12, -12, 20, 20), (-13.9594, -31.9188, 21.9594, 39.9188))
OTHER_ANCHORS = ((-11.4919, -5.2952, 19.4919, 13.2952), (-8, -8, 16, 16), (-10.3108, -21.7595, 18.3108, 29.7595))
IN_BOTH = {"family", "input_size", "level_shapes"}
IN_INFERENCE = {"strides", "cell_anchors", "delta_weights", "score_threshold", "class_choice", "nms_iou"}
IN_INFERENCE |= {"class_aware_nms", "max_detections"}


@pytest.fixture(scope="module", params=WANTED)
def imported(request):
    found = keras_retinanet.recognise(load(request.param), {})
    assert found is not None
    return request.param, found


def test_a_graph_without_nodes_is_none():
    assert keras_retinanet.recognise(gs.Graph(), {}) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v1_whole_ts", "effdet_d0_dynamo", "keras_hub_v1_dynamo"])
def test_another_family_is_none(name):
    assert keras_retinanet.recognise(load(name), {}) is None


@pytest.mark.parametrize("name", ["keras_hub_v1_ts", "keras_hub_v2_tf"])
def test_keras_hub_is_none(name):
    assert keras_retinanet.recognise(load(name), {}) is None


@pytest.mark.parametrize("name", WANTED)
def test_keras_hub_knows_none(name):
    assert keras_hub.recognise(load(name), {}) is None


def test_our_own_metadata_goes_first():
    assert keras_retinanet.recognise(load("keras_retinanet_training"), {METADATA_KEY: "{}"}) is None


def test_spec_is_the_known_one(imported):
    name, found = imported
    assert {field: getattr(found.spec, field) for field in WANTED[name]} == WANTED[name]
    first = OTHER_ANCHORS if name == "keras_retinanet_other" else FIRST_ANCHORS
    cells = found.spec.cell_anchors
    assert [len(cell) for cell in cells] == [9] * 5
    np.testing.assert_allclose([cells[0][i] for i in (0, 3, 8)], first, atol=1e-4)
    # Every level doubles the one before, about the middle of its own cell.
    for level in range(5):
        about = np.array(cells[level]) - 4 * 2**level
        np.testing.assert_allclose(about, (np.array(cells[0]) - 4) * 2**level, atol=1e-3)


def test_every_field_has_its_origin(imported):
    name, found = imported
    from_graph = IN_BOTH if name.endswith("training") else IN_BOTH | IN_INFERENCE
    fields = {*WANTED[name], "cell_anchors"}
    assert found.spec.origins == {field: "graph" if field in from_graph else "family" for field in fields}


def test_heads_are_the_convolutions(imported):
    name, found = imported
    tensors = load(name).tensors()
    assert found.layout == HeadLayout(input="nhwc")
    assert all(tensors[head].inputs[0].op == "Conv" for head in (*found.logits, *found.deltas))


def test_heads_equal_keras_retinanets(imported):
    name, found = imported
    heads = Heads(load(name), found)
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            kinds = heads(corner(photo, found.spec.input_size))
            logits, deltas = (flat([m.transpose(0, 2, 3, 1) for m in maps])[::HEAD_STEP] for maps in kinds)
            np.testing.assert_allclose(deltas, golden[f"{photo}.regression"], atol=5e-4)
            np.testing.assert_allclose(boxes.sigmoid(logits), golden[f"{photo}.classification"], atol=1e-4)


@pytest.mark.parametrize("nms", ["operator", "fixpoint"])
def test_photographs_give_keras_retinanets_detections(imported, nms):
    """Among the boxes of the training fixture is one whose lower edge lies above its upper one, and it suppresses."""
    name, found = imported
    spec = found.spec.override("user", top_k=600)  # the fixpoint form compares every pair of candidates; here are 409
    session = session_of(rewrite(load(name), replace(found, spec=spec), nms=nms))
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            ours = detect(session, corner(photo, spec.input_size))
            assert_same(ours, golden_rows(golden, photo), spec, photo)


def test_reference_gives_keras_retinanets_detections(imported):
    name, found = imported
    spec, heads = found.spec, Heads(load(name), found)
    whole = Geometry(spec.input_size, spec.input_size, (0, 0))
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            logits, deltas = ([m[0] for m in maps] for maps in heads(corner(photo, spec.input_size)))
            assert_same(boxes.detect(logits, deltas, spec, whole), golden_rows(golden, photo), spec, photo)


@pytest.mark.parametrize("name", WANTED)
def test_graph_is_left_as_it_was(name):
    graph = load(name)
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    keras_retinanet.recognise(graph, {})
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_open_batch():
    graph = load("keras_retinanet_training")
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = ["batch", 160, 224, 3] if tensor.name == "images" else None
    assert (
        keras_retinanet.recognise(graph, {}).spec
        == keras_retinanet.recognise(load("keras_retinanet_training"), {}).spec
    )


def test_open_size_is_refused():
    graph = load("keras_retinanet_training")
    graph.inputs[0].shape = [1, "height", "width", 3]
    with pytest.raises(SpecError, match="fixed image size"):
        keras_retinanet.recognise(graph, {})


def test_depthwise_backbones_take_pixels_from_minus_one_to_one():
    graph = load("keras_retinanet_training")
    conv = next(node for node in graph.nodes if node.op == "Conv" and node.inputs[1].shape[1] == 4)
    conv.attrs["group"], conv.inputs[1] = 4, gs.Constant("depthwise", np.ones((4, 1, 3, 3), np.float32))
    spec = keras_retinanet.recognise(graph, {}).spec
    assert (spec.mean, spec.std, spec.origins["mean"]) == ((127.5,) * 3, (127.5,) * 3, "family")


def test_squeeze_and_excitation_is_refused():
    graph = load("keras_retinanet_training")
    relu = next(node for node in graph.nodes if node.op == "Relu")
    relu.op = "Sigmoid"
    with pytest.raises(SpecError, match="knows it by the backbone"):
        keras_retinanet.recognise(graph, {})


def test_other_anchors_of_a_training_model_are_refused():
    """Three anchors per cell: 12 of the 36 box channels and 18 of the 54 class channels."""
    graph = load("keras_retinanet_training")
    for node in graph.nodes:
        wanted = {36: 12, 54: 18}.get(len(node.inputs[1].values)) if node.op == "Conv" else None
        for i in (1, 2) if wanted else ():
            node.inputs[i] = gs.Constant(f"{node.name}{i}", node.inputs[i].values[:wanted])
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor not in graph.inputs:
            tensor.shape = None
    for tensor, channels in zip(graph.outputs, (4, 6), strict=True):
        tensor.shape = [1, None, channels]
    with pytest.raises(SpecError, match="found 3 on 5"):
        keras_retinanet.recognise(graph, {})
