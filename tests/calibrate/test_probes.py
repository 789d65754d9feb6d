"""Probes read of every tensor what NumPy reads of the tensor itself, without changing what runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_retina.calibrate.probes import SAMPLE, Reading, open_probes, sample_size
from edge_retina.errors import ModelError, RuntimeFailure
from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite

RNG = np.random.default_rng(0)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    *,
    opset: int = 19,
    shape: tuple[Any, ...] = ("batch", "height", "width", 3),
) -> onnx.ModelProto:
    """Nodes behind "images", the frame as float32 (B, 3, H, W)."""
    first = [node("Cast", "frames", "float", to=TensorProto.FLOAT)]
    first.append(node("Transpose", "float", "images", perm=[0, 3, 1, 2]))
    graph = helper.make_graph(
        first + nodes,
        "g",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], output, **attrs)


def wide(channels: int, shape: tuple[Any, ...] = ("batch", "height", "width", 3)) -> onnx.ModelProto:
    """y: the frame's first channel, `channels` times."""
    weight = np.zeros((channels, 3, 1, 1), np.float32)
    weight[:, 0] = 1
    return model_of([node("Conv", "images weight", "y")], {"weight": weight}, shape=shape)


def frame(values: np.ndarray) -> np.ndarray:
    """(H, W) as all three channels."""
    return np.repeat(values.astype(np.uint8)[..., None], 3, 2)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def tensors(model: onnx.ModelProto, wanted: list[str], picture: np.ndarray) -> dict[str, np.ndarray]:
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    whole.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    session = ort.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(wanted, {"frames": picture[None]}), strict=True))


FEW = 1 << 13


def assert_reads(found: Reading, values: np.ndarray, *, grid: bool = False) -> None:
    """Peaks and means of all values (B, C, ...), and a sample out of them, on a grid as large as fits or exactly."""
    rows = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    np.testing.assert_allclose(found.peak, np.abs(rows).max(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.mean, rows.mean(1, dtype=np.float64), rtol=1e-4, atol=1e-4)
    assert found.sample.shape[0] == len(rows)
    wanted = min(rows.shape[1], max(FEW // len(rows), 1))
    assert 0.75 * wanted <= found.sample.shape[1] <= wanted or len(values) > 1
    assert found.sample.shape[1] == wanted or len(values) > 1 or grid
    gap = np.abs(found.sample[:, :20, None] - rows[:, None]).min(2)
    assert gap.max() < 1e-4


def test_nothing_wanted():
    probes = open_probes(model_of([]), ())
    assert probes.wanted == ()
    assert probes.read(noise(4, 4), 0) == {}


def test_how_much_to_look_at():
    """A million values of a tensor in all frames; no frame gives more than 65,536 or less than 8,192 of them."""
    assert [sample_size(n) for n in (0, 1, 16, 64, 128, 1000)] == [SAMPLE, SAMPLE, SAMPLE, 1 << 14, 1 << 13, 1 << 13]


@pytest.mark.parametrize("opset", [17, 18, 19])
def test_by_hand(opset):
    """A frame that is so small that the sample is all of it, in its order."""
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    found = open_probes(model_of([], opset=opset), {"images"}).read(picture, 3)["images"]
    assert found.sample.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert found.peak.tolist() == [9, 10, 11]
    assert found.mean.tolist() == [4.5, 5.5, 6.5]


def test_tensors_come_in_graph_order():
    nodes = [node("Relu", "images", "b"), node("Sqrt", "b", "a")]
    assert open_probes(model_of(nodes), {"a", "b", "images"}).wanted == ("images", "b", "a")


def test_frames_of_any_size():
    probes = open_probes(wide(8), {"y"}, FEW)
    for turn, (height, width) in enumerate(((5, 7), (64, 48), (32, 32))):
        picture = noise(height, width)
        found = probes.read(picture, turn)["y"]
        assert_reads(found, np.repeat(picture[None, None, ..., 0].astype(np.float32), 8, 1))


@pytest.mark.parametrize("axes", [2, 3, 5])
def test_tensors_of_other_ranks(axes):
    """(B, C), (B, C, N), (B, C, 1, H, W)."""
    shape = {2: [1, -1], 3: [0, 0, -1], 5: [0, 0, 1, 20, 30]}[axes]
    probes = open_probes(model_of([node("Reshape", "images shape", "y")], {"shape": np.array(shape)}), {"y"}, FEW)
    picture = noise(20, 30)
    values = picture.astype(np.float32).transpose(2, 0, 1)[None]
    assert_reads(probes.read(picture, 0)["y"], values.reshape(1, -1) if axes == 2 else values)


def test_tensors_of_several_rows():
    """What is no batch of frames any more, (4, 3, H / 2, W / 2)."""
    nodes = [node("SpaceToDepth", "images", "deep", blocksize=2), node("Reshape", "deep shape", "y")]
    probes = open_probes(model_of(nodes, {"shape": np.array([4, 3, 0, 0])}), {"y"}, FEW)
    picture = noise(10, 12)
    deep = tensors(model_of(nodes, {"shape": np.array([4, 3, 0, 0])}), ["y"], picture)["y"]
    assert_reads(probes.read(picture, 0)["y"], deep)


@pytest.mark.parametrize("side", [32, 63, 64, 65, 80, 160])
@pytest.mark.parametrize("turn", [0, 7])
def test_a_sample_shows_all_rows_and_columns_of_a_frame(side, turn):
    """Values that grow from left to right or from top to bottom: their mean is that of a frame."""
    probes = open_probes(wide(64), {"y"}, FEW)
    ramp = np.broadcast_to(np.linspace(0, 255, side), (side, side)).astype(np.uint8)
    for picture in (frame(ramp), frame(ramp.T)):
        found = probes.read(picture, turn)["y"]
        assert found.sample.shape == (64, FEW // 64)
        assert found.sample.mean() == pytest.approx(ramp.mean(), abs=4)


def test_what_lies_on_a_diagonal_counts_as_much_as_the_rest():
    """Sampling every k-th position of 65 * 65, k = 66 or 64, would see nothing else, or nothing of it."""
    probes = open_probes(wide(64, (1, 65, 65, 3)), {"y"}, FEW)
    readings = [probes.read(frame(np.eye(65) * 130), turn)["y"].sample for turn in range(40)]
    assert np.mean(readings) == pytest.approx(2.0, abs=0.4)


def test_other_positions_with_each_frame_and_the_same_every_time():
    probes, picture = open_probes(wide(64), {"y"}, FEW), noise(64, 64)
    first, again, second = (probes.read(picture, turn)["y"].sample for turn in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_more_channels_than_a_sample_has_values():
    found = open_probes(wide(70), {"y"}, 64).read(frame(np.full((2, 2), 7)), 0)["y"]
    assert found.sample.shape == (70, 1)
    assert (found.sample == 7).all()


@pytest.mark.parametrize("shape", [("batch", "height", "width", 3), (1, 200, 200, 3)])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_extreme_is_seen_wherever_it_lies(shape, sign):
    picture = frame(np.ones((200, 200)))
    picture[137, 11] = 255
    model = wide(64, shape)
    model.graph.node.append(node("Mul", "y sign", "z"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(sign), "sign"))
    found = open_probes(model, {"z"}, FEW).read(picture, 0)["z"]
    assert (found.peak == 255).all()


def test_a_map_of_known_size_by_hand():
    """6x7 with room for 4 places a channel: 2x2 cells of 3x3, the right ones a column wider, and in each of them the
    same place, another one for each channel."""
    model = wide(16, (1, 6, 7, 3))
    picture = frame(np.arange(42).reshape(6, 7))
    found = open_probes(model, {"y"}, 64).read(picture, 0)["y"]
    assert found.sample.shape == (16, 4)
    first = found.sample[:, 0]
    assert len(set(first)) > 6
    assert (first % 7 < 4).all()
    assert (first < 3 * 7).all()
    np.testing.assert_array_equal(found.sample - first[:, None], [[0, 3, 21, 24]] * 16)
    assert (found.mean == 20.5).all()


@pytest.mark.parametrize("side", [32, 63, 64, 65, 80, 160])
def test_a_map_of_known_size_is_seen_to_its_edges(side):
    probes = open_probes(wide(64, (1, side, side, 3)), {"y"}, FEW)
    for picture in (frame(ramp := np.arange(side)[None].repeat(side, 0)), frame(ramp.T)):
        found = probes.read(picture, 0)["y"].sample
        assert (found.min(), found.max()) == (0, side - 1)
        assert len(np.unique(found)) == side
        assert found.mean() == pytest.approx((side - 1) / 2, abs=side / 50)


def test_a_map_of_known_size_with_more_channels_than_a_sample_has_values():
    found = open_probes(wide(70, (1, 5, 4, 3)), {"y"}, 64).read(frame(np.full((5, 4), 7)), 0)["y"]
    assert found.sample.shape == (70, 1)
    assert (found.sample == 7).all()


def test_a_wide_map_of_known_size():
    found = open_probes(wide(64, (1, 2, 300, 3)), {"y"}, FEW).read(noise(2, 300), 0)["y"]
    assert found.sample.shape == (64, 128)


def test_what_nobody_wants_is_not_run():
    nodes = [node("Relu", "images", "y"), helper.make_node("NoSuchOp", ["y"], ["z"])]
    assert open_probes(model_of(nodes), {"y"}).read(noise(4, 4), 0).keys() == {"y"}


def test_names_that_no_node_makes():
    for name in ("no_such", "weight", "frames"):
        with pytest.raises(ModelError, match=f"'{name}', which no node"):
            open_probes(wide(2), ("y", name))


def result(name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)


def choice() -> onnx.NodeProto:
    branches = [helper.make_graph([node(op, "images", "r")], op, [], [result("r")]) for op in ("Relu", "Neg")]
    return node("If", "yes", "y", then_branch=branches[0], else_branch=branches[1])


def loop() -> onnx.NodeProto:
    inputs = [result("i", TensorProto.INT64), result("on", TensorProto.BOOL), result("x")]
    steps = [node("Identity", "on", "go"), node("Relu", "x", "z")]
    body = helper.make_graph(steps, "body", inputs, [result("go", TensorProto.BOOL), result("z")])
    return helper.make_node("Loop", ["twice", "yes", "images"], ["y"], body=body)  # a node need not have a name


@pytest.mark.parametrize("make", [choice, loop])
def test_control_flow_is_an_error(make):
    model = model_of([make(), node("Relu", "y", "after")], {"yes": np.array(True), "twice": np.array(2)})
    wanted = f"without control flow, found {make().op_type} 'y'.*build it in fp32, or export the model again"
    for name in ("after", "images"):  # what an If has no part in, too: its convolutions would still be left out
        with pytest.raises(ModelError, match=wanted):
            open_probes(model, {name})


def test_what_onnx_runtime_refuses():
    model = model_of([helper.make_node("NoSuchOp", ["images"], ["y"])])
    with pytest.raises(RuntimeFailure, match="refuses the model"):
        open_probes(model, ("y",))


def test_a_frame_of_the_wrong_size():
    probes = open_probes(wide(2, (1, 8, 8, 3)), ("y",))
    with pytest.raises(RuntimeFailure, match="while calibrating"):
        probes.read(noise(4, 8), 0)


def test_convolutions_are_fused_as_they_are_without_probes(monkeypatch, tmp_path):
    """The ReLU behind a convolution is wanted, the convolution is not: they still run as one."""
    real, path = ort.InferenceSession, tmp_path / "optimized.onnx"

    def saving(model: bytes, options: Any, **more: Any) -> Any:
        options.optimized_model_filepath = str(path)
        return real(model, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", saving)
    nodes = [node("Conv", "images weight", "c"), node("Relu", "c", "r"), node("Sqrt", "r", "s")]
    open_probes(model_of(nodes, {"weight": RNG.standard_normal((16, 3, 3, 3)).astype(np.float32)}), {"r"})
    operators = [n.op_type for n in onnx.load(path).graph.node]
    assert "Relu" not in operators
    assert operators.count("ReduceMax") == 1
    wanted = model_of(nodes[:2], {"weight": np.ones((16, 3, 3, 3), np.float32)}, shape=(1, 40, 40, 3))
    open_probes(wanted, {"r"})
    operators = [n.op_type for n in onnx.load(path).graph.node]
    assert "Relu" not in operators
    assert operators.count("GlobalMaxPool") == 1


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A whole detector that takes frames of any size: resizing, shared heads, AnchorDecode."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    tiny_model(path, levels=3)
    source = load_onnx(path)
    return rewrite(source.graph, import_model(source))


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (131, 40)])
def test_a_detector_with_frames_of_any_size(detector, size):
    wanted = [n.output[0] for n in detector.graph.node if n.op_type in ("Conv", "Relu")]
    wanted += [n.input[0] for n in detector.graph.node if n.op_type == "Conv" and n.input[0] not in wanted]
    picture = noise(*size)
    found = open_probes(detector, wanted, FEW).read(picture, 0)
    for name, values in tensors(detector, sorted(set(wanted)), picture).items():
        assert_reads(found[name], values, grid=True)
