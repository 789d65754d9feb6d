import numpy as np
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, Heads, assert_same, detect, flat, golden_rows, load, middle, session_of

from edge_retina.errors import SpecError
from edge_retina.importer import effdet
from edge_retina.importer.imported import HeadLayout
from edge_retina.importer.labels import COCO_91
from edge_retina.rewrite import rewrite
from edge_retina.spec import METADATA_KEY

HEAD_STEP = 509  # every so many values are in the golden files; see fixtures/make_effdet.py

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "pad_value": (124.0, 116.0, 104.0)}
HALF = {"mean": (127.5,) * 3, "std": (127.5,) * 3, "pad_value": (128.0,) * 3}
COMMON = {
    "family": "effdet",
    "color_order": "rgb",
    "resize": "letterbox",
    "rounding": "floor",
    "placement": "top_left",
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": 80.0,
    "clip": "content",
    "score_threshold": 0.0,
    "top_k": 5000,
    "top_k_scope": "all",
    "nms_iou": 0.5,
    "class_aware_nms": True,
    "max_detections": 100,
}
FINE = ((8, 8), (16, 16), (32, 32), (64, 64))
WANTED = {
    "effdet_tf_ts": {
        **COMMON,
        **IMAGENET,
        "labels": tuple(f"class_{i}" for i in range(7)),
        "input_size": (192, 256),
        "strides": (*FINE, (96, 128)),  # 192 is 1.5 x 128: the last level has 2 rows, not 1
        "level_shapes": ((24, 32), (12, 16), (6, 8), (3, 4), (2, 2)),
    },
    "effdet_d0_dynamo": {
        **COMMON,
        **IMAGENET,
        "labels": COCO_91[1:],
        "input_size": (128, 256),
        "strides": (*FINE, (128, 128)),
        "level_shapes": ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2)),
    },
    "effdet_lite_dynamo": {
        **COMMON,
        **HALF,
        "labels": tuple(f"class_{i}" for i in range(4)),
        "input_size": (256, 128),
        "strides": (*FINE, (128, 128)),
        "level_shapes": ((32, 16), (16, 8), (8, 4), (4, 2), (2, 1)),
    },
}
# Anchors 0, 1 and 3 of the finest cell: 4 x 8 pixels about (4, 4); 1.4 x 0.7 of that; 2 ^ (1/3) of it. Lite: 3 x 8.
FIRST_ANCHORS = {
    "effdet_tf_ts": ((-12, -12, 20, 20), (-18.4, -7.2, 26.4, 15.2), (-16.1587, -16.1587, 24.1587, 24.1587)),
    "effdet_d0_dynamo": ((-12, -12, 20, 20), (-18.4, -7.2, 26.4, 15.2), (-16.1587, -16.1587, 24.1587, 24.1587)),
    "effdet_lite_dynamo": ((-8, -8, 16, 16), (-12.8, -4.4, 20.8, 12.4), (-11.1191, -11.1191, 19.1191, 19.1191)),
}


@pytest.fixture(scope="module", params=WANTED)
def imported(request):
    found = effdet.recognise(load(request.param), {})
    assert found is not None
    return request.param, found


def test_a_graph_without_nodes_is_no_efficientdet():
    assert effdet.recognise(gs.Graph(), {}) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v2_raw_ts", "tv_v1_whole_ts"])
def test_torchvision_is_no_efficientdet(name):
    assert effdet.recognise(load(name), {}) is None


def test_our_own_metadata_goes_first():
    assert effdet.recognise(load("effdet_d0_dynamo"), {METADATA_KEY: "{}"}) is None


def test_spec_is_the_known_one(imported):
    name, found = imported
    wanted = WANTED[name]
    assert {field: getattr(found.spec, field) for field in wanted} == wanted
    cells = found.spec.cell_anchors
    assert [len(cell) for cell in cells] == [9] * 5
    np.testing.assert_allclose([cells[0][i] for i in (0, 1, 3)], FIRST_ANCHORS[name], atol=1e-4)


def test_every_field_has_its_origin(imported):
    name, found = imported
    from_graph = {"family", "input_size", "level_shapes"}
    fields = {*WANTED[name], "cell_anchors"}
    assert found.spec.origins == {field: "graph" if field in from_graph else "family" for field in fields}


def test_heads_are_the_outputs(imported):
    _, found = imported
    assert found.trunk_input == "images"
    assert found.logits == tuple(f"class_{i}" for i in range(5))
    assert found.deltas == tuple(f"box_{i}" for i in range(5))
    assert found.layout == HeadLayout(delta_order=(1, 0, 3, 2))


def test_heads_equal_effdets(imported):
    name, found = imported
    heads = Heads(load(name), found)
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            for key, maps in zip(("logits", "deltas"), heads(middle(photo, found.spec.input_size)), strict=True):
                np.testing.assert_allclose(flat(maps)[::HEAD_STEP], golden[f"{photo}.{key}"], atol=5e-4)


@pytest.mark.parametrize(("clip", "kind"), [("content", ""), ("none", "free_")])
@pytest.mark.parametrize("name", WANTED)
def test_photographs_give_effdets_detections(name, clip, kind):
    """With img_info the bench clips boxes to the picture before NMS; without, never."""
    graph = load(name)
    found = effdet.recognise(graph, {})
    spec = found.spec.override("user", clip=clip)
    session = session_of(rewrite(graph, type(found)(spec, found.trunk_input, found.logits, found.deltas, found.layout)))
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            ours = detect(session, middle(photo, spec.input_size))
            assert_same(ours, golden_rows(golden, photo, kind), spec, photo)


def test_same_padding_is_folded_away():
    """TorchScript works paddings and sizes out of shapes, four nodes of five."""
    graph = load("effdet_tf_ts")
    assert len(graph.nodes) > 1200
    model = rewrite(graph, effdet.recognise(graph, {}))
    ops = [node.op_type for node in model.graph.node if any(name.startswith("model/") for name in node.output)]
    assert len(ops) < 300
    assert not {"Cast", "Ceil", "Gather", "Reshape", "Sub"} & set(ops)


def test_graph_is_left_as_it_was():
    graph = load("effdet_lite_dynamo")
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    effdet.recognise(graph, {})
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_open_batch():
    graph = load("effdet_d0_dynamo")
    for tensor in (*graph.inputs, *graph.outputs):
        tensor.shape = ["batch", *tensor.shape[1:]]
    assert effdet.recognise(graph, {}).spec.input_size == (128, 256)


def test_open_size_is_refused():
    graph = load("effdet_d0_dynamo")
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = [1, 3, "height", "width"] if tensor.name == "images" else None
    with pytest.raises(SpecError, match="export with a fixed image size"):
        effdet.recognise(graph, {})


def test_other_anchors_are_refused():
    graph = load("effdet_d0_dynamo")
    for weight in {
        id(t): t for node in graph.nodes if node.outputs[0].name[:4] == "box_" for t in node.inputs[1:]
    }.values():
        weight.values = weight.values[:24]  # six anchors
    with pytest.raises(SpecError, match=r"wanted 9 anchors per cell.*edge_retina\.importer\.exporters\.effdet"):
        effdet.recognise(graph, {})


def test_a_stride_of_no_whole_pixels_is_refused():
    """The last level of a lite0's 320 x 320 has 3 x 3 cells of 106.67 pixels."""
    graph = load("effdet_lite_dynamo")
    sizes = {"images": 320} | {f"{kind}_{i}": s for kind in ("class", "box") for i, s in enumerate((40, 20, 10, 5, 3))}
    for name, size in sizes.items():
        graph.tensors()[name].shape = [1, graph.tensors()[name].shape[1], size, size]
    wanted = r"wanted .* whole pixels, found 320x320 .* 3x3 cells, 106\.67 by .*; .* multiples of 128, such as 384x384"
    with pytest.raises(SpecError, match=wanted):
        effdet.recognise(graph, {})
