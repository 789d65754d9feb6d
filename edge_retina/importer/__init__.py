"""From a trainer's ONNX file to a DetectorSpec and the names of its head tensors; one file per family.

A new family is one file with a `recognise` (see Family) and one line in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import NotADetector, SpecError, UsageError
from edge_retina.importer import (
    deepforest,
    detectron2,
    effdet,
    keras_hub,
    keras_retinanet,
    mlperf,
    mmdet,
    odtk,
    own,
    torchvision,
)
from edge_retina.importer.heads import sized
from edge_retina.importer.imported import HeadLayout, Imported, heads_from_dict, heads_to_dict
from edge_retina.importer.source import Source, load_onnx
from edge_retina.spec import METADATA_KEY, REQUIRED, DetectorSpec

__all__ = [
    "FAMILIES",
    "Family",
    "HeadLayout",
    "Imported",
    "Source",
    "heads_from_dict",
    "heads_to_dict",
    "import_model",
    "load_onnx",
]


@dataclass(frozen=True)
class Family:
    """A trainer whose exports are known.

    recognise: takes a graph, which it leaves as it is, and the ONNX metadata; what it found, None when the graph is not
    of this family, SpecError when it is and something cannot be known. looks_for: what tells it, for messages. kin: one
    of several trainers who build of the same classes; recognise then takes `given`, the spec fields that the user gave,
    and `forced`, to accept what could be a kin's too.
    """

    recognise: Callable[..., Imported | None]
    looks_for: str
    kin: bool = False


FAMILIES: dict[str, Family] = {
    "edge_retina": Family(own.recognise, f"the metadata key {METADATA_KEY} (our own exports and exporters)"),
    "torchvision": Family(torchvision.recognise, "two shared 3x3 Convs, permuted to rows, concatenated", kin=True),
    "deepforest": Family(deepforest.recognise, "torchvision's heads, NMS at IoU 0.05", kin=True),
    "mlperf": Family(mlperf.recognise, "torchvision's heads, 264 classes, a backbone of grouped Convs", kin=True),
    "odtk": Family(odtk.recognise, "outputs score_1..5 after a Sigmoid and box_1..5"),
    "mmdet": Family(mmdet.recognise, "5 class then 5 box outputs, retina_cls or P7 straight from P6"),
    "detectron2": Family(detectron2.recognise, "its layer names, or a pixel mean 0..255 subtracted before the heads"),
    "effdet": Family(effdet.recognise, "a BiFPN: sums over stacks of two or three maps"),
    "keras_hub": Family(keras_hub.recognise, "an NHWC input, rows of deltas and of logits as the two outputs"),
    "keras_retinanet": Family(keras_retinanet.recognise, "an NHWC input, rows of deltas and, after a Sigmoid, scores"),
}


def __getattr__(name: str) -> Any:
    """export_torchvision and its kin, one for each file in exporters/; who only imports a model need not load them."""
    family = name.removeprefix("export_")
    if family == name or not (Path(__file__).parent / "exporters" / f"{family}.py").is_file():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.exporters.{family}"), name)


def import_model(source: Source, *, family: str | None = None, overrides: Mapping[str, Any] | None = None) -> Imported:
    """Recognise the family of a detector and read its spec and heads.

    family: take this one, else all are tried. overrides: spec fields to replace (DetectorSpec.from_dict's names);
    with enough of them a graph that no family knows can be described. Raises NotADetector, SpecError, UsageError.
    """
    if family is not None and family not in FAMILIES:
        raise UsageError(f"unknown family {family!r}; use one of {', '.join(FAMILIES)}")
    chosen = FAMILIES if family is None else {family: FAMILIES[family]}
    overrides = {k: v for k, v in (overrides or {}).items() if k != "origins"}
    if isinstance(overrides.get("heads"), dict):
        overrides["heads"] = _renamed(overrides["heads"], source.aliases)
    if overrides and METADATA_KEY in source.metadata and "edge_retina" in chosen:
        # Replaced before the graph is looked at, so that metadata which contradict it can be put right.
        written = own.parse(source.metadata[METADATA_KEY])
        if "mean" in overrides and written.get("pad_value") == written.get("mean"):
            overrides.setdefault("pad_value", overrides["mean"])
        given = dict.fromkeys(set(overrides) - {"heads"}, "user")
        origins = {**dict.fromkeys(set(written) - {"heads", "origins"}, "metadata"), **given}
        whole = own.described(source.graph, {**written, **overrides, "origins": {}}, "metadata")
        return replace(whole, spec=replace(whole.spec, origins=origins))
    found: dict[str, Imported] = {}
    refused: list[SpecError] = []
    stumbled: list[SpecError] = []
    size = _size(overrides.get("input_size"))
    graph = source.graph if size is None else sized(source.graph, size)
    for name, entry in chosen.items():
        more = {"given": overrides, "forced": family is not None} if entry.kin else {}
        try:
            if hit := entry.recognise(graph, source.metadata, **more):
                found[name] = hit
        except SpecError as exc:  # one family's doubts must not hide another's certainty
            refused.append(exc)
        except Exception as exc:  # a graph that no exporter writes: damaged, or made to hurt
            what = f"{name}: this graph cannot be read as one of its exports ({type(exc).__name__}: {exc})"
            stumbled.append(SpecError(f"{what[:300]}; export it again, or describe it with --spec spec.json"))
            stumbled[-1].__cause__ = exc
    refused += stumbled
    if len(found) > 1:
        why = "; ".join(f"{name} ({FAMILIES[name].looks_for})" for name in found)
        raise SpecError(f"more than one family fits: {why}; choose one with --family")
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


def _renamed(heads: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Heads named by a person, who may have seen an Identity's output that is no longer there."""

    def now(name: Any) -> Any:
        return aliases.get(name, name) if isinstance(name, str) else name

    return {k: [now(n) for n in v] if isinstance(v, list | tuple) else now(v) for k, v in heads.items()}


def _size(given: Any) -> tuple[int, int] | None:
    """A height and width from the user, None when there is none. Raises SpecError for a wrong one."""
    if given is None:
        return None
    pair = tuple(given) if isinstance(given, list | tuple) else ()
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise SpecError(f"input_size wants height and width in pixels, such as [800, 1344], found {given!r}")
    return pair


def _overridden(graph: gs.Graph, hit: Imported, overrides: Mapping[str, Any]) -> Imported:
    """What was found with spec fields replaced, save those that the heads' shapes settle, or with other heads."""
    fields = {name: value for name, value in overrides.items() if name != "heads"}
    if "mean" in fields and hit.spec.pad_value == hit.spec.mean:  # zeros, padded after normalising
        fields.setdefault("pad_value", fields["mean"])
    spec = hit.spec.override("user", **fields)
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
        f"no RetinaNet heads found (families tried: {', '.join(families)}). Found inputs: {table(graph.inputs)}; "
        f"outputs: {table(graph.outputs)}. Looked for: {'; '.join(f'{n}: {FAMILIES[n].looks_for}' for n in families)}. "
        f"If these outputs are a RetinaNet's heads, say what they mean with --spec spec.json: {', '.join(REQUIRED)}; "
        "to start one: edge-retina inspect MODEL.onnx --write-spec spec.json"
    )
