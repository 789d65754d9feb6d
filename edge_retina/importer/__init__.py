"""From a trainer's ONNX file to a DetectorSpec and the names of its head tensors; one file per family.

A new family is one file with `recognise(graph, metadata) -> Imported | None` and one line in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import NotADetector, SpecError, UsageError
from edge_retina.importer import own, torchvision
from edge_retina.importer.imported import HeadLayout, Imported, heads_from_dict, heads_to_dict
from edge_retina.importer.source import Source, load_onnx
from edge_retina.spec import METADATA_KEY, REQUIRED, DetectorSpec

__all__ = [
    "FAMILIES",
    "HeadLayout",
    "Imported",
    "Source",
    "heads_from_dict",
    "heads_to_dict",
    "import_model",
    "load_onnx",
]

Recognise = Callable[[gs.Graph, Mapping[str, str]], Imported | None]
FAMILIES: dict[str, Recognise] = {"edge_retina": own.recognise, "torchvision": torchvision.recognise}


def import_model(source: Source, *, family: str | None = None, overrides: Mapping[str, Any] | None = None) -> Imported:
    """Recognise the family of a detector and read its spec and heads.

    family: take this one, else all are tried. overrides: spec fields to replace (DetectorSpec.from_dict's names);
    with enough of them a graph that no family knows can be described. Raises NotADetector, SpecError, UsageError.
    """
    if family is not None and family not in FAMILIES:
        raise UsageError(f"unknown family {family!r}; use one of {', '.join(FAMILIES)}")
    chosen = FAMILIES if family is None else {family: FAMILIES[family]}
    overrides = {k: v for k, v in (overrides or {}).items() if k != "origins"}
    if overrides and METADATA_KEY in source.metadata and "edge_retina" in chosen:
        # Replaced before the graph is looked at, so that metadata which contradict it can be put right.
        written = own.parse(source.metadata[METADATA_KEY])
        given = dict.fromkeys(set(overrides) - {"heads"}, "user")
        origins = {**dict.fromkeys(set(written) - {"heads", "origins"}, "metadata"), **given}
        whole = own.described(source.graph, {**written, **overrides, "origins": {}}, "metadata")
        return replace(whole, spec=replace(whole.spec, origins=origins))
    found: dict[str, Imported] = {}
    refused: list[SpecError] = []
    for name, recognise in chosen.items():
        try:
            if hit := recognise(source.graph, source.metadata):
                found[name] = hit
        except SpecError as exc:  # one family's doubts must not hide another's certainty
            refused.append(exc)
    if len(found) > 1:
        raise SpecError(f"more than one family fits: {', '.join(found)}; choose one with --family")
    if found:
        hit = next(iter(found.values()))
        return _overridden(source.graph, hit, overrides) if overrides else hit
    if set(REQUIRED) <= set(overrides):
        return own.described(source.graph, overrides, "user")
    if refused:
        raise refused[0]
    if overrides:
        return own.described(source.graph, overrides, "user")  # which says what is missing
    raise NotADetector(_not_found(source.graph, list(chosen)))


def _overridden(graph: gs.Graph, hit: Imported, overrides: Mapping[str, Any]) -> Imported:
    """What was found with spec fields replaced, save those that the heads' shapes settle, or with other heads."""
    spec = hit.spec.override("user", **{name: value for name, value in overrides.items() if name != "heads"})
    if overrides.get("heads") is not None:
        found = own.described(graph, spec.to_dict() | {"heads": overrides["heads"]}, "user")
        return replace(found, spec=spec)
    for what, of in _SETTLED.items():
        if of(spec) != of(hit.spec):
            model = f"the heads of this {hit.spec.family} model"
            raise SpecError(f"the spec wants {what} {of(spec)}, {model} want {of(hit.spec)}")
    return replace(hit, spec=spec)


_SETTLED: dict[str, Callable[[DetectorSpec], object]] = {
    "number of labels": lambda spec: spec.num_classes,
    "input_size": lambda spec: spec.input_size,
    "level_shapes": lambda spec: spec.level_shapes,
    "anchors per cell": lambda spec: [len(cell) for cell in spec.cell_anchors],
}


def _not_found(graph: gs.Graph, families: list[str]) -> str:
    def table(tensors: list[gs.Tensor]) -> str:
        return "; ".join(f"{t.name} {list(t.shape) if t.shape is not None else '?'}" for t in tensors[:12]) or "none"

    return (
        f"no RetinaNet heads found (families tried: {', '.join(families)}). Looked for: the metadata key "
        f"{METADATA_KEY} (our own export), and torchvision's class and box subnets, two convolutions shared over the "
        "pyramid levels, A x K and A x 4 channels, concatenated over levels. "
        f"Found inputs: {table(graph.inputs)}; outputs: {table(graph.outputs)}. "
        "If these outputs are raw per-level heads [B, A*K, H, W] and [B, A*4, H, W], say what they mean with "
        f"--spec spec.json: {', '.join(REQUIRED)}"
    )
