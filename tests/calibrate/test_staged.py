"""A graph in stages shows the same tensors as the whole graph, and holds few of them at once."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_retina.calibrate.staged import Stages, run_stages, split
from edge_retina.errors import ModelError, RuntimeFailure
from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (8, 8, 3), np.uint8)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    outputs: tuple[str, ...],
    shape: tuple[Any, ...] = ("batch", 8, 8, 3),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def node(op: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], output, **attrs)


def residual() -> onnx.ModelProto:
    """c1 is read by c2 and, past it, by the Add; w is the weight of two convolutions; sum is an output and read on."""
    nodes = [
        node("Cast", "frames", "float", to=TensorProto.FLOAT),
        node("Transpose", "float", "images", perm=[0, 3, 1, 2]),
        node("Conv", "images w0", "c0"),
        node("Relu", "c0", "r0"),
        node("Conv", "r0 w", "c1"),
        node("Conv", "c1 w", "c2"),
        node("Add", "c1 c2", "sum"),
        node("Relu", "sum", "r1"),
        node("Conv", "r1 w", "c3"),
        node("Relu", "c3", "aside"),
    ]
    weights = {
        "w0": RNG.standard_normal((4, 3, 1, 1)).astype(np.float32) / 100,
        "w": RNG.standard_normal((4, 4, 1, 1)).astype(np.float32),
    }
    return model_of(nodes, weights, ("sum", "c3"))


def reference(model: onnx.ModelProto, wanted: Collection[str], frame: np.ndarray) -> dict[str, np.ndarray]:
    """One session over the whole model, with all wanted tensors among its outputs."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    whole.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    session = ort.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(list(wanted), {"frames": frame[None]}), strict=True))


def seen(stages: Stages, frame: np.ndarray) -> list[tuple[str, np.ndarray]]:
    found: list[tuple[str, np.ndarray]] = []
    run_stages(stages, frame, lambda name, values: found.append((name, values.copy())))
    return found


def test_nothing_wanted():
    stages = split(residual(), ())
    assert stages.stages == ()
    assert seen(stages, FRAME) == []


WANTED = ("r0", "c1", "c2", "sum", "r1", "c3")


@pytest.mark.parametrize("budget", [1, 1024, 1025, 3000, 1 << 20])
@pytest.mark.parametrize("wanted", [("r0",), ("c3",), ("c1", "r1"), WANTED])
def test_the_same_tensors_as_the_whole_model_each_once(budget, wanted):
    model = residual()
    stages = split(model, wanted, budget=budget)
    found = seen(stages, FRAME)
    assert [name for name, _ in found] == list(wanted)  # in graph order
    expected = reference(model, wanted, FRAME)
    for name, values in found:
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)


def test_how_a_budget_cuts():
    """Every wanted tensor is 4 * 8 * 8 * 4 = 1024 bytes."""
    model = residual()
    outputs = [[s.outputs for s in split(model, WANTED, budget=b).stages] for b in (1, 1025, 1 << 20)]
    assert outputs[0] == [("r0",), ("c1",), ("c2",), ("sum",), ("r1",), ("c3",)]
    assert outputs[1] == [("r0", "c1"), ("c2", "sum"), ("r1", "c3")]
    assert outputs[2] == [("r0", "c1", "c2", "sum", "r1", "c3")]


def test_what_nobody_wants_is_not_run():
    stages = split(residual(), ("r0",), budget=1)
    assert [stage.outputs for stage in stages.stages] == [("r0",)]


def held(stages: Stages) -> list[set[str]]:
    """The names alive after each stage."""
    alive, result = {"frames"}, []
    for stage in stages.stages:
        assert set(stage.inputs) <= alive
        alive = (alive | set(stage.outputs)) - set(stage.done)
        result.append(alive)
    return result


def test_what_is_held_from_one_stage_to_the_next():
    """r0 goes once c1 is there, c1 not before the Add; in the end nothing is held."""
    assert held(split(residual(), WANTED, budget=1)) == [{"r0"}, {"c1"}, {"c1", "c2"}, {"sum"}, {"r1"}, set()]


def test_a_tensor_that_several_stages_read_without_being_wanted():
    stages = split(residual(), ("c2", "sum", "c3"), budget=1)
    assert [stage.outputs for stage in stages.stages] == [("c1", "c2"), ("sum",), ("c3",)]
    assert [name for name, _ in seen(stages, FRAME)] == ["c2", "sum", "c3"]
    assert held(stages)[-1] == set()


def test_a_long_chain_holds_one_tensor():
    nodes = [node("Cast", "frames", "x0", to=TensorProto.FLOAT)]
    nodes += [node("Sqrt", f"x{i}", f"x{i + 1}") for i in range(30)]
    stages = split(model_of(nodes, {}, ("x30",)), [f"x{i}" for i in range(31)], budget=1)
    assert len(stages.stages) == 31
    assert max(len(names) for names in held(stages)) == 1
    assert [name for name, _ in seen(stages, FRAME)] == [f"x{i}" for i in range(31)]


def test_no_stage_keeps_memory_of_its_own():
    """With an arena each, all stages together held what the whole model does: measured, 874 MB instead of 412."""
    for stage in split(residual(), WANTED, budget=1).stages:
        assert not stage.session.get_session_options().enable_cpu_mem_arena


def test_names_that_no_node_makes():
    for name in ("no_such", "w", "frames"):
        with pytest.raises(ModelError, match=f"'{name}', which no node"):
            split(residual(), ("r0", name))


def test_what_onnx_runtime_refuses():
    model = model_of([helper.make_node("NoSuchOp", ["frames"], ["y"])], {}, ("y",))
    with pytest.raises(RuntimeFailure, match="refuses a part of the model"):
        split(model, ("y",))


def test_a_frame_of_the_wrong_size():
    stages = split(residual(), ("r0",))
    with pytest.raises(RuntimeFailure, match="while calibrating"):
        run_stages(stages, FRAME[:4], lambda *_: None)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A whole detector that takes frames of any size: resizing, shared heads, AnchorDecode."""
    path = Path(tmp_path_factory.mktemp("model")) / "tiny.onnx"
    tiny_model(path, levels=3)
    source = load_onnx(path)
    return rewrite(source.graph, import_model(source))


@pytest.mark.parametrize("budget", [1, 1 << 20])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (131, 40)])
def test_a_detector_with_frames_of_any_size(detector, budget, size):
    wanted = [n.output[0] for n in detector.graph.node if n.op_type in ("Conv", "Relu")]
    wanted += [n.input[0] for n in detector.graph.node if n.op_type == "Conv" and n.input[0] not in wanted]
    frame = RNG.integers(0, 256, (*size, 3), np.uint8)
    stages = split(detector, wanted, budget=budget)
    found = dict(seen(stages, frame))
    assert len(stages.stages) == (1 if budget > 1 else len(set(wanted)))
    for name, values in reference(detector, sorted(set(wanted)), frame).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4)


def test_the_same_stages_every_time(detector):
    wanted = {n.output[0] for n in detector.graph.node if n.op_type == "Conv"}
    first, second = split(detector, wanted, budget=4096), split(detector, sorted(wanted), budget=4096)
    parts = [[(s.inputs, s.outputs, s.done) for s in stages.stages] for stages in (first, second)]
    assert parts[0] == parts[1]
    assert len(parts[0]) > 1
