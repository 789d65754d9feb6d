"""What every importer returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edge_retina.errors import SpecError
from edge_retina.spec import DetectorSpec

__all__ = ["HeadLayout", "Imported", "heads_from_dict", "heads_to_dict"]

_INPUTS, _HEADS = ("nchw", "nhwc"), ("nchw", "nhwc", "rows", "joined")


@dataclass(frozen=True)
class HeadLayout:
    """How a graph's input and heads differ from [B, 3, H, W], [B, A * K, H, W] and [B, A * 4, H, W].

    input: "nchw" or "nhwc". heads: "nchw" or "nhwc" per level, "rows" [B, H * W * A, C] per level, index
    (y * W + x) * A + a, or "joined", one tensor with the rows of all levels. class_major: channel k * A + a instead of
    a * K + k. delta_order: where dx, dy, dw, dh stand among the stored four. activated: scores after the sigmoid
    instead of logits. Raises SpecError.
    """

    input: str = "nchw"
    heads: str = "nchw"
    class_major: bool = False
    delta_order: tuple[int, ...] = (0, 1, 2, 3)
    activated: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("input", _INPUTS), ("heads", _HEADS)):
            if getattr(self, name) not in choices:
                raise SpecError(f"heads: {name} wants one of {', '.join(choices)}, found {getattr(self, name)!r}")
        if any(type(place) is not int for place in self.delta_order) or sorted(self.delta_order) != [0, 1, 2, 3]:
            raise SpecError(f"heads: delta_order wants 0, 1, 2, 3 in some order, found {list(self.delta_order)}")
        for name in ("class_major", "activated"):
            if not isinstance(getattr(self, name), bool):
                raise SpecError(f"heads: {name} wants true or false, found {getattr(self, name)!r}")
        if self.class_major and self.heads not in ("nchw", "nhwc"):
            raise SpecError(f"heads: class_major goes with nchw and nhwc, found heads={self.heads!r}")


@dataclass(frozen=True)
class Imported:
    """What an importer found in a graph.

    trunk_input: the tensor that holds the normalised network input, float [B, 3, H, W]; everything before it is cut
    off. logits, deltas: per level, the tensors [B, A * K, H, W] (channel a * K + k, before the sigmoid) and
    [B, A * 4, H, W]; everything after them is cut off. layout: how these tensors differ from that.
    """

    spec: DetectorSpec
    trunk_input: str
    logits: tuple[str, ...]
    deltas: tuple[str, ...]
    layout: HeadLayout = field(default_factory=HeadLayout)


def heads_to_dict(found: Imported) -> dict[str, Any]:
    """Where the heads are, as plain values for a spec file."""
    names = {"trunk_input": found.trunk_input, "logits": list(found.logits), "deltas": list(found.deltas)}
    return {**names, **asdict(found.layout), "delta_order": list(found.layout.delta_order)}


def heads_from_dict(spec: DetectorSpec, data: Any) -> Imported:
    """What heads_to_dict wrote, with the spec of its file. Raises SpecError."""
    known = {"trunk_input", "logits", "deltas", *(f.name for f in fields(HeadLayout))}
    if not isinstance(data, dict) or not {"trunk_input", "logits", "deltas"} <= set(data) <= known:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise SpecError(
            f"heads wants an object with trunk_input, logits, deltas and some of {sorted(known)}, found {found}"
        )
    try:
        layout: dict[str, Any] = {k: tuple(v) if k == "delta_order" else v for k, v in data.items() if k not in _NAMES}
        logits, deltas = (tuple(data[kind]) for kind in ("logits", "deltas"))
        shape = HeadLayout(**layout)
    except TypeError as exc:
        raise SpecError(
            f"heads: logits and deltas want lists of tensor names, delta_order four numbers ({exc})"
        ) from exc
    wanted = 1 if shape.heads == "joined" else spec.num_levels
    if len(logits) != wanted or len(deltas) != wanted:
        raise SpecError(
            f"heads: {shape.heads} wants {wanted} logits and {wanted} deltas, found {len(logits)} and {len(deltas)}"
        )
    if not all(isinstance(name, str) for name in (data["trunk_input"], *logits, *deltas)):
        raise SpecError("heads: trunk_input, logits and deltas want names of tensors")
    return Imported(spec, data["trunk_input"], logits, deltas, shape)


_NAMES = ("trunk_input", "logits", "deltas")
