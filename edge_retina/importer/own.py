"""Our own exports, and any ONNX whose exporter put a DetectorSpec into its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import static_copy, static_shape
from edge_retina.importer.imported import Imported, heads_from_dict
from edge_retina.spec import METADATA_KEY, DetectorSpec

__all__ = ["described", "from_spec", "parse", "recognise"]


def recognise(graph: gs.Graph, metadata: Mapping[str, str]) -> Imported | None:
    """Read the spec from metadata; None where there is none. Raises SpecError when it does not fit the graph."""
    if METADATA_KEY not in metadata:
        return None
    return described(graph, parse(metadata[METADATA_KEY]), "metadata")


def parse(text: str | bytes) -> dict[str, Any]:
    """A spec as JSON text, to a dict: the fields of DetectorSpec and, optionally, "heads". Raises SpecError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SpecError(f"DetectorSpec: wanted JSON, found text that does not parse: {exc}") from exc
    if not isinstance(data, dict):
        raise SpecError(f"DetectorSpec: wanted a JSON object, found {type(data).__name__}")
    return data


def described(graph: gs.Graph, data: Mapping[str, Any], origin: str) -> Imported:
    """What a complete spec says of a graph.

    data: the fields of DetectorSpec; "heads", where it is there, says which tensors are the heads and how they are laid
    out (imported.heads_to_dict), else from_spec finds them. Raises SpecError when they do not fit the graph.
    """
    spec = DetectorSpec.from_dict({name: value for name, value in data.items() if name != "heads"}, origin)
    _check_grids(spec)
    if data.get("heads") is None:
        return from_spec(graph, spec)
    found = heads_from_dict(spec, data["heads"])
    tensors = graph.tensors()
    if missing := [name for name in (found.trunk_input, *found.logits, *found.deltas) if name not in tensors]:
        outputs = _table([(t.name, list(t.shape or [])) for t in graph.outputs])
        raise SpecError(f"heads: the graph has no tensor {missing[0]!r}; its outputs are {outputs}")
    _check_heads(graph, found)
    return found


def _check_grids(spec: DetectorSpec) -> None:
    """A level's cells, a stride apart, cover the input, give or take the last cell; in the wrong order they do not."""
    for level, (cells, strides) in enumerate(zip(spec.level_shapes, spec.strides, strict=True)):
        for count, stride, side in zip(cells, strides, spec.input_size, strict=True):
            if not side - 2 * max(stride, count) < count * stride < side + stride:
                raise SpecError(
                    f"level {level} of the spec has {cells[0]}x{cells[1]} cells, strides {strides[0]}, {strides[1]}: "
                    f"not an input of {spec.input_size[0]}x{spec.input_size[1]}; put level_shapes, strides and "
                    "input_size right, levels fine to coarse"
                )


def _check_heads(graph: gs.Graph, found: Imported) -> None:
    """The tensors that a person named have the shapes that the spec and the layout give them, where these are known."""
    spec, layout = found.spec, found.layout
    copy = graph.copy()
    image = copy.tensors()[found.trunk_input]
    if any(image is tensor for tensor in copy.inputs) and layout.input == "nchw":
        for tensor in copy.tensors().values():
            if isinstance(tensor, gs.Variable):
                batch = image.shape[0] if image.shape else "batch"
                tensor.shape = [batch, 3, *spec.input_size] if tensor is image else None
    tensors = static_copy(copy).tensors()
    anchors = [h * w * len(cell) for (h, w), cell in zip(spec.level_shapes, spec.cell_anchors, strict=True)]
    for kind, names, channels in (("logits", found.logits, spec.num_classes), ("deltas", found.deltas, 4)):
        for level, name in enumerate(names):
            cell, (height, width) = len(spec.cell_anchors[level]), spec.level_shapes[level]
            wanted = {
                "nchw": (cell * channels, height, width),
                "nhwc": (height, width, cell * channels),
                "rows": (anchors[level], channels),
                "joined": (sum(anchors), channels),
            }[layout.heads]
            shape = static_shape(tensors[name]) if name in tensors else None
            if shape is not None and shape[1:] != wanted:
                raise SpecError(
                    f"heads: the spec wants {kind} {name!r} as [B, {', '.join(map(str, wanted))}] ({layout.heads}), in "
                    f"the graph it is {list(tensors[name].shape)}; put labels, cell_anchors, level_shapes or heads "
                    "right"
                )


def from_spec(graph: gs.Graph, spec: DetectorSpec) -> Imported:
    """Pair a complete spec with the outputs of a graph that ends in raw per-level heads.

    Rule: among the outputs [B, C, h, w] with the h, w of a level, the one with A * K channels holds its logits and the
    one with A * 4 its deltas; where A * K = A * 4, or two levels look alike, the order of the outputs decides: logits
    before deltas, fine before coarse. Shapes that the graph leaves open are inferred. `graph` is not changed.
    Raises SpecError, naming what was looked for and what is there.
    """
    image = _image_input(graph, spec)
    outputs = [(t.name, list(t.shape or [])) for t in _shaped_outputs(graph, image, spec)]
    heads: dict[str, list[str]] = {"logits": [], "deltas": []}
    taken: set[str] = set()
    for kind, channels in (("logits", spec.num_classes), ("deltas", 4)):
        for level, shape in enumerate(spec.level_shapes):
            wanted = [len(spec.cell_anchors[level]) * channels, *shape]
            match = next((n for n, s in outputs if n not in taken and len(s) == 4 and s[1:] == wanted), None)
            if match is None:
                raise SpecError(
                    f"the spec wants {kind} of level {level} as an output [B, {wanted[0]}, {wanted[1]}, {wanted[2]}]; "
                    f"the graph's outputs are {_table(outputs)}"
                )
            taken.add(match)
            heads[kind].append(match)
    channels_of = {len(cell) * channels for cell in spec.cell_anchors for channels in (spec.num_classes, 4)}
    left = [(n, s) for n, s in outputs if n not in taken and len(s) == 4 and s[1] in channels_of]
    if more := [(n, s) for n, s in left if tuple(s[2:]) not in spec.level_shapes]:
        raise SpecError(
            f"the spec has {spec.num_levels} levels, the graph more outputs that look like heads: {_table(more)}; "
            "describe all levels in strides, level_shapes and cell_anchors, or name the heads in the spec's heads"
        )
    return Imported(spec, image.name, tuple(heads["logits"]), tuple(heads["deltas"]))


def _image_input(graph: gs.Graph, spec: DetectorSpec) -> gs.Tensor:
    """The one input with four axes; an axis may be open, but not contradict the spec."""
    images = [t for t in graph.inputs if len(t.shape or []) == 4]
    if len(images) != 1:
        inputs = _table([(t.name, list(t.shape or [])) for t in graph.inputs])
        raise SpecError(f"wanted one image input [B, 3, H, W], found {inputs}")
    pairs = zip(images[0].shape[1:], (3, *spec.input_size), strict=True)
    if any(isinstance(size, int) and size != wanted for size, wanted in pairs):
        raise SpecError(
            f"the spec's input_size {list(spec.input_size)} wants an input [B, 3, {spec.input_size[0]}, "
            f"{spec.input_size[1]}]; the graph's input {images[0].name} is {list(images[0].shape)}"
        )
    return images[0]


def _shaped_outputs(graph: gs.Graph, image: gs.Tensor, spec: DetectorSpec) -> Sequence[gs.Tensor]:
    """The graph's outputs; where the shape of one is open, all as they are for the spec's input size."""
    if all(static_shape(tensor) is not None for tensor in graph.outputs):
        return graph.outputs  # type: ignore[no-any-return]
    copy = graph.copy()
    for tensor in copy.tensors().values():
        if isinstance(tensor, gs.Variable):
            tensor.shape = [image.shape[0], 3, *spec.input_size] if tensor.name == image.name else None
    return static_copy(copy).outputs  # type: ignore[no-any-return]


def _table(tensors: list[tuple[str, list[object]]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in tensors) or "none"
