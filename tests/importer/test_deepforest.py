import numpy as np
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, assert_same, golden_rows, head_rows, load, resized, rows_of

from edge_retina import Detector, build
from edge_retina.importer import deepforest, mlperf, torchvision
from edge_retina.spec import METADATA_KEY

# Every so many head values are in the golden files; see fixtures/make_torchvision.py.
HEAD_STEP = 61
WHOLE, RAW = "deepforest_whole_ts", "deepforest_raw_ts"
SIZE = (160, 224)
THRESHOLDS = {"score_threshold": 0.1, "nms_iou": 0.05, "max_detections": 300, "top_k": 1000}
BIRDS = ("Great Egret", "White Ibis", "Wood Stork")


def read(spec, names):
    return {name: getattr(spec, name) for name in names}


def test_nothing_in_an_empty_graph():
    assert deepforest.recognise(gs.Graph(), {}) is None
    assert deepforest.recognise(gs.Graph(), {}, forced=True) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_dynamo", "tv_v2_whole_ts"])
def test_torchvisions_models_are_not_ours(name):
    assert deepforest.recognise(load(name), {}) is None


def test_a_spec_of_its_own_goes_first():
    assert deepforest.recognise(load(WHOLE), {METADATA_KEY: "{}"}, forced=True) is None


@pytest.fixture(scope="module")
def whole():
    found = deepforest.recognise(load(WHOLE), {})
    assert found is not None
    return found


def test_whole_export(whole):
    assert [family.recognise(load(WHOLE), {}) for family in (torchvision, mlperf)] == [None, None]
    spec = whole.spec
    assert spec.family == "deepforest"
    assert spec.labels == ("Tree",)
    assert read(spec, THRESHOLDS) == THRESHOLDS
    assert {spec.origins[name] for name in (*THRESHOLDS, "family", "mean", "cell_anchors")} == {"graph"}
    assert spec.origins["labels"] == "family"


def test_raw_export_is_torchvisions_unless_forced():
    graph = load(RAW)
    assert deepforest.recognise(graph, {}) is None
    assert torchvision.recognise(graph, {}).spec.family == "torchvision"
    spec = deepforest.recognise(graph, {}, forced=True).spec
    assert spec.family == "deepforest"
    assert spec.labels == ("class_0", "class_1", "class_2")
    assert read(spec, THRESHOLDS) == THRESHOLDS
    assert {spec.origins[name] for name in (*THRESHOLDS, "labels")} == {"family"}
    assert spec.origins["input_size"] == "graph"


def test_whole_export_forced_to_be_torchvisions_keeps_what_it_says():
    spec = torchvision.recognise(load(WHOLE), {}, forced=True).spec
    assert spec.family == "torchvision"
    assert read(spec, THRESHOLDS) == THRESHOLDS
    assert spec.labels == ("class_0",)


@pytest.mark.parametrize("name", [WHOLE, RAW])
def test_heads_are_deepforests(name, whole):
    """The network input is what DeepForest's transform makes of a photograph that has the network's size already."""
    found = whole if name == WHOLE else deepforest.recognise(load(name), {}, forced=True)
    with np.load(FIXTURES / f"{name}.npz") as golden:
        for photo in PHOTOS:
            rows = head_rows(load(name), found, resized(photo, SIZE))
            for key, values in rows.items():
                np.testing.assert_allclose(values.ravel()[::HEAD_STEP], golden[f"{photo}.{key}"], atol=5e-4)


@pytest.mark.parametrize("name", [WHOLE, RAW])
def test_the_bundle_gives_what_deepforest_gives(name, tmp_path):
    labels = {"labels": BIRDS} if name == RAW else None
    bundle = build(FIXTURES / f"{name}.onnx", tmp_path / "m.edge", family="deepforest", overrides=labels)
    with np.load(FIXTURES / f"{name}.npz") as golden, Detector.load(bundle.path) as detector:
        assert detector.spec.family == "deepforest"
        assert detector.spec.labels == (BIRDS if name == RAW else ("Tree",))
        for photo in PHOTOS:
            found = detector(resized(photo, SIZE))
            assert_same(rows_of(found), golden_rows(golden, photo), detector.spec, photo)
