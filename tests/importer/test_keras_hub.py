import numpy as np
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, Heads, assert_same, corner, detect, flat, golden_rows, load, session_of

from edge_retina.errors import SpecError
from edge_retina.importer import keras_hub
from edge_retina.importer.imported import HeadLayout
from edge_retina.rewrite import rewrite
from edge_retina.spec import METADATA_KEY, cell_anchors

HEAD_STEP = 61  # every so many values are in the golden files; see fixtures/make_keras_hub.py

SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
COMMON = {
    "family": "keras_hub",
    "color_order": "rgb",
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "pad_value": (0.0, 0.0, 0.0),
    "resize": "letterbox",
    "placement": "center",
    "cell_anchors": tuple(cell_anchors(sizes, (0.5, 1.0, 2.0), rounded=True) for sizes in SIZES),
    "box_coding": "center",
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": 80.0,
    "clip": "none",
    "score_threshold": 0.5,
    "class_choice": "best",
    "top_k": 5000,
    "top_k_scope": "all",
    "nms_iou": 0.5,
    "class_aware_nms": False,
    "max_detections": 100,
}
SMALL = {
    "input_size": (160, 224),
    "strides": ((8, 8), (16, 16), (32, 32), (53, 56), (80, 112)),  # 160 // 3 where a level is 3 cells high
    "level_shapes": ((20, 28), (10, 14), (5, 7), (3, 4), (2, 2)),
}
WANTED = {
    "keras_hub_v1_ts": {**COMMON, **SMALL, "labels": tuple(f"class_{i}" for i in range(5))},
    "keras_hub_v1_dynamo": {
        **COMMON,
        "labels": tuple(f"class_{i}" for i in range(3)),
        "input_size": (192, 256),
        "strides": ((8, 8), (16, 16), (32, 32), (64, 64), (96, 128)),
        "level_shapes": ((24, 32), (12, 16), (6, 8), (3, 4), (2, 2)),
    },
    "keras_hub_v2_tf": {**COMMON, **SMALL, "labels": tuple(f"class_{i}" for i in range(4))},
}
LAYOUTS = {"keras_hub_v1_ts": "nhwc", "keras_hub_v1_dynamo": "nhwc", "keras_hub_v2_tf": "nchw"}


@pytest.fixture(scope="module", params=WANTED)
def imported(request):
    found = keras_hub.recognise(load(request.param), {})
    assert found is not None
    return request.param, found


def test_a_graph_without_nodes_is_none():
    assert keras_hub.recognise(gs.Graph(), {}) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v2_raw_ts", "tv_v1_whole_ts", "effdet_d0_dynamo"])
def test_another_family_is_none(name):
    assert keras_hub.recognise(load(name), {}) is None


def test_our_own_metadata_goes_first():
    assert keras_hub.recognise(load("keras_hub_v2_tf"), {METADATA_KEY: "{}"}) is None


def test_spec_is_the_known_one(imported):
    name, found = imported
    assert {field: getattr(found.spec, field) for field in WANTED[name]} == WANTED[name]


def test_every_field_has_its_origin(imported):
    name, found = imported
    from_graph = {"family", "input_size", "level_shapes"}
    assert found.spec.origins == {field: "graph" if field in from_graph else "family" for field in WANTED[name]}


def test_heads_are_the_tensors_nearest_to_the_convolutions(imported):
    name, found = imported
    assert found.layout == HeadLayout(input="nhwc", heads=LAYOUTS[name])
    assert found.trunk_input == "images"
    tensors = load(name).tensors()
    for head in (*found.logits, *found.deltas):
        near = [node.op for node in (tensors[head].inputs[0], tensors[head].inputs[0].i())]
        assert LAYOUTS[name] == "nhwc" or near[0] == "Conv"
        assert "Reshape" not in near


def test_heads_equal_keras_hubs(imported):
    name, found = imported
    heads = Heads(load(name), found)
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            kinds = zip(("cls_logits", "bbox_regression"), heads(corner(photo, found.spec.input_size)), strict=True)
            for key, maps in kinds:
                last = [m.transpose(0, 2, 3, 1) if found.layout.heads == "nchw" else m for m in maps]
                np.testing.assert_allclose(flat(last)[::HEAD_STEP], golden[f"{photo}.{key}"], atol=5e-4)


def test_photographs_give_keras_hubs_detections(imported):
    name, found = imported
    session = session_of(rewrite(load(name), found))
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            ours = detect(session, corner(photo, found.spec.input_size))
            assert_same(ours, golden_rows(golden, photo), found.spec, photo)


def test_graph_is_left_as_it_was():
    graph = load("keras_hub_v1_ts")
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    keras_hub.recognise(graph, {})
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_kerascv_codes_boxes_otherwise():
    graph = load("keras_hub_v2_tf")
    for tensor, name in zip(graph.outputs, ("box", "classification"), strict=True):
        tensor.name = name
    assert keras_hub.recognise(graph, {}) is None


def test_outputs_in_another_order():
    """Four classes look like boxes and go by order; three do not."""
    graph = load("keras_hub_v1_dynamo")
    found = keras_hub.recognise(graph, {})
    graph.outputs.reverse()
    assert keras_hub.recognise(graph, {}) == found


@pytest.mark.parametrize("name", WANTED)
def test_open_size_is_refused(name):
    graph = load(name)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            keep = tensor.name == "images" or tensor in graph.outputs
            tensor.shape = [1, "height", "width", 3] if tensor.name == "images" else tensor.shape if keep else None
    with pytest.raises(SpecError, match="export with a fixed image size"):
        keras_hub.recognise(graph, {})


def test_other_anchors_are_refused():
    """Three anchors per cell: 12 of the 36 box channels and the first 3 x 3 of the class channels."""
    graph = load("keras_hub_v2_tf")
    for node in graph.nodes:
        if node.op == "Conv" and len(node.inputs[1].values) == 36:
            for i in (1, 2):
                node.inputs[i] = gs.Constant(f"{node.name}{i}", node.inputs[i].values[:12])
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor not in graph.inputs:
            tensor.shape = None if tensor not in graph.outputs else [1, None, 4]
    with pytest.raises(SpecError, match="wanted its 9 anchors per cell, found 3"):
        keras_hub.recognise(graph, {})
