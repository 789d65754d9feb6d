import numpy as np
import onnx_graphsurgeon as gs
import pytest
from kin import FIXTURES, PHOTOS, assert_same, golden_rows, head_rows, load, resized, rows_of

from edge_retina import Detector, build
from edge_retina.importer import deepforest, heads, mlperf, torchvision
from edge_retina.importer.labels import OPEN_IMAGES_264
from edge_retina.spec import METADATA_KEY, cell_anchors

NAME = "mlperf_whole_ts"
# Every so many head values are in the golden file; see fixtures/make_mlperf.py.
HEAD_STEP = 2503
SIZE = (160, 224)
SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
WANTED = {
    "family": "mlperf",
    "input_size": SIZE,
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "resize": "stretch",
    "shortest_side": None,
    "strides": ((8, 8), (16, 16), (32, 32), (53, 56), (80, 112)),
    "level_shapes": ((20, 28), (10, 14), (5, 7), (3, 4), (2, 2)),
    "cell_anchors": tuple(cell_anchors(sizes, (0.5, 1.0, 2.0), rounded=True) for sizes in SIZES),
    "delta_weights": (1.0, 1.0, 1.0, 1.0),
    "score_threshold": 0.05,
    "top_k": 1000,
    "nms_iou": 0.5,
    "max_detections": 300,
}


def raw():
    """The fixture cut down to what torchvision's raw export looks like."""
    graph = load(NAME)
    one, other = heads.row_heads(graph)
    (trunk,) = heads.stem(one.rows).inputs[:1]
    trunk.inputs.clear()
    trunk.shape, trunk.dtype = (1, 3, *SIZE), np.float32
    graph.inputs, graph.outputs = [trunk], [one.rows, other.rows]
    for rows in graph.outputs:
        rows.dtype = np.float32
    return graph.cleanup()


def test_nothing_in_an_empty_graph():
    assert mlperf.recognise(gs.Graph(), {}) is None
    assert mlperf.recognise(gs.Graph(), {}, forced=True) is None


@pytest.mark.parametrize("name", ["tv_v1_raw_dynamo", "tv_v2_whole_ts", "deepforest_raw_ts"])
def test_its_kins_models_are_not_ours(name):
    assert mlperf.recognise(load(name), {}) is None


def test_a_spec_of_its_own_goes_first():
    assert mlperf.recognise(load(NAME), {METADATA_KEY: "{}"}, forced=True) is None


@pytest.fixture(scope="module")
def imported():
    found = mlperf.recognise(load(NAME), {})
    assert found is not None
    return found


def test_whole_export(imported):
    """Height and width are open, so the graph shows that every image is stretched to one size."""
    assert [family.recognise(load(NAME), {}) for family in (torchvision, deepforest)] == [None, None]
    spec = imported.spec
    assert {name: getattr(spec, name) for name in WANTED} == WANTED
    assert {spec.origins[name] for name in WANTED} == {"graph"}
    assert spec.labels == OPEN_IMAGES_264
    assert len(set(spec.labels)) == len(spec.labels) == 264
    assert (spec.labels[0], spec.labels[-1]) == ("Airplane", "Zucchini")
    assert spec.origins["labels"] == "family"


def test_whole_export_of_a_sample_of_the_networks_size():
    """As the inference benchmark exports it: nothing shows that other images would be stretched."""
    graph = load(NAME)
    graph.inputs[0].shape = [1, 3, *SIZE]
    spec = mlperf.recognise(graph, {}).spec
    assert (spec.resize, spec.shortest_side) == ("stretch", None)
    assert spec.origins["resize"] == spec.origins["shortest_side"] == "family"


def test_raw_export():
    graph = raw()
    assert [family.recognise(graph, {}) for family in (torchvision, deepforest)] == [None, None]
    spec = mlperf.recognise(graph, {}).spec
    assert {name: getattr(spec, name) for name in WANTED} == WANTED
    from_graph = {name for name in WANTED if spec.origins[name] == "graph"}
    assert from_graph == {"family", "input_size", "level_shapes"}


def test_another_network_when_forced():
    """Its script exports other backbones and numbers of classes, too."""
    spec = mlperf.recognise(load("tv_v1_raw_dynamo"), {}, forced=True).spec
    assert (spec.family, spec.resize, spec.num_classes) == ("mlperf", "stretch", 5)


def test_heads_are_mlperfs(imported):
    with np.load(FIXTURES / f"{NAME}.npz") as golden:
        for photo in PHOTOS:
            rows = head_rows(load(NAME), imported, resized(photo, SIZE))
            for key, values in rows.items():
                np.testing.assert_allclose(values.ravel()[::HEAD_STEP], golden[f"{photo}.{key}"], atol=5e-4)


def test_the_bundle_gives_what_mlperf_gives(tmp_path):
    with (
        np.load(FIXTURES / f"{NAME}.npz") as golden,
        Detector.load(build(FIXTURES / f"{NAME}.onnx", tmp_path / "m.edge").path) as detector,
    ):
        assert detector.spec.family == "mlperf"
        for photo in PHOTOS:
            found = detector(resized(photo, SIZE))
            assert_same(rows_of(found), golden_rows(golden, photo), detector.spec, photo)
