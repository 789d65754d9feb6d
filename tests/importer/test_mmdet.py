from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, Heads, assert_same, detect, flat, golden_rows, load, middle, session_of

from edge_retina.errors import SpecError
from edge_retina.importer import labels, mmdet
from edge_retina.importer.imported import HeadLayout
from edge_retina.rewrite import rewrite
from edge_retina.spec import MAX_LOG_SCALE, METADATA_KEY

HEAD_STEP = 251  # every so many values are in the golden files; see fixtures/make_mmdet.py

COMMON = {
    "family": "mmdet",
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "half_up",
    "placement": "top_left",
    "strides": ((8, 8), (16, 16), (32, 32), (64, 64), (128, 128)),
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": MAX_LOG_SCALE,
    "clip": "content",
    "drop_empty": True,
    "score_threshold": 0.05,
    "top_k": 1000,
    "nms_iou": 0.5,
    "class_aware_nms": True,
    "max_detections": 100,
}
WANTED = {
    "mmdet_ts": {
        **COMMON,
        "labels": labels.COCO_80,
        "color_order": "rgb",
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "input_size": (160, 224),
        "level_shapes": ((20, 28), (10, 14), (5, 7), (3, 4), (2, 2)),
    },
    "mmdet_caffe_dynamo": {
        **COMMON,
        "labels": tuple(f"class_{i}" for i in range(5)),
        "color_order": "bgr",
        "mean": (103.53, 116.28, 123.675),
        "std": (1.0, 1.0, 1.0),
        "input_size": (192, 256),
        "level_shapes": ((24, 32), (12, 16), (6, 8), (3, 4), (2, 2)),
    },
}


def without_names(graph):
    """What a tool leaves that numbers every node and tensor."""
    outside = {id(t) for t in (*graph.inputs, *graph.outputs)}
    for index, tensor in enumerate(graph.tensors().values()):
        tensor.name = tensor.name if id(tensor) in outside else str(index)
    for index, node in enumerate(graph.nodes):
        node.name = str(index)
    return graph


def forget_shapes(graph, shape):
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = shape if tensor.name == "input" else None
    return graph


@pytest.fixture(scope="module", params=WANTED)
def imported(request):
    found = mmdet.recognise(load(request.param), {})
    assert found is not None
    return request.param, found


def test_a_graph_without_nodes_is_no_mmdet():
    assert mmdet.recognise(gs.Graph(), {}) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v2_whole_ts", "detectron2_raw_ts", "effdet_d0_dynamo"])
def test_other_families_are_no_mmdet(name):
    assert mmdet.recognise(load(name), {}) is None


def test_our_own_metadata_goes_first():
    assert mmdet.recognise(load("mmdet_ts"), {METADATA_KEY: "{}"}) is None


def test_labels_of_coco():
    assert len(labels.COCO_80) == 80
    assert (labels.COCO_80[0], labels.COCO_80[11], labels.COCO_80[79]) == ("person", "stop sign", "toothbrush")


def test_spec_is_the_known_one(imported):
    name, found = imported
    wanted = {**WANTED[name], "pad_value": WANTED[name]["mean"]}
    assert {field: getattr(found.spec, field) for field in wanted} == wanted


def test_anchors_are_not_rounded(imported):
    """Four strides high and wide, ratio 0.5 first: 32 / sqrt(0.5) wide, 32 * sqrt(0.5) high."""
    cells = imported[1].spec.cell_anchors
    assert [len(cell) for cell in cells] == [9] * 5
    np.testing.assert_allclose(cells[0][0], (-22.6274, -11.3137, 22.6274, 11.3137), atol=1e-4)
    np.testing.assert_allclose(cells[0][4], (-20.1587, -20.1587, 20.1587, 20.1587), atol=1e-4)
    np.testing.assert_allclose(cells[4][3], (-256, -256, 256, 256), atol=1e-4)


def test_every_field_has_its_origin(imported):
    name, found = imported
    from_graph = {"family", "input_size", "level_shapes"}
    fields = {*WANTED[name], "cell_anchors", "pad_value"}
    assert found.spec.origins == {field: "graph" if field in from_graph else "family" for field in fields}


def test_heads_are_the_outputs(imported):
    _, found = imported
    assert found.trunk_input == "input"
    assert found.logits == tuple(f"cls_{i}" for i in range(5))
    assert found.deltas == tuple(f"bbox_{i}" for i in range(5))
    assert found.layout == HeadLayout()


def test_heads_equal_mmdets(imported):
    name, found = imported
    heads = Heads(load(name), found)
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            for key, maps in zip(("logits", "deltas"), heads(middle(photo, found.spec.input_size)), strict=True):
                np.testing.assert_allclose(flat(maps)[::HEAD_STEP], golden[f"{photo}.{key}"], atol=5e-4)


@pytest.mark.parametrize("name", WANTED)
def test_photographs_give_mmdets_detections(name):
    graph = load(name)
    found = mmdet.recognise(graph, {})
    session, spec = session_of(rewrite(graph, found)), found.spec
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            ours = detect(session, middle(photo, spec.input_size))
            assert_same(ours, golden_rows(golden, photo), spec, photo)


@pytest.mark.parametrize("name", WANTED)
def test_known_without_names(name):
    plain, nameless = mmdet.recognise(load(name), {}), mmdet.recognise(without_names(load(name)), {})
    assert nameless == replace(plain, spec=nameless.spec)
    assert nameless.spec == plain.spec


def test_neither_name_nor_plain_extra_level():
    """With a ReLU between P6 and P7, as others have it, nameless heads could be anyone's."""
    graph = without_names(load("mmdet_ts"))
    convs = [node for node in graph.nodes if node.op == "Conv" and node.inputs[1].values.shape[2:] == (3, 3)]
    halving = {id(conv): conv for conv in convs if conv.attrs["strides"] == [2, 2]}
    p7 = next(conv for conv in halving.values() if id(conv.i()) in halving)
    between = gs.Variable("between", np.float32)
    graph.nodes.append(gs.Node("Relu", "relu", inputs=[p7.inputs[0]], outputs=[between]))
    p7.inputs[0] = between
    assert mmdet.recognise(graph, {}) is None


def test_normalisation_in_front_is_read():
    graph = load("mmdet_caffe_dynamo")
    image = graph.inputs[0]
    pixels = gs.Variable("pixels", np.float32, image.shape)
    mean = gs.Constant("mean", np.array([103.53, 116.28, 123.675], np.float32).reshape(1, 3, 1, 1))
    graph.nodes.insert(0, gs.Node("Sub", "sub", inputs=[pixels, mean], outputs=[image]))
    graph.inputs = [pixels]
    found = mmdet.recognise(graph, {})
    assert found.trunk_input == "input"
    assert (found.spec.mean, found.spec.color_order) == ((103.53, 116.28, 123.675), "bgr")
    assert {found.spec.origins[field] for field in ("mean", "std", "pad_value", "color_order")} == {"graph"}


def test_graph_is_left_as_it_was():
    graph = load("mmdet_caffe_dynamo")
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    mmdet.recognise(graph, {})
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_open_batch():
    graph = forget_shapes(load("mmdet_caffe_dynamo"), ["batch", 3, 192, 256])
    assert mmdet.recognise(graph, {}).spec.input_size == (192, 256)


def test_open_size_is_refused():
    graph = forget_shapes(load("mmdet_caffe_dynamo"), [1, 3, "height", "width"])
    with pytest.raises(SpecError, match="export with a fixed image size"):
        mmdet.recognise(graph, {})


def test_other_anchors_are_refused():
    graph = load("mmdet_caffe_dynamo")
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.values.shape[:1] == (36,):
            tensor.values = tensor.values[:24]  # six anchors
    with pytest.raises(SpecError, match=r"wanted 9 anchors per cell.*edge_retina\.importer\.exporters\.mmdet"):
        mmdet.recognise(graph, {})


def test_strides_that_are_no_powers_of_two_are_refused():
    graph = load("mmdet_caffe_dynamo")
    graph.inputs[0].shape = [1, 3, 192, 384]
    with pytest.raises(SpecError, match="found"):
        mmdet.recognise(graph, {})
