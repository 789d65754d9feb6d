"""Running a graph in stages, so that intermediate tensors can be looked at without all being held at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from edge_retina.errors import ModelError, RuntimeFailure
from edge_retina.types import F32, U8

__all__ = ["Stages", "needed_nodes", "run_stages", "split"]

# Bytes of looked-at tensors that one stage may hand over.
_BUDGET = 64 << 20


@dataclass(frozen=True)
class _Stage:
    session: ort.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]  # what no later stage reads


@dataclass(frozen=True)
class Stages:
    """A graph cut into stages. wanted: the tensors that a visitor sees."""

    stages: tuple[_Stage, ...]
    wanted: frozenset[str]


def split(model: onnx.ModelProto, wanted: Collection[str], *, budget: int = _BUDGET) -> Stages:
    """Cut a model with the input `frames` into stages, each of which ends once it handed over `budget` bytes.

    budget: of wanted tensors, for one frame. Only what they depend on is kept. A stage ends behind a wanted tensor, so
    that no fusion is cut. Raises ModelError when no node makes a wanted tensor, RuntimeFailure.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    sizes = {v.name: _bytes(v.type.tensor_type) for v in [*inferred.graph.value_info, *inferred.graph.output]}
    nodes = needed_nodes(model.graph, set(wanted))
    if missing := sorted(set(wanted).difference(*(node.output for node in nodes))):
        raise ModelError(f"wanted the tensor {missing[0]!r}, which no node of the model makes; calibrate anew")
    readers: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for name in node.input:
            readers[name] = position
    groups: list[list[int]] = [[]]
    held = 0
    for position, node in enumerate(nodes):
        groups[-1].append(position)
        held += sum(sizes.get(name, 0) for name in node.output if name in wanted)
        if held >= budget and any(name in wanted for name in node.output):
            groups.append([])
            held = 0
    weights = {t.name: t for t in model.graph.initializer}
    stages, made_before = [], {"frames"}
    for group in groups:
        if not group:
            continue
        made = [name for i in group for name in nodes[i].output if name]
        reads = [name for i in group for name in nodes[i].input if name]
        inputs = [n for n in dict.fromkeys(reads) if n not in weights and n not in made]
        last = group[-1]
        outputs = [n for n in made if n in wanted or readers.get(n, -1) > last]
        made_before |= set(made)
        done = sorted(n for n in made_before if readers.get(n, -1) <= last)
        made_before -= set(done)
        used = [weights[name] for name in dict.fromkeys(reads) if name in weights]
        proto = _submodel(inferred, [nodes[i] for i in group], inputs, outputs, used)
        stages.append(_Stage(_session(proto), tuple(inputs), tuple(outputs), tuple(done)))
    return Stages(tuple(stages), frozenset(wanted))


def run_stages(stages: Stages, frame: U8, visit: Callable[[str, F32], None]) -> None:
    """Run one frame, uint8 (H, W, 3), and show each wanted tensor to `visit` once. Raises RuntimeFailure."""
    alive: dict[str, npt.NDArray[Any]] = {"frames": frame[None]}
    for stage in stages.stages:
        try:
            results = stage.session.run(list(stage.outputs), {name: alive[name] for name in stage.inputs})
        except Exception as exc:  # onnxruntime's errors have no common base
            raise RuntimeFailure(f"ONNX Runtime failed while calibrating: {str(exc)[:300]}") from exc
        alive |= dict(zip(stage.outputs, results, strict=True))
        for name in stage.outputs:
            if name in stages.wanted:
                visit(name, alive[name])
        for name in stage.done:
            alive.pop(name, None)


def needed_nodes(graph: onnx.GraphProto, wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted tensors depend on, in graph order."""
    needed, kept = set(wanted), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _bytes(tensor: Any) -> int:
    """Size for batch 1; 0 where it is not known, as in front of the trunk."""
    dims = [d.dim_value for d in tensor.shape.dim]
    return int(np.prod([max(d, 1) for d in dims])) * 4 if dims and all(dims[1:]) else 0


def _submodel(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: list[str],
    outputs: list[str],
    weights: list[onnx.TensorProto],
) -> bytes:
    given: dict[str, onnx.ValueInfoProto] = {v.name: v for v in model.graph.input}
    known = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}

    def info(name: str) -> onnx.ValueInfoProto:
        if name in given:
            return given[name]  # with its shape, so that a frame of another size is refused
        kind = known[name].type.tensor_type.elem_type if name in known else onnx.TensorProto.FLOAT
        return onnx.helper.make_tensor_value_info(name, kind, None)

    graph = onnx.helper.make_graph(nodes, "stage", [info(n) for n in inputs], [info(n) for n in outputs], weights)
    proto = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    data: bytes = proto.SerializeToString()
    return data


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # An arena keeps what it once held, and there is one per stage: together they would hold all tensors at once.
    options.enable_cpu_mem_arena = False
    # Each stage has threads of its own; those that wait must not spin while another stage works.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise RuntimeFailure(f"ONNX Runtime {ort.__version__} refuses a part of the model: {str(exc)[:300]}") from exc
