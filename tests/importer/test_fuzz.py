"""Damaged and hostile ONNX files: a typed error or a detector; never a crash, a hang or a foreign exception.

A mutant is its base, a model in BASES, and its seed. A process of its own runs a range of them under limits of memory
and, for each, of time; when it dies, the seed that it died of is the last that it printed.

More of them by hand: EDGE_RETINA_FUZZ=50 pytest tests/importer/test_fuzz.py runs fifty times as many, other ones.
One in the open: PYTHONPATH=tests python tests/importer/test_fuzz.py tiny 4711 4712
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_retina.check import check
from edge_retina.errors import EdgeRetinaError
from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.opset import LEAST_OPSET

TESTS = Path(__file__).parents[1]
FIXTURES = TESTS / "fixtures"
# Mutants of each base in the committed run; what one costs decides.
BASES = {
    "tiny": 1500,
    "tiny_bare": 400,
    "tiny_17": 200,
    "tiny_11": 200,
    "tv_v1_raw_dynamo": 150,
    "tv_v1_raw_ts": 80,
    "tv_v1_whole_ts": 6,
}
MORE = int(os.environ.get("EDGE_RETINA_FUZZ", "1"))
# Seconds for one mutant on a loaded machine, and bytes of address space.
PATIENCE, MEMORY = 30, 8 << 30
# Every so many mutants one that imports is rewritten and run as well.
RUN_EVERY = 4


def base(name: str) -> bytes:
    if name.startswith("tiny"):
        _, _, variant = name.partition("_")
        model, _ = tiny_model(opset=int(variant) if variant.isdecimal() else 18)
        if variant == "bare":  # which every family looks at
            del model.metadata_props[:]
        return model.SerializeToString()
    return (FIXTURES / f"{name}.onnx").read_bytes()


# Mutations of bytes


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[place(rng, data)] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    data[at : at + rng.choice((1, 4, 16))] = rng.randbytes(rng.choice((1, 4, 16)))


def truncate(rng: random.Random, data: bytearray) -> None:
    del data[place(rng, data) :]


def insert(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 16)))


def cut_out(rng: random.Random, data: bytearray) -> None:
    at = place(rng, data)
    del data[at : at + rng.choice((1, 2, 5, 300))]


def repeat(rng: random.Random, data: bytearray) -> None:
    at, to = place(rng, data), place(rng, data)
    data[to:to] = data[at : at + rng.choice((4, 40, 400))]


def place(rng: random.Random, data: bytearray) -> int:
    """Mostly where the nodes are, for weights are the most bytes and the least interesting."""
    return rng.randrange(max(1, len(data) if rng.random() < 0.5 else min(len(data), 1500)))


# Mutations of graphs


def drop_node(rng: random.Random, model: onnx.ModelProto) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def drop_initializer(rng: random.Random, model: onnx.ModelProto) -> None:
    del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def drop_end(rng: random.Random, model: onnx.ModelProto) -> None:
    ends = rng.choice((model.graph.input, model.graph.output))
    del ends[rng.randrange(len(ends))]


def rewire(rng: random.Random, model: onnx.ModelProto) -> None:
    node = a_node(rng, model)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*names(model), "", "nowhere"])


def lose_input(rng: random.Random, model: onnx.ModelProto) -> None:
    node = a_node(rng, model)
    if node.input:
        node.input.pop(rng.randrange(len(node.input)))


def lose_output(rng: random.Random, model: onnx.ModelProto) -> None:
    node = a_node(rng, model)
    if node.output:
        node.output.pop(rng.randrange(len(node.output)))


def more_inputs(rng: random.Random, model: onnx.ModelProto) -> None:
    a_node(rng, model).input.extend(rng.choices(names(model), k=rng.choice((1, 2, 10))))


def attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    node = a_node(rng, model)
    if not node.attribute:
        node.attribute.append(helper.make_attribute(rng.choice(("axis", "to", "perm", "group", "pads")), 1))
    chosen = node.attribute[rng.randrange(len(node.attribute))]
    values: list[Any] = [
        number(rng),
        [number(rng) for _ in range(rng.randrange(9))],
        0.5,
        [float("nan")],
        "text",
        b"\xff",
    ]
    values += [numpy_helper.from_array(np.zeros(3, np.float32)), helper.make_graph([], "empty", [], []), None]
    value = rng.choice(values)
    if value is None:
        node.attribute.remove(chosen)
    elif value != []:
        chosen.CopyFrom(helper.make_attribute(chosen.name, value))


def rename(rng: random.Random, model: onnx.ModelProto) -> None:
    node = a_node(rng, model)
    if node.output:
        node.output[0] = rng.choice([*names(model), "", "ü/:\x00 ", "x" * 3000])


def reshape_weight(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = a_weight(rng, model)
    dims = [number(rng) if rng.random() < 0.3 else size for size in tensor.dims] or [number(rng)]
    if rng.random() < 0.3:
        dims = [int(np.prod(tensor.dims)), *[1] * rng.randrange(5)]
    tensor.dims[:] = dims if rng.random() < 0.8 else []


def retype_weight(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = a_weight(rng, model)
    if rng.random() < 0.5:
        tensor.data_type = rng.randrange(-1, 30)
    else:
        kind = rng.choice((np.float16, np.float64, np.int64, np.int8, np.bool_, np.complex64))
        with np.errstate(all="ignore"):
            tensor.CopyFrom(numpy_helper.from_array(array(tensor).astype(kind), tensor.name))


def refill_weight(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = a_weight(rng, model)
    values = array(tensor)
    if values.size and values.dtype.kind in "fiu":
        new = values.copy()
        new.flat[rng.randrange(new.size)] = number(rng) % 100 if values.dtype.kind != "i" else number(rng)
        tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))


def move_weight_outside(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = a_weight(rng, model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", rng.choice(("w.data", "../w.data", "/etc/hostname", "", "/dev/zero", ".", "mutant.onnx"))),
        ("offset", str(rng.choice((0, -1, 2**62, "x")))),
        ("length", str(rng.choice((4, -1, 2**62, "")))),
    ):
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def duplicate(rng: random.Random, model: onnx.ModelProto) -> None:
    node = model.graph.node.add()
    node.CopyFrom(a_node(rng, model))
    if rng.random() < 0.5:
        node.output[:] = [f"{name}/again" for name in node.output]


def cycle(rng: random.Random, model: onnx.ModelProto) -> None:
    node, other = a_node(rng, model), a_node(rng, model)
    if node.input and other.output:
        node.input[0] = node.output[0] if node.output and rng.random() < 0.3 else other.output[0]


def shuffle(rng: random.Random, model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def opset(rng: random.Random, model: onnx.ModelProto) -> None:
    kind = rng.randrange(4)
    if kind == 0:
        model.opset_import[0].version = rng.choice((-1, 0, 1, 6, 9, 10, 11, 12, 13, 16, 22, 23, 27, 99, 2**40))
    elif kind == 1:
        model.opset_import.add(
            domain=rng.choice(("", "ai.onnx", "com.example", "ai.onnx.ml")), version=rng.randrange(30)
        )
    elif kind == 2:
        del model.opset_import[:]
    else:
        model.ir_version = rng.choice((-1, 0, 1, 3, 4, 10, 13, 99, 2**40))


def operator(rng: random.Random, model: onnx.ModelProto) -> None:
    node = a_node(rng, model)
    node.op_type = rng.choice(OPERATORS)
    if rng.random() < 0.2:
        node.domain = rng.choice(("com.example", "ai.onnx", "ai.onnx.ml", "com.microsoft"))


def insert_operator(rng: random.Random, model: onnx.ModelProto) -> None:
    """Between a node and its input, or on its weight."""
    node = a_node(rng, model)
    if node.input:
        place = rng.randrange(len(node.input))
        inputs = [node.input[place], *rng.choices(names(model), k=rng.choice((0, 0, 1, 2)))]
        made = f"made_{rng.randrange(10**6)}"
        model.graph.node.insert(0, helper.make_node(rng.choice(OPERATORS), inputs, [made]))
        node.input[place] = made


def shape_of_end(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type
    kind = rng.randrange(5)
    if kind == 0:
        tensor.ClearField("shape")
    elif kind == 1:
        tensor.elem_type = rng.randrange(0, 30)
    elif tensor.shape.dim:
        side = rng.choice(tensor.shape.dim)
        if kind == 2:
            side.dim_value = number(rng)
        elif kind == 3:
            side.dim_param = rng.choice(("batch", "", "ü"))
        else:
            tensor.shape.dim.add(dim_value=number(rng))


def value_info(rng: random.Random, model: onnx.ModelProto) -> None:
    shape = [number(rng) for _ in range(rng.randrange(6))]
    model.graph.value_info.append(helper.make_tensor_value_info(rng.choice(names(model)), rng.randrange(1, 20), shape))


def subgraph(rng: random.Random, model: onnx.ModelProto) -> None:
    """A node goes into a branch of an If, or into the body of a Loop."""
    node = a_node(rng, model)
    if not node.output:
        return
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    body = helper.make_graph([inner], "body", [], outputs)
    for _ in range(rng.choice((0, 0, 0, 1, 30))):
        body = helper.make_graph([branching(model, body, list(node.output))], "body", [], outputs)
    node.CopyFrom(branching(model, body, list(node.output)) if rng.random() < 0.7 else looping(rng, model, body))


def branching(model: onnx.ModelProto, body: onnx.GraphProto, outputs: list[str]) -> onnx.NodeProto:
    constant(model, "true", np.array(True))
    values = [helper.make_node("Constant", [], [name], value_float=0.0) for name in outputs]
    other = helper.make_graph(values, "other", [], list(body.output))
    return helper.make_node("If", ["true"], outputs, then_branch=body, else_branch=other)


def looping(rng: random.Random, model: onnx.ModelProto, body: onnx.GraphProto) -> onnx.NodeProto:
    constant(model, "true", np.array(True))
    constant(model, "times", np.array(rng.choice((0, 1, 3, -1, 2**62))))
    made = [value.name for value in body.output]
    body.input.extend(
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ]
    )
    body.output.insert(0, helper.make_tensor_value_info("go", TensorProto.BOOL, []))
    return helper.make_node("Loop", ["times", "true"], made, body=body)


def large_constant(rng: random.Random, model: onnx.ModelProto) -> None:
    """Arithmetic whose result is far larger than the file."""
    constant(model, "large", np.array([2 ** rng.choice((10, 34, 40)), 2 ** rng.choice((0, 10, 30))]))
    made = helper.make_node("ConstantOfShape", ["large"], ["zeros"])
    model.graph.node.insert(0, made)
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["zeros"], ["none"], keepdims=0))
    use(rng, model, helper.make_node("Add", ["", "none"], ["as_it_was"]), 2)


def endless_loop(rng: random.Random, model: onnx.ModelProto) -> None:
    """A weight that takes a Loop of constants forever to compute."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    constant(model, "true", np.array(True))
    constant(model, "times", np.array(2**62))
    node = helper.make_node("Loop", ["times", "true", "x"], ["looped"], body=body)
    use(rng, model, node, 0)


def function(rng: random.Random, model: onnx.ModelProto) -> None:
    """A local function, which may call itself or hide an operator."""
    node = a_node(rng, model)
    call = [helper.make_node("Again", ["x"], ["y"], domain="local")]
    idle = [helper.make_node("Identity", ["x"], ["y"])]
    name = rng.choice(("Again", "Relu", "Conv"))
    domain = rng.choice(("local", "local", ""))
    model.functions.append(
        helper.make_function(
            domain,
            name,
            ["x"],
            ["y"],
            rng.choice((call, idle)),
            [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)],
        )
    )
    model.opset_import.add(domain="local", version=1)
    if node.input and node.output:
        model.graph.node.insert(0, helper.make_node(name, [node.input[0]], ["called"], domain=domain))
        node.input[0] = "called"


def sparse(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = a_weight(rng, model)
    values, indices = (
        helper.make_tensor(tensor.name, 1, [1], [1.0]),
        helper.make_tensor("i", 7, [1], [number(rng) % 100]),
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, list(tensor.dims)))
    if rng.random() < 0.7:
        model.graph.initializer.remove(tensor)


def metadata(rng: random.Random, model: onnx.ModelProto) -> None:
    kind = rng.randrange(4)
    if kind == 0 or not model.metadata_props:
        model.metadata_props.add(key="edge_retina.spec", value=rng.choice(("", "{}", "[" * 50000, "null", "\x00")))
    elif kind == 1:
        del model.metadata_props[:]
    else:
        text = model.metadata_props[0].value
        at = rng.randrange(max(1, len(text)))
        model.metadata_props[0].value = (
            text[:at] + rng.choice(("9", "-", "e9", "null", "[", "", "1e400")) + text[at + 1 :]
        )


OPERATORS = (
    *(
        "Add",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Conv",
        "ConvTranspose",
        "Div",
    ),
    *(
        "Dropout",
        "Einsum",
        "Exp",
        "Expand",
        "Flatten",
        "Gather",
        "GatherND",
        "Gemm",
        "Identity",
        "If",
        "InstanceNormalization",
    ),
    *(
        "Loop",
        "MatMul",
        "MaxPool",
        "Mul",
        "NonMaxSuppression",
        "OneHot",
        "Pad",
        "Pow",
        "QuantizeLinear",
        "Range",
        "ReduceMax",
    ),
    *("Relu", "Reshape", "Resize", "Scan", "ScatterND", "SequenceAt", "Shape", "Sigmoid", "Slice", "Softmax", "Split"),
    *(
        "SplitToSequence",
        "Squeeze",
        "Sub",
        "Tile",
        "TopK",
        "Transpose",
        "Unsqueeze",
        "Upsample",
        "Where",
        "Nonsense",
        "",
    ),
)
NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 7, 64, 100, 65537, 2**31 - 1, 2**31, 2**40, 2**63 - 1)


def number(rng: random.Random) -> int:
    return rng.choice(NUMBERS)


def a_node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    return model.graph.node[rng.randrange(len(model.graph.node))]


def use(rng: random.Random, model: onnx.ModelProto, node: onnx.NodeProto, index: int) -> None:
    """Let the readers of some weight read what `node` makes of it."""
    weight = a_weight(rng, model).name
    readers = list(model.graph.node)[index:]
    node.input[:] = [name if name not in ("", "x") else weight for name in node.input]
    for reader in readers:
        reader.input[:] = [node.output[0] if name == weight else name for name in reader.input]
    model.graph.node.insert(index, node)


def a_weight(rng: random.Random, model: onnx.ModelProto) -> onnx.TensorProto:
    return model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    return numpy_helper.to_array(tensor)


def names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    found = [tensor.name for tensor in (*graph.input, *graph.output, *graph.initializer)]
    return found + [name for node in graph.node for name in node.output]


def constant(model: onnx.ModelProto, name: str, values: np.ndarray[Any, Any]) -> None:
    if name not in names(model):
        model.graph.initializer.append(numpy_helper.from_array(values, name))


BYTES = (flip, overwrite, truncate, insert, cut_out, repeat)
GRAPHS: tuple[Callable[[random.Random, onnx.ModelProto], None], ...] = (
    *(attribute, cycle, drop_end, drop_initializer, drop_node, duplicate, endless_loop, function, insert_operator),
    *(
        large_constant,
        lose_input,
        lose_output,
        metadata,
        more_inputs,
        move_weight_outside,
        opset,
        operator,
        refill_weight,
    ),
    *(rename, reshape_weight, retype_weight, rewire, shape_of_end, shuffle, sparse, subgraph, value_info),
)


def mutant(whole: bytes, seed: int) -> tuple[bytes, str]:
    """The file, and what was done to it. Two of three are mutations of the graph, one to three of them."""
    rng = random.Random(seed)
    if seed % 3 == 0:
        data = bytearray(whole)
        done = [rng.choice(BYTES) for _ in range(rng.choice((1, 1, 2)))]
        for change in done:
            if data:
                change(rng, data)
        return bytes(data), " ".join(change.__name__ for change in done)
    model = onnx.load_from_string(whole)
    done_to_graph = []
    for change_graph in rng.choices(GRAPHS, k=rng.choice((1, 1, 1, 2, 3))):
        # A second mutation may find nothing left to work on.
        with contextlib.suppress(Exception):
            change_graph(rng, model)
            done_to_graph.append(change_graph.__name__)
    return model.SerializeToString(), " ".join(done_to_graph)


def outcome(path: Path, *, run: bool) -> str:
    """What becomes of a file: "imported", "run", or the name of the error; a foreign exception comes through."""
    try:
        source = load_onnx(path)
        found = import_model(source)
        if not run:
            return "imported"
        model = rewrite(source.graph, found, least_opset=LEAST_OPSET if path.stat().st_size % 2 else None)
        check(model.SerializeToString(), found.spec)
    except EdgeRetinaError as exc:
        return type(exc).__name__
    return "run"


@pytest.mark.parametrize("name", BASES)
def test_mutants(name: str) -> None:
    """All of them in one process; its death is the failure, and the last line it printed says of which mutant."""
    first = 0 if MORE == 1 else 1_000_000
    command = [sys.executable, __file__, name, str(first), str(first + BASES[name] * MORE)]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False)
    lines = done.stdout.splitlines()
    last = f"{name} {lines[-1] if lines else 'before the first'}"
    assert done.returncode == 0, f"{last}: ended with {done.returncode}\n{done.stderr[-3000:]}"
    # That most mutants were refused before anybody looked at them would prove nothing.
    fates = [line.rsplit(" ", 1)[-1] for line in lines]
    assert len(fates) == BASES[name] * MORE
    assert sum(fate != "ModelError" for fate in fates) >= 0.1 * len(fates), fates


def main(name: str, first: int, last: int) -> None:
    """Run a range of mutants; a line for each, before and after."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    whole = base(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.onnx"
        (Path(folder) / "w.data").write_bytes(bytes(100))
        for seed in range(first, last):
            data, done = mutant(whole, seed)
            path.write_bytes(data)
            print(f"{seed}: {done}", end=" ", flush=True)
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            print(outcome(path, run=seed % RUN_EVERY == 1), flush=True)
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
