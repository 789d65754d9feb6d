"""Reading an ONNX file: what a stranger's file may do to us is stopped here."""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePath

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from edge_retina.errors import ModelError
from edge_retina.importer.heads import constant, nodes_of

__all__ = ["Source", "load_onnx"]

# Reduce* and Squeeze took their modern form at 13; what is older is converted to this.
_OLDEST_OPSET, _CONVERT_TO = 13, 17
_MAX_BYTES = 2**31 - 1
_LEAST_IR = 4
_LISTS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
_MAX_NODES = 100_000  # of which the largest RetinaNets have some thousands
_LFS_POINTER = b"version https://git-lfs"
_MAX_DIGITS = 18
_PACKED = {"INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4}
_PACKED_BITS = {getattr(onnx.TensorProto, name): n for name, n in _PACKED.items() if hasattr(onnx.TensorProto, name)}
_AGAIN = "copy or export it again"


class Source:
    """An ONNX file read into memory: graph, metadata, digest of its bytes (external data included).

    The graph is tidied: nodes that no output depends on are gone, no two nodes have one name, a Constant node holds a
    tensor, local functions are written out; Identity and, as it is at inference, Dropout are gone save at the outputs,
    and aliases tells what their tensors are called now.
    """

    def __init__(self, model: onnx.ModelProto, digest: str) -> None:
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.opset = _opset(model)
        self.digest = digest
        with G_LOGGER.suppress(G_LOGGER.ERROR):  # which would write to stdout
            self.graph: gs.Graph = gs.import_onnx(model)
            self.graph.cleanup(remove_unused_graph_inputs=False)
        # Below 4 weights would have to be inputs, which graphsurgeon does not write.
        self.graph.ir_version = max(_LEAST_IR, self.graph.ir_version or _LEAST_IR)
        self.aliases = _tidy(self.graph)


def _tidy(graph: gs.Graph) -> dict[str, str]:
    taken = {node.name for node in graph.nodes}
    seen: set[str] = set()
    for number, node in enumerate(graph.nodes):
        if node.name in seen and node.name:  # ONNX Runtime refuses them
            node.name = next(name for n in count(number) if (name := f"{node.name}_{n}") not in taken)
            taken.add(node.name)
        seen.add(node.name)
        for kind in (_LISTS.keys() & node.attrs.keys()) if node.op == "Constant" else ():
            value = np.array(node.attrs.pop(kind), _LISTS[kind])
            node.attrs["value"] = gs.Constant(node.outputs[0].name, value)
        if node.op == "Dropout" and _is_idle(graph, node):
            node.op, node.attrs = "Identity", {}
            node.inputs, node.outputs = node.inputs[:1], node.outputs[:1]

    return _bypass(graph)


def _bypass(graph: gs.Graph) -> dict[str, str]:
    """Let the readers of an Identity read its input, for recognisers look at neighbours; outputs keep their names.

    Returns the names that are gone, each with that of the tensor that holds the same.
    """
    aliases: dict[str, str] = {}
    inner = [value for node in nodes_of(graph) for value in node.attrs.values() if isinstance(value, gs.Graph)]
    ends = {id(tensor) for part in (graph, *inner) for tensor in part.outputs}
    for node in graph.nodes:
        if node.op == "Identity" and node.domain in (None, "", "ai.onnx") and id(node.outputs[0]) not in ends:
            (before,), (after,) = node.inputs, node.outputs
            aliases[after.name] = aliases.get(before.name, before.name)
            for reader in list(after.outputs):
                reader.inputs = [before if tensor is after else tensor for tensor in reader.inputs]
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes = [node for node in graph.nodes if node.outputs]
    return aliases


def _is_idle(graph: gs.Graph, dropout: gs.Node) -> bool:
    training = dropout.inputs[2] if len(dropout.inputs) > 2 and not dropout.inputs[2].is_empty() else None
    mask = dropout.outputs[1] if len(dropout.outputs) > 1 else None
    wanted = mask is not None and (bool(mask.outputs) or any(mask is output for output in graph.outputs))
    mode = constant(training) if training is not None else np.zeros(1)
    return not wanted and mode is not None and not mode.any()


def load_onnx(path: Path) -> Source:
    """Read and check an ONNX file.

    Raises ModelError: missing, not ONNX, truncated, over 2 GiB, external data missing or outside the file's folder, a
    weight whose bytes do not fit its shape, an opset that cannot be converted.
    """
    data = _read(path)
    if data[:4] == b"PK\x03\x04":
        raise ModelError(
            f"{path}: wanted an ONNX file, found a zip; a bundle is run with: edge-retina run {path}; a PyTorch "
            "checkpoint has to be exported to ONNX first"
        )
    if data.startswith(_LFS_POINTER):
        raise ModelError(f"{path}: wanted an ONNX file, found a Git LFS pointer to it; run: git lfs pull")
    try:
        model = onnx.load_from_string(data)
    except Exception as exc:  # protobuf's DecodeError, whose home depends on the installed protobuf
        raise ModelError(
            f"{path}: wanted an ONNX file, found something that does not parse ({_first(exc)}); if it was one, it is "
            f"cut short or damaged: {_AGAIN}"
        ) from exc
    if not model.graph.node:
        raise ModelError(
            f"{path}: wanted an ONNX model, found a graph without nodes (an empty or truncated file?); {_AGAIN}"
        )
    digest = hashlib.sha256(data)
    for tensor in _load_outside(path, model):
        digest.update(tensor.raw_data)
    try:
        onnx.checker.check_model(model)
        for tensor in _tensors(model):
            _check_tensor(path, tensor)
        _check_opset(path, model)
        model = _inlined(path, model)
        if _opset(model) < _OLDEST_OPSET:
            model = _converted(path, model)
        return Source(model, digest.hexdigest())
    except ModelError:
        raise
    except Exception as exc:  # checker and graphsurgeon raise what they like
        raise ModelError(f"{path}: not a valid ONNX model: {_first(exc)}; export it again") from exc


def _read(path: Path) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for a writer
            raise ModelError(f"{path}: wanted an ONNX file, found a folder or a device")
        if facts.st_size > _MAX_BYTES:
            raise ModelError(f"{path}: larger than 2 GiB; store its weights as external data beside it")
        return path.read_bytes()
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL in it
        raise ModelError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


def _load_outside(path: Path, model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Read external data, from regular files in the model's folder or below only; the tensors that it was for."""
    outside = [t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    size = 0
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = PurePath(entries.get("location", ""))
        if place.is_absolute() or ".." in place.parts:
            raise ModelError(
                f"{path}: its weights are in a second file that cannot be read: {str(place)!r} lies outside the "
                "model's folder; put it there and save the model with a relative name"
            )
        file = path.parent / place
        if file.exists() and not file.is_file():  # opening a pipe would wait for a writer
            raise ModelError(f"{path}: its weights are in a second file that cannot be read: {file} is no file")
        length = entries.get("length", "")
        size += int(length) if length.isdecimal() and len(length) < _MAX_DIGITS else 0
    if size > _MAX_BYTES:
        raise ModelError(f"{path}: its weights are {size / 2**30:.1f} GiB; 2 GiB is the most; export it in FP16")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # entries that it does not know
            onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as exc:  # OSError, ValueError or onnx's own ValidationError
        raise ModelError(
            f"{path}: its weights are in a second file that cannot be read: {_first(exc)}; copy that file too"
        ) from exc
    return outside


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a model, those in subgraphs and functions included."""
    for graph in _graphs(model.graph, *model.functions):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _graphs(*outer: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """These, and every subgraph in them."""
    waiting = list(outer)
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of its local functions for their calls: heads are found wherever they are."""
    if not model.functions:
        return model
    calls = {
        (f.domain, f.name): [(node.domain, node.op_type) for graph in _graphs(f) for node in graph.node]
        for f in model.functions
    }
    size: dict[tuple[str, str], int] = {}
    while ready := [key for key in calls if key not in size and all(c in size for c in calls[key] if c in calls)]:
        for key in ready:
            size[key] = sum(size.get(call, 1) for call in calls[key])
    whole = sum(size.get((node.domain, node.op_type), 1) for graph in _graphs(model.graph) for node in graph.node)
    if endless := sorted(calls.keys() - size.keys()):
        raise ModelError(f"{path}: not a valid ONNX model: function {endless[0][1]!r} calls itself; export it again")
    if whole > _MAX_NODES:
        raise ModelError(f"{path}: {whole} nodes once its functions are written out, {_MAX_NODES} are the most")
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    return inlined


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """The checker lets pass a weight with more bytes than its shape wants, which then fails wherever it is used."""
    what = f"{path}: not a valid ONNX model: weight {tensor.name!r} does not fit its shape {list(tensor.dims)}"
    try:
        values = onnx.numpy_helper.to_array(tensor)
    except Exception as exc:  # what to_array raises is not documented
        raise ModelError(f"{what} ({_first(exc)}); the file is damaged: {_AGAIN}") from exc
    size = -(-values.size * _PACKED_BITS.get(tensor.data_type, 8 * values.itemsize) // 8)
    # A side of -1; or packed numbers, of which too many are taken for padding.
    if list(values.shape) != list(tensor.dims) or (tensor.HasField("raw_data") and len(tensor.raw_data) != size):
        raise ModelError(f"{what}; the file is damaged: {_AGAIN}")


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    if _opset(model) > (newest := onnx.defs.onnx_opset_version()):
        raise ModelError(
            f"{path}: opset {_opset(model)} is newer than the installed onnx {onnx.__version__} knows ({newest}); "
            f"pip install -U onnx onnxruntime, or export the model with opset_version={_CONVERT_TO}"
        )


def _converted(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset _CONVERT_TO, metadata kept."""
    try:
        new = onnx.version_converter.convert_version(model, _CONVERT_TO)
    except Exception as exc:  # the converter raises what it likes
        raise ModelError(
            f"{path}: opset {_opset(model)} cannot be converted to {_CONVERT_TO} ({_first(exc)}); export the model "
            f"again, with torch.onnx.export(..., opset_version={_CONVERT_TO})"
        ) from exc
    del new.metadata_props[:]
    new.metadata_props.extend(model.metadata_props)
    return new


def _first(exc: BaseException) -> str:
    """First line of a foreign message, at a bearable length."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
