"""Graphs as people's tools leave them: untidy in every way that changes nothing, and imported all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from matching import match
from models import tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_retina.importer import Imported, import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.runtime.ort import OrtRuntime

FIXTURES = Path(__file__).parents[1] / "fixtures"
# Raw and small ones: what is tested is the graph, which the width of the layers does not change.
GOOD = (
    *("tiny", "tiny without metadata", "tv_v1_raw_ts", "tv_v1_raw_dynamo", "deepforest_raw_ts", "detectron2_raw_ts"),
    *("effdet_lite_dynamo", "mmdet_caffe_dynamo", "odtk_resnet18_ts"),
)
TOLERANCE = 1e-4


def good(name: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model that is in order, and what has to be said about it."""
    if name.startswith("tiny"):
        model, spec = tiny_model(classes=5)
        if name == "tiny":
            return model, {}
        del model.metadata_props[:]
        return model, {key: value for key, value in spec.to_dict().items() if key != "origins"}
    return onnx.load(FIXTURES / f"{name}.onnx"), {}


# Ways of being untidy; each changes the model in place


def dead_branches(model: onnx.ModelProto) -> None:
    """Off the input, a weight and a feature, one with the heads' own ops; none reaches an output."""
    graph, node = model.graph, model.graph.node
    features = [n.output[0] for n in node if n.op_type == "Conv"]
    for number, name in enumerate((graph.input[0].name, features[0], features[-1])):
        node.append(helper.make_node("Relu", [name], [f"dead_{number}"]))
    heads = [n for n in node if n.op_type in ("Reshape", "Transpose", "Concat", "Sigmoid")]
    for number, made in enumerate(heads):
        copy = node.add()
        copy.CopyFrom(made)
        copy.output[:] = [f"dead_head_{number}"]
        copy.name = ""
    graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "dead_weight"))


def constant_nodes(model: onnx.ModelProto) -> None:
    """Weights and shapes as nodes, short lists in every spelling that there is."""
    made = []
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 1 and value.dtype == np.int64:
            made.append(helper.make_node("Constant", [], [tensor.name], value_ints=value.tolist()))
        elif value.ndim == 0 and value.dtype == np.int64:
            made.append(helper.make_node("Constant", [], [tensor.name], value_int=int(value)))
        elif value.ndim == 1 and value.dtype == np.float32:
            made.append(helper.make_node("Constant", [], [tensor.name], value_floats=value.tolist()))
        else:
            made.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    first(model, made)


def shape_arithmetic(model: onnx.ModelProto) -> None:
    """In front of a Reshape: its target put together from what a Shape of the data gives, its own target's parts."""
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    known |= {
        n.output[0]: numpy_helper.to_array(n.attribute[0].t)
        for n in model.graph.node
        if n.op_type == "Constant" and n.attribute[0].name == "value"
    }
    nodes = []
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Reshape" and node.input[1] in known:
            target, at = known[node.input[1]], f"arithmetic_{number}"
            model.graph.initializer.extend(
                [
                    numpy_helper.from_array(np.int64(0), f"{at}/zero"),
                    numpy_helper.from_array(np.int64([0]), f"{at}/axis"),
                    numpy_helper.from_array(np.int64(target[1:]), f"{at}/rest"),
                ]
            )
            nodes += [
                helper.make_node("Shape", [node.input[0]], [f"{at}/shape"]),
                helper.make_node("Gather", [f"{at}/shape", f"{at}/zero"], [f"{at}/batch"]),
                helper.make_node("Unsqueeze", [f"{at}/batch", f"{at}/axis"], [f"{at}/batches"]),
                helper.make_node("Concat", [f"{at}/batches", f"{at}/rest"], [f"{at}/target"], axis=0),
            ]
            node.input[1] = f"{at}/target"
        nodes.append(node)
    replace_nodes(model, nodes)


def identities(model: onnx.ModelProto) -> None:
    between(model, "Identity")


def dropouts(model: onnx.ModelProto) -> None:
    """As at inference, the mask unused."""
    between(model, "Dropout")


def between(model: onnx.ModelProto, op: str) -> None:
    """A node that does nothing behind every Conv, Relu and Transpose that is no output itself."""
    ends = {output.name for output in model.graph.output}
    nodes = []
    for number, node in enumerate(model.graph.node):
        nodes.append(node)
        if node.op_type in ("Conv", "Relu", "Transpose") and node.output[0] not in ends:
            name, node.output[0] = node.output[0], f"{node.output[0]}/before"
            outputs = [name, f"{name}/mask"] if op == "Dropout" and number % 2 else [name]
            nodes.append(helper.make_node(op, [node.output[0]], outputs))
    replace_nodes(model, nodes)


def cast_outputs(model: onnx.ModelProto) -> None:
    """Outputs through Cast and Identity, whatever their name is."""
    for output in model.graph.output:
        for node in model.graph.node:
            node.output[:] = [f"{n}/inner" if n == output.name else n for n in node.output]
            node.input[:] = [f"{n}/inner" if n == output.name else n for n in node.input]
        model.graph.node.append(helper.make_node("Identity", [f"{output.name}/inner"], [f"{output.name}/again"]))
        model.graph.node.append(helper.make_node("Cast", [f"{output.name}/again"], [output.name], to=TensorProto.FLOAT))


def duplicated_weights(model: onnx.ModelProto) -> None:
    """Each reader has a copy of its own, heads shared over the levels too."""
    weights = {t.name: t for t in model.graph.initializer}
    for number, node in enumerate(model.graph.node):
        for place, name in enumerate(node.input):
            if name in weights:
                copy = model.graph.initializer.add()
                copy.CopyFrom(weights[name])
                copy.name = node.input[place] = f"{name}/{number}"


def weights_computed(model: onnx.ModelProto) -> None:
    """Every weight is what an Identity, or two Casts, make of the stored one."""
    made = []
    for number, tensor in enumerate(model.graph.initializer):
        name, kind = tensor.name, tensor.data_type
        tensor.name = f"{name}/stored"
        if number % 2 and kind == TensorProto.FLOAT:
            made.append(helper.make_node("Cast", [tensor.name], [f"{name}/double"], to=TensorProto.DOUBLE))
            made.append(helper.make_node("Cast", [f"{name}/double"], [name], to=kind))
        else:
            made.append(helper.make_node("Identity", [tensor.name], [name]))
    first(model, made)


def no_names(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""
    model.graph.name = "g"
    model.graph.doc_string = ""


def same_names(model: onnx.ModelProto) -> None:
    """Which only tensors have to be unique."""
    for node in model.graph.node:
        node.name = "node"


def weights_are_inputs(model: onnx.ModelProto) -> None:
    """As before IR version 4."""
    model.ir_version = 3
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(info)


def odd_names(model: onnx.ModelProto) -> None:
    """Tensors called as TensorFlow, or nobody, calls them; inputs and outputs too."""
    new: dict[str, str] = {"": ""}

    def name(old: str) -> str:
        return new.setdefault(old, f"модель/größe {len(new)}:0/{old[::-1]}")

    graph = model.graph
    for node in graph.node:
        node.input[:] = [name(n) for n in node.input]
        node.output[:] = [name(n) for n in node.output]
    for tensor in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        tensor.name = name(tensor.name)


def our_names(model: onnx.ModelProto) -> None:
    """Tensors called as the rewritten graph calls its own."""
    taken = iter(("frames", "geometry", "logits_0", "deltas_0", "boxes", "scores", "labels", "count", "frame/cast_1"))
    ends = {t.name for t in (*model.graph.input, *model.graph.output)}
    for old in [n.output[0] for n in model.graph.node if n.output[0] not in ends]:
        fresh = next(taken, None)
        if fresh is None:
            return
        for node in model.graph.node:
            node.input[:] = [fresh if n == old else n for n in node.input]
            node.output[:] = [fresh if n == old else n for n in node.output]


def another_order(model: onnx.ModelProto) -> None:
    """Nodes as late as they can come, from the outputs back; weights and value infos in reverse."""
    waiting = {name: n for n in model.graph.node for name in n.output}
    order: list[onnx.NodeProto] = []
    done: set[int] = set()

    def visit(node: onnx.NodeProto) -> None:
        if id(node) in done:
            return
        done.add(id(node))
        for name in reversed(node.input):
            if name in waiting:
                visit(waiting[name])
        order.append(node)

    for output in reversed(model.graph.output):
        visit(waiting[output.name])
    assert [n.output[0] for n in order] != [n.output[0] for n in model.graph.node]
    replace_nodes(model, order)
    for weights in (model.graph.initializer, model.graph.value_info):
        kept = [type(w).FromString(w.SerializeToString()) for w in reversed(weights)]
        del weights[:]
        weights.extend(kept)


def no_shapes(model: onnx.ModelProto) -> None:
    """Nothing recorded but the inputs' shapes, and how many axes the outputs have."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        for side in output.type.tensor_type.shape.dim:
            side.Clear()


def defaults_left_out(model: onnx.ModelProto) -> None:
    """Attributes of a Conv that say what is so anyway."""
    for node in model.graph.node:
        if node.op_type == "Conv":
            kept = [a for a in node.attribute if a.name in ("pads", "strides") or (a.name == "group" and a.i != 1)]
            kept = [a for a in kept if set(a.ints) != ({0} if a.name == "pads" else {1})]
            copies = [type(a).FromString(a.SerializeToString()) for a in kept]
            del node.attribute[:]
            node.attribute.extend(copies)


def everything(model: onnx.ModelProto) -> None:
    for change in (dead_branches, shape_arithmetic, identities, weights_computed, cast_outputs, odd_names, no_names):
        change(model)


WAYS: tuple[Callable[[onnx.ModelProto], None], ...] = (
    *(another_order, cast_outputs, constant_nodes, dead_branches, defaults_left_out, dropouts, duplicated_weights),
    *(everything, identities, no_names, no_shapes, odd_names, our_names, same_names, shape_arithmetic),
    *(weights_are_inputs, weights_computed),
)


def first(model: onnx.ModelProto, made: list[onnx.NodeProto]) -> None:
    replace_nodes(model, [*made, *model.graph.node])


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def imported(model: onnx.ModelProto, given: dict[str, Any], path: Path) -> tuple[Imported, bytes]:
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    source = load_onnx(path)
    found = import_model(source, overrides=given)
    return found, rewrite(source.graph, found).SerializeToString()


def detections(data: bytes, found: Imported) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, *found.spec.input_size, 3), dtype=np.uint8)
    with OrtRuntime(data, threads=1) as runtime:
        made = []
        for frame in frames:
            out = runtime.run(frame[None])
            kept = int(out.count[0])
            made.append((out.boxes[0, :kept], out.scores[0, :kept], out.labels[0, :kept]))
    return made


@pytest.fixture(scope="module", params=GOOD)
def tidy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Imported, Any]:
    path = tmp_path_factory.mktemp("tidy") / "m.onnx"
    model, given = good(request.param)
    # So low that there are detections in noise.
    given = given | {"score_threshold": 0.01}
    found, data = imported(model, given, path)
    wanted = detections(data, found)
    assert all(len(scores) > 5 for _, scores, _ in wanted)
    return request.param, found, wanted


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_same_detector(way: Callable[..., None], tidy: tuple[str, Imported, Any], tmp_path: Path) -> None:
    name, before, wanted = tidy
    if name.startswith("odtk") and way in (odd_names, everything):
        pytest.skip("ODTK's exports are known by the names of their outputs")
    model, given = good(name)
    way(model)
    found, data = imported(model, given | {"score_threshold": 0.01}, tmp_path / "m.onnx")
    assert found.spec == before.spec
    assert found.spec.origins == before.spec.origins
    assert found.layout == before.layout
    for got, other in zip(detections(data, found), wanted, strict=True):
        report = match(got, other, px=1e-2, score=TOLERANCE, threshold=0.01, limit=found.spec.max_detections)
        assert report.ok, report
        assert report.worst_score < TOLERANCE


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    """The rewritten graph is as lean as that of the tidy one."""
    counts = []
    for change in (no_names, everything, constant_nodes, dropouts):
        model, _ = tiny_model()
        change(model)
        _, data = imported(model, {}, tmp_path / "m.onnx")
        counts.append(len(onnx.load_from_string(data).graph.node))
    assert len(set(counts)) == 1
