"""The frame input pass against OpenCV's resize and the spec's own geometry."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from decoder import make_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina.geometry import fit_frame
from edge_retina.rewrite.frame_input import add_frame_input, cast_first
from edge_retina.rewrite.heads import TRUNK_INPUT
from edge_retina.spec import DetectorSpec

RULES = {
    "letterbox": {},
    "centred": {"placement": "center"},
    "stretch": {"resize": "stretch"},
    "shortest_side": {"resize": "shortest_side", "shortest_side": (40, 90)},
    "bgr": {"color_order": "bgr"},
    "grey pad": {"pad_value": (114.0, 114.0, 114.0)},
}


def frame_spec(**values: object) -> DetectorSpec:
    defaults = {"mean": (100.0, 110.0, 120.0), "std": (50.0, 55.0, 60.0), "pad_value": (100.0, 110.0, 120.0)}
    return make_spec(shapes=((6, 9), (3, 5)), input_size=(48, 72), **{**defaults, **values})


def trunk_graph(spec: DetectorSpec, opset: int = 18) -> gs.Graph:
    """A trunk that hands its input through, so that the preprocessed picture can be seen."""
    given = gs.Variable(TRUNK_INPUT, np.float32, ["batch", 3, *spec.input_size])
    out = gs.Variable("seen", np.float32, ["batch", 3, *spec.input_size])
    trunk = gs.Node("Identity", "trunk", inputs=[given], outputs=[out])
    return gs.Graph([trunk], [given], [out], opset=opset, ir_version=8)


def session(spec: DetectorSpec, frame: tuple[int, int] | None, opset: int = 18) -> ort.InferenceSession:
    graph = trunk_graph(spec, opset)
    assert add_frame_input(graph, spec, frame) > 0
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_opencv(image: np.ndarray, spec: DetectorSpec) -> np.ndarray:
    """What the network should see: (3, H, W)."""
    fit = fit_frame(spec, *image.shape[:2])
    (height, width), (top, left) = fit.content, fit.offset
    channels = image[..., ::-1] if spec.color_order == "rgb" else image
    canvas = np.empty((*spec.input_size, 3), np.float32)
    canvas[:] = spec.pad_value
    resized = cv2.resize(channels.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    canvas[top : top + height, left : left + width] = resized.reshape(height, width, 3)
    return ((canvas - np.float32(spec.mean)) / np.float32(spec.std)).transpose(2, 0, 1)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("size", [(48, 72), (1, 1), (1, 50), (200, 90), (31, 47), (300, 301)], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_the_network_sees_what_opencv_would_make(rule, size, opset):
    spec = frame_spec(**RULES[rule])
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = by_opencv(image, spec)
    for frame in (size, None):
        seen, geometry = session(spec, frame, opset).run(["seen", "geometry"], {"frames": image[None]})
        np.testing.assert_allclose(seen[0], wanted, atol=2e-4)
        np.testing.assert_array_equal(geometry, np.float32(fit_frame(spec, *size).vector()))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(sorted(RULES)))
def test_the_graph_and_fit_frame_agree_on_every_size(height, width, rule):
    """Both count in integers, so equal means equal. Frames of such sizes would not fit memory here: shapes only."""
    spec = frame_spec(**RULES[rule])
    fit = fit_frame(spec, height, width)
    assert all(1 <= c <= n for c, n in zip(fit.content, spec.input_size, strict=True))
    assert all(o >= 0 and o + c <= n for o, c, n in zip(fit.offset, fit.content, spec.input_size, strict=True))
    small = np.zeros((1, min(height, 400), min(width, 400), 3), np.uint8)
    geometry = _dynamic(rule).run(["geometry"], {"frames": small})[0]
    np.testing.assert_array_equal(geometry, np.float32(fit_frame(spec, *small.shape[1:3]).vector()))


_sessions: dict[str, ort.InferenceSession] = {}


def _dynamic(rule: str) -> ort.InferenceSession:
    if rule not in _sessions:
        _sessions[rule] = session(frame_spec(**RULES[rule]), None)
    return _sessions[rule]


@pytest.mark.parametrize("frame", [None, (100, 100)])
def test_runs_once(frame):
    spec = frame_spec()
    graph = trunk_graph(spec)
    add_frame_input(graph, spec, frame)
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert add_frame_input(graph, spec, frame) == 0
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_a_frame_of_the_networks_size_is_neither_resized_nor_padded():
    graph = trunk_graph(frame_spec())
    add_frame_input(graph, frame_spec(), (48, 72))
    assert not {"Resize", "Pad"} & {node.op for node in graph.nodes}


def test_the_trunk_stays_static_under_dynamic_frames():
    graph = trunk_graph(frame_spec())
    add_frame_input(graph, frame_spec(), None)
    inferred = onnx.shape_inference.infer_shapes(gs.export_onnx(graph), strict_mode=True, data_prop=True)
    reshaped = next(node.output[0] for node in inferred.graph.node if node.op_type == "Reshape")
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    assert shapes[reshaped][1:] == [3, 48, 72]


@pytest.mark.parametrize("rule", ["letterbox", "bgr"])
@pytest.mark.parametrize("frame", [(100, 100), (48, 72), None])
def test_cast_first_for_tensorrt(rule, frame):
    """TensorRT takes uint8 only as a network input straight into a Cast; what the network sees stays the same."""
    spec = frame_spec(**RULES[rule])
    graph = trunk_graph(spec)
    assert cast_first(trunk_graph_of_frames()) == 0
    add_frame_input(graph, spec, frame)
    picture = np.random.default_rng(0).integers(0, 256, (1, *(frame or (37, 90)), 3), dtype=np.uint8)
    expected = seen(graph, picture)
    assert cast_first(graph) == (1 if rule == "bgr" else 2)
    assert {node.op for node in graph.inputs[0].outputs} <= {"Cast", "Shape"}
    np.testing.assert_array_equal(seen(graph, picture), expected)
    assert cast_first(graph) == 0


def trunk_graph_of_frames() -> gs.Graph:
    """The empty case: a Cast and nothing before it."""
    frames, out = gs.Variable("frames", np.uint8, ["batch", 4, 4, 3]), gs.Variable("seen", np.float32)
    return gs.Graph([gs.Node("Cast", "cast", {"to": np.float32}, [frames], [out])], [frames], [out], opset=18)


def seen(graph: gs.Graph, picture: np.ndarray) -> np.ndarray:
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    made = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return made.run(["seen"], {"frames": picture})[0]
