"""What a model or a bundle is, field by field with its origin, and what build would do to it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_retina.bundle import read_bundle
from edge_retina.spec import DetectorSpec

if TYPE_CHECKING:
    from edge_retina.importer import Imported

__all__ = ["inspect_file", "is_zip", "rows", "spec_file", "start_spec"]


def inspect_file(
    path: Path, *, family: str | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Facts about an ONNX or a bundle, as plain JSON values.

    Keys: kind ("onnx" or "bundle"), file, spec (with origins), candidates; for an ONNX opset, digest, heads (as
    importer.heads_to_dict has them) and `rewrite`, the steps build would take; for a bundle its manifest. Raises
    ModelError, BundleError.
    """
    if path.suffix == ".edge" or is_zip(path):
        bundle = read_bundle(path)
        m = bundle.manifest
        return {
            "kind": "bundle",
            "file": str(path),
            "digest": bundle.digest,
            "format": m.format,
            "edge_retina": m.edge_retina,
            "precision": m.precision,
            "frame_size": m.frame_size,
            "batch_max": m.batch_max,
            "model_digest": m.model_digest,
            "members": {name: member.size for name, member in m.members.items()},
            "tools": dict(m.tools),
            "spec": bundle.spec.to_dict(),
            "candidates": bundle.spec.candidates(),
        }
    from edge_retina.importer import heads_to_dict, import_model, load_onnx

    source = load_onnx(path)
    found = import_model(source, family=family, overrides=overrides)
    spec = found.spec
    return {
        "kind": "onnx",
        "file": str(path),
        "digest": source.digest,
        "opset": source.opset,
        "nodes": len(source.graph.nodes),
        "spec": spec.to_dict(),
        "candidates": spec.candidates(),
        "heads": heads_to_dict(found),
        "rewrite": _steps(found, len(source.graph.nodes)),
    }


def is_zip(path: Path) -> bool:
    """By its first bytes; False for what cannot be read, of which the reader then has more to say."""
    with contextlib.suppress(OSError):
        if path.is_file():  # opening a pipe would wait for a writer
            with path.open("rb") as file:
                return file.read(4) == b"PK\x03\x04"
    return False


def spec_file(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `--spec` reads: spec and heads of an ONNX, out of inspect_file's facts. Reading it gives the same model."""
    return {name: value for name, value in facts["spec"].items() if name != "origins"} | {"heads": facts["heads"]}


def start_spec(path: Path) -> dict[str, Any]:
    """A spec file for an ONNX that no family knows, None where the graph does not say. Raises ModelError."""
    from edge_retina.importer import load_onnx
    from edge_retina.outline import outline

    return outline(load_onnx(path))


def _steps(found: Imported, nodes: int) -> list[str]:
    from edge_retina.importer import HeadLayout

    spec, layout, plain = found.spec, found.layout, HeadLayout()
    height, width = spec.input_size
    k = spec.max_detections
    scope = "all levels" if spec.top_k_scope == "all" else "each level"
    heads = len(found.logits) + len(found.deltas)
    unlike = [
        f"{f.name} {_plain(getattr(layout, f.name))}"
        for f in fields(layout)
        if f.name != "activated" and getattr(layout, f.name) != getattr(plain, f.name)
    ]
    unlike += ["scores after the sigmoid"] if layout.activated else []
    return [
        *([f"canonical: {', '.join(unlike)} become [B, A*K, H, W] and [B, A*4, H, W]"] if unlike else []),
        f"heads: keep what lies between {found.trunk_input!r} and the {heads} head tensors, of {nodes} nodes",
        f"frame_input: frames uint8 [B, H, W, 3] BGR, {spec.resize} to {width}x{height}, then {spec.color_order}, "
        "normalised",
        f"decode: edge_retina::AnchorDecode, the best {spec.top_k} pairs of {scope} above {spec.score_threshold}",
        f"nms: IoU above {spec.nms_iou} suppresses, {'within' if spec.class_aware_nms else 'across'} classes; "
        f"boxes [B, {k}, 4], scores [B, {k}], labels [B, {k}], count [B] out, in frame pixels",
    ]


def rows(spec: DetectorSpec) -> list[tuple[str, str, str]]:
    """The spec for people: (field, value, origin), anchors as size and aspect ratio."""
    simple = {
        "family": spec.family,
        "labels": f"{spec.num_classes}: {', '.join(spec.labels[:8])}{', ...' if spec.num_classes > 8 else ''}",
        "input_size": f"{spec.input_size[0]} x {spec.input_size[1]} (H x W)",
        "color_order": spec.color_order,
        "mean": _numbers(spec.mean) + "  (pixels 0..255)",
        "std": _numbers(spec.std),
        "pad_value": _numbers(spec.pad_value),
        "resize": spec.resize,
        "shortest_side": "-" if spec.shortest_side is None else "shortest {}, longest {}".format(*spec.shortest_side),
        "rounding": spec.rounding,
        "placement": spec.placement,
        "strides": ", ".join(str(y) if y == x else f"{y} x {x}" for y, x in spec.strides),
        "level_shapes": ", ".join(f"{h}x{w}" for h, w in spec.level_shapes),
        "cell_anchors": "",
        "box_coding": spec.box_coding,
        "delta_weights": _numbers(spec.delta_weights),
        "max_log_scale": f"{spec.max_log_scale:.6g}",
        "inclusive_pixels": "yes" if spec.inclusive_pixels else "no",
        "clip": spec.clip,
        "drop_empty": "yes" if spec.drop_empty else "no",
        "score_threshold": f"{spec.score_threshold:g}",
        "class_choice": spec.class_choice,
        "top_k": str(spec.top_k),
        "top_k_scope": spec.top_k_scope,
        "nms_iou": f"{spec.nms_iou:g}",
        "class_aware_nms": "yes" if spec.class_aware_nms else "no",
        "max_detections": str(spec.max_detections),
    }
    result = []
    for name, value in simple.items():
        origin = spec.origins.get(name, "default")
        if name == "cell_anchors":
            for level, cell in enumerate(spec.cell_anchors):
                result.append((f"anchors, level {level}", _anchors(cell), origin))
        else:
            result.append((name, value, origin))
    return result


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _anchors(cell: tuple[tuple[float, float, float, float], ...]) -> str:
    """Sizes and height/width ratios of a level, one value each where they repeat."""
    sizes = sorted({round(math.sqrt((x2 - x1) * (y2 - y1)), 1) for x1, y1, x2, y2 in cell})
    ratios = sorted({round((y2 - y1) / (x2 - x1), 2) for x1, y1, x2, y2 in cell})
    return f"{len(cell)}: sizes {', '.join(f'{s:g}' for s in sizes)}; ratios {', '.join(f'{r:g}' for r in ratios)}"
