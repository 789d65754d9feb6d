from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from bilinear import resize
from matching import match

from edge_retina import boxes, importer
from edge_retina.errors import SpecError
from edge_retina.geometry import fit_frame
from edge_retina.importer import heads, torchvision
from edge_retina.importer.exporters.torchvision import export_torchvision
from edge_retina.importer.labels import COCO_91
from edge_retina.spec import MAX_LOG_SCALE, METADATA_KEY, cell_anchors

FIXTURES = Path(__file__).parents[1] / "fixtures"
PHOTOS = ("astronaut", "chelsea", "coffee")
# Every so many values are in the golden files; see fixtures/make_torchvision.py.
HEAD_STEP, INPUT_STEP = 61, 997

FIVE = tuple(f"class_{i}" for i in range(5))
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
COMMON = {
    "family": "torchvision",
    "color_order": "rgb",
    "resize": "shortest_side",
    "placement": "top_left",
    "cell_anchors": tuple(cell_anchors(sizes, (0.5, 1.0, 2.0), rounded=True) for sizes in SIZES),
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": MAX_LOG_SCALE,
    "class_aware_nms": True,
}
DEFAULTS = {"score_threshold": 0.05, "top_k": 1000, "nms_iou": 0.5, "max_detections": 300}
RAW = {
    **COMMON,
    **DEFAULTS,
    **IMAGENET,
    "input_size": (160, 224),
    "shortest_side": (800, 1333),
    "strides": ((8, 8), (16, 16), (32, 32), (53, 56), (80, 112)),
    "level_shapes": ((20, 28), (10, 14), (5, 7), (3, 4), (2, 2)),
}
WANTED = {
    "tv_v1_raw_ts": {**RAW, "labels": COCO_91},
    "tv_v1_raw_dynamo": {**RAW, "labels": FIVE},
    "tv_v2_raw_ts": {**RAW, "labels": FIVE},
    "tv_v1_whole_ts": {
        **COMMON,
        **DEFAULTS,
        **IMAGENET,
        "labels": COCO_91,
        "input_size": (256, 352),
        "shortest_side": (256, 352),
        "strides": ((8, 8), (16, 16), (32, 32), (64, 58), (128, 117)),  # 352 // 6 and 352 // 3
        "level_shapes": ((32, 44), (16, 22), (8, 11), (4, 6), (2, 3)),
    },
    "tv_v2_whole_ts": {
        **COMMON,
        "labels": FIVE,
        "mean": (102.0, 127.5, 114.75),
        "std": (63.75, 51.0, 76.5),
        "input_size": (192, 320),
        "shortest_side": (192, 320),
        "strides": ((8, 8), (16, 16), (32, 32), (64, 64), (96, 106)),
        "level_shapes": ((24, 40), (12, 20), (6, 10), (3, 5), (2, 3)),
        "score_threshold": 0.2,
        "top_k": 150,
        "nms_iou": 0.4,
        "max_detections": 60,
    },
}
# What no torchvision export holds, and what a raw one does not hold either.
NEVER_IN_GRAPH = {"labels", "color_order", "class_aware_nms"}
IN_RAW_GRAPH = {"family", "input_size", "level_shapes"}


def load(name):
    return gs.import_onnx(onnx.load(FIXTURES / f"{name}.onnx"))


@pytest.fixture(scope="module", params=WANTED)
def imported(request):
    found = torchvision.recognise(load(request.param), {})
    assert found is not None
    return request.param, found


def test_spec_is_the_known_one(imported):
    name, found = imported
    wanted = {**WANTED[name], "pad_value": WANTED[name]["mean"]}
    # The graph holds the clamp as float32.
    assert found.spec.max_log_scale == pytest.approx(wanted["max_log_scale"], rel=1e-7)
    got = {field: getattr(found.spec, field) for field in wanted} | {"max_log_scale": wanted["max_log_scale"]}
    assert got == wanted


def test_every_field_has_its_origin(imported):
    name, found = imported
    fields = set(WANTED[name]) | {"pad_value", "rounding"}
    from_graph = IN_RAW_GRAPH if "raw" in name else fields - NEVER_IN_GRAPH - {"rounding"}
    assert found.spec.origins == {field: "graph" if field in from_graph else "family" for field in fields}


def test_head_names_are_in_the_graph(imported):
    name, found = imported
    tensors = load(name).tensors()
    assert {found.trunk_input, *found.logits, *found.deltas} <= set(tensors)
    assert len(found.logits) == len(found.deltas) == found.spec.num_levels
    assert all(tensors[head].inputs[0].op == "Conv" for head in (*found.logits, *found.deltas))


def network_input(spec, frame):
    """The normalised batch of one BGR uint8 frame, and where the frame lies on it."""
    geometry = fit_frame(spec, *frame.shape[:2])
    (height, width), (y, x) = geometry.content, geometry.offset
    rgb = np.ascontiguousarray(frame[..., ::-1]).astype(np.float32)
    canvas = np.tile(np.float32(spec.pad_value), (*spec.input_size, 1))
    canvas[y : y + height, x : x + width] = resize(rgb, height, width)
    return ((canvas - np.float32(spec.mean)) / np.float32(spec.std)).transpose(2, 0, 1)[None], geometry


def cut(graph, found):
    """A session on the graph between the trunk's input and the heads."""
    tensors = graph.tensors()
    trunk = tensors[found.trunk_input]
    trunk.inputs.clear()
    trunk.shape = (1, 3, *found.spec.input_size)
    graph.inputs, graph.outputs = [trunk], [tensors[name] for name in (*found.logits, *found.deltas)]
    for tensor in (*graph.inputs, *graph.outputs):
        tensor.dtype = np.float32
    model = gs.export_onnx(graph.cleanup())
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_photographs_give_torchvisions_detections(imported):
    name, found = imported
    spec, session = found.spec, cut(load(name), found)
    golden = np.load(FIXTURES / f"{name}.npz")
    for photo in PHOTOS:
        batch, geometry = network_input(spec, cv2.imread(str(FIXTURES / "photos" / f"{photo}.png")))
        np.testing.assert_allclose(batch.ravel()[::INPUT_STEP], golden[f"{photo}.input"], atol=1e-5)
        outputs = [out[0] for out in session.run(None, {found.trunk_input: np.ascontiguousarray(batch)})]
        logits, deltas = outputs[: spec.num_levels], outputs[spec.num_levels :]
        for key, head in (("cls_logits", logits), ("bbox_regression", deltas)):
            rows = np.concatenate([boxes.to_anchor_rows(level, 9) for level in head])
            np.testing.assert_allclose(rows.ravel()[::HEAD_STEP], golden[f"{photo}.{key}"], atol=5e-4)
        wanted = tuple(golden[f"{photo}.{key}"] for key in ("boxes", "scores", "labels"))
        report = match(
            boxes.detect(logits, deltas, spec, geometry),
            wanted,
            threshold=spec.score_threshold,
            limit=spec.max_detections,
        )
        assert report.ok, f"{photo}: {report}"
        assert report.matched >= 0.95 * len(wanted[1])


def test_graph_is_left_as_it_was():
    graph = load("tv_v1_whole_ts")
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    torchvision.recognise(graph, {})
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_simplified_whole_export():
    """Folding leaves only the sizes of the resize: 240 x 330 became 255 x 351, one float32 short of 256 x 352."""
    graph = heads.static_copy(load("tv_v1_whole_ts"))
    found = torchvision.recognise(graph, {})
    wanted = WANTED["tv_v1_whole_ts"]
    assert found.spec.shortest_side == (255, 351)
    assert found.spec.input_size == wanted["input_size"]
    assert found.spec.strides == wanted["strides"]
    assert found.spec.top_k == wanted["top_k"]
    assert set(found.spec.origins.values()) == {"graph", "family"}


def test_our_own_metadata_goes_first():
    assert torchvision.recognise(load("tv_v1_raw_dynamo"), {METADATA_KEY: "{}"}) is None


def test_dynamic_batch():
    graph = load("tv_v2_raw_ts")
    graph.inputs[0].shape = ["batch", 3, 160, 224]
    assert torchvision.recognise(graph, {}).spec.input_size == (160, 224)


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v1_raw_dynamo"])
def test_dynamic_size_is_refused(name):
    graph = load(name)
    graph.inputs[0].shape = [1, 3, "height", "width"]
    with pytest.raises(SpecError, match="export with a fixed image size"):
        torchvision.recognise(graph, {})


def test_open_height_and_width_are_the_users():
    """The sizes inside come from the sample, those of the input from the user."""
    size = {"input_size": [160, 224]}
    source, fixed = (importer.load_onnx(FIXTURES / "tv_v2_raw_ts.onnx") for _ in range(2))
    source.graph.inputs[0].shape = ["batch", 3, "height", "width"]
    assert importer.import_model(source, overrides=size) == importer.import_model(fixed, overrides=size)


def test_external_data(tmp_path):
    model = onnx.load(FIXTURES / "tv_v2_raw_ts.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    source = importer.load_onnx(tmp_path / "m.onnx")
    assert (tmp_path / "m.data").stat().st_size > (tmp_path / "m.onnx").stat().st_size
    assert torchvision.recognise(source.graph, source.metadata) == torchvision.recognise(load("tv_v2_raw_ts"), {})


def transform(**changes):
    return SimpleNamespace(
        **{"size_divisible": 32, "fixed_size": None, "min_size": (800,), "max_size": 1333, **changes}
    )


def retinanet(**changes):
    parts = ("anchor_generator", "backbone", "box_coder", "head", "score_thresh", "topk_candidates")
    return SimpleNamespace(**dict.fromkeys(parts), transform=transform(**changes))


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (SimpleNamespace(backbone=None), None, "found a SimpleNamespace without anchor_generator, box_coder"),
        (retinanet(), (540, 960), r"use size=\(544, 960\)"),
        (retinanet(fixed_size=(960, 540)), None, "stretches images to fixed_size 540x960"),
        (retinanet(fixed_size=(960, 544)), (960, 544), "stretches images to fixed_size 544x960"),
    ],
)
def test_models_that_are_not_exported(model, size, message, tmp_path):
    with pytest.raises(SpecError, match=message):
        export_torchvision(model, tmp_path / "m.onnx", size=size)
