import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, Heads, assert_same, flat, golden_rows, middle, rows_of, tidied

from edge_retina import Detector, build
from edge_retina.errors import SpecError
from edge_retina.importer import detectron2
from edge_retina.importer.heads import static_copy
from edge_retina.spec import MAX_LOG_SCALE, METADATA_KEY

SIZE = (160, 224)
# Every so many head values are in the golden files; see fixtures/make_detectron2.py.
HEAD_STEP = 61

COMMON = {
    "family": "detectron2",
    "input_size": SIZE,
    "color_order": "bgr",
    "mean": (103.53, 116.28, 123.675),
    "pad_value": (103.53, 116.28, 123.675),
    "resize": "shortest_side",
    "shortest_side": (800, 1333),
    "rounding": "half_up",
    "placement": "top_left",
    "strides": ((8, 8), (16, 16), (32, 32), (64, 64), (128, 128)),
    "level_shapes": ((20, 28), (10, 14), (5, 7), (3, 4), (2, 2)),
    "clip": "after_nms",
    "drop_empty": True,
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "class_aware_nms": True,
}
RAW = {**COMMON, "score_threshold": 0.05, "top_k": 1000, "nms_iou": 0.5, "max_detections": 100}
WANTED = {
    "detectron2_raw_ts": {**RAW, "std": (1.0, 1.0, 1.0), "labels": tuple(f"class_{i}" for i in range(12))},
    "detectron2_raw_dynamo": {**RAW, "std": (57.375, 57.12, 58.395), "labels": tuple(f"class_{i}" for i in range(5))},
    "detectron2_whole_ts": {
        **COMMON,
        "std": (57.375, 57.12, 58.395),
        "labels": tuple(f"class_{i}" for i in range(6)),
        "score_threshold": 0.1,
        "top_k": 200,
        "nms_iou": 0.4,
        "max_detections": 60,
    },
}
# The first anchors of the finest level and the last of the coarsest, by hand: width = size / sqrt(ratio).
RAW_FIRST = [
    (-22.627417, -11.313708, 22.627417, 11.313708),
    (-16, -16, 16, 16),
    (-11.313708, -22.627417, 11.313708, 22.627417),
]
RAW_LAST = (-287.3503, -574.7006, 287.3503, 574.7006)  # 512 * 2 ** (2/3) = 812.7493, ratio 2
WHOLE_FIRST = [(-11.491933, -5.295160, 19.491933, 13.295160), (-8, -8, 16, 16)]  # 24, ratio 0.6, half a stride of 8
WHOLE_LAST = (-156.8859, -311.5060, 284.8859, 439.5060)  # 576, ratio 1.7, about 64
IN_EVERY_GRAPH = {"family", "input_size", "level_shapes", "color_order", "mean", "std", "pad_value"}
IN_WHOLE_GRAPH = {"strides", "cell_anchors", "delta_weights", "max_log_scale"}
IN_WHOLE_GRAPH |= {"score_threshold", "top_k", "nms_iou", "max_detections"}


@pytest.fixture(scope="module", params=WANTED)
def imported(request):
    found = detectron2.recognise(tidied(request.param), {})
    assert found is not None
    return request.param, found


def test_nothing_there():
    assert detectron2.recognise(gs.Graph(), {}) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v1_raw_dynamo", "tv_v2_whole_ts", "odtk_resnet18_ts"])
def test_other_families_are_left_alone(name):
    assert detectron2.recognise(tidied(name), {}) is None


def test_our_own_metadata_goes_first():
    assert detectron2.recognise(tidied("detectron2_raw_ts"), {METADATA_KEY: "{}"}) is None


def test_spec_is_the_known_one(imported):
    name, found = imported
    assert {field: getattr(found.spec, field) for field in WANTED[name]} == WANTED[name]
    assert found.spec.max_log_scale == pytest.approx(MAX_LOG_SCALE, rel=1e-7)


def test_anchors(imported):
    name, found = imported
    cells = found.spec.cell_anchors
    first, last, count = (WHOLE_FIRST, WHOLE_LAST, 6) if "whole" in name else (RAW_FIRST, RAW_LAST, 9)
    assert [len(cell) for cell in cells] == [count] * 5
    np.testing.assert_allclose(cells[0][: len(first)], first, atol=1e-5)
    np.testing.assert_allclose(cells[-1][-1], last, atol=1e-3)


def test_every_field_has_its_origin(imported):
    name, found = imported
    fields = set(WANTED[name]) | {"max_log_scale", "cell_anchors"}
    from_graph = IN_EVERY_GRAPH | (IN_WHOLE_GRAPH if "whole" in name else set())
    assert found.spec.origins == {field: "graph" if field in from_graph else "family" for field in fields}


def test_graph_is_left_as_it_was():
    graph = tidied("detectron2_whole_ts")
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    detectron2.recognise(graph, {})
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_heads_are_detectron2s(imported):
    name, found = imported
    heads = Heads(tidied(name), found)
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            for kind, maps in zip(("logits", "deltas"), heads(middle(photo, SIZE)), strict=True):
                np.testing.assert_allclose(flat(maps)[::HEAD_STEP], golden[f"{photo}.{kind}"], atol=1e-4)


@pytest.mark.parametrize("name", WANTED)
def test_detections_are_detectron2s(name, tmp_path):
    with (
        np.load(FIXTURES / f"{name}.npz") as golden,
        Detector.load(build(FIXTURES / f"{name}.onnx", tmp_path / "m.edge").path) as detector,
    ):
        for photo in PHOTOS:
            found = detector(middle(photo, SIZE))
            assert_same(rows_of(found), golden_rows(golden, photo), detector.spec, photo)


def renamed(graph):
    """As an optimiser may leave it: numbers for names."""
    for number, node in enumerate(graph.nodes):
        node.name = str(number)
    for number, tensor in enumerate(graph.tensors().values()):
        tensor.name = f"t{number}"
    return graph


def test_without_names(imported):
    name, found = imported
    again = detectron2.recognise(renamed(tidied(name)), {})
    assert again.spec == found.spec
    assert again.spec.origins == found.spec.origins


def test_neither_names_nor_mean():
    """Then it may as well be MMDetection's, which orders anchors differently."""
    graph = tidied("detectron2_raw_ts")
    stem = next(node for node in graph.nodes if node.op == "Conv")
    graph.inputs = [stem.inputs[0]]
    stem.inputs[0].inputs.clear()
    stem.inputs[0].shape, stem.inputs[0].dtype = [1, 3, *SIZE], np.float32
    graph.cleanup()
    assert detectron2.recognise(renamed(graph.copy()), {}) is None
    spec = detectron2.recognise(graph, {}).spec
    assert (spec.mean, spec.std, spec.color_order) == ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "bgr")
    assert {spec.origins[field] for field in ("mean", "std", "pad_value", "color_order")} == {"family"}


def test_mean_of_a_model_that_wants_rgb():
    graph = tidied("detectron2_raw_dynamo")
    subtract = next(node for node in graph.nodes if node.op == "Sub")
    subtract.inputs[1].values = subtract.inputs[1].values[::-1].copy()
    spec = detectron2.recognise(graph, {}).spec
    assert (spec.color_order, spec.mean) == ("rgb", (123.675, 116.28, 103.53))


def test_pixels_from_0_to_1():
    graph = tidied("detectron2_raw_ts")
    subtract = next(node for node in graph.nodes if node.op == "Sub")
    pixels = gs.Variable("pixels", np.float32, graph.inputs[0].shape)
    times = gs.Node(
        "Mul", "times", inputs=[graph.inputs[0], gs.Constant("full", np.array(255, np.float32))], outputs=[pixels]
    )
    graph.nodes.insert(0, times)
    subtract.inputs[0] = pixels
    spec = detectron2.recognise(graph, {}).spec
    np.testing.assert_allclose((spec.mean, spec.std), ((103.53, 116.28, 123.675), (1, 1, 1)), rtol=1e-6)


def test_simplified_whole_export():
    found = detectron2.recognise(static_copy(tidied("detectron2_whole_ts")), {})
    wanted = WANTED["detectron2_whole_ts"]
    assert {field: getattr(found.spec, field) for field in wanted} == wanted


@pytest.mark.parametrize(("named", "bias", "logits_of"), [(True, 10, "cls"), (False, 0, "cls"), (False, 10, "bbox")])
def test_four_classes(named, bias, logits_of):
    """Then both subnets have 36 channels: told by name, or else by the lower bias, which is the class scores'."""
    graph = tidied("detectron2_raw_ts")
    finals = {"cls": [], "bbox": []}
    for node in graph.nodes:
        if node.op == "Conv" and node.name.startswith(("/head/cls_score", "/head/bbox_pred")):
            finals["cls" if "cls" in node.name else "bbox"].append(node)
    for node in finals["cls"]:
        for tensor in node.inputs[1:]:
            tensor.values = tensor.values[:36]
        node.inputs[2].values = node.inputs[2].values + bias / 5  # the five share it
        node.outputs[0].shape[1] = 36
    wanted = tuple(node.outputs[0].name for node in finals[logits_of])
    for thing in [] if named else [*graph.tensors().values(), *graph.nodes]:
        thing.name = thing.name.replace("cls_score", "one").replace("bbox_pred", "other")
    found = detectron2.recognise(graph, {})
    assert found.logits == wanted
    assert found.spec.num_classes == 4


def test_anchors_that_are_not_the_defaults_are_refused():
    model = onnx.load(FIXTURES / "detectron2_raw_ts.onnx")
    graph = gs.import_onnx(model)
    for node in graph.nodes:
        if node.op == "Conv" and "bbox_pred" in node.name:
            for tensor in node.inputs[1:]:
                tensor.values = tensor.values[:12]
            node.outputs[0].shape[1] = 12
    with pytest.raises(SpecError, match=r"3 anchors per cell.*export_detectron2"):
        detectron2.recognise(graph, {})


def test_dynamic_size_is_refused():
    graph = tidied("detectron2_raw_dynamo")
    graph.inputs[0].shape = [1, 3, "height", "width"]
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor is not graph.inputs[0]:
            tensor.shape = None
    with pytest.raises(SpecError, match="export with a fixed image size"):
        detectron2.recognise(graph, {})
