"""DetectorSpec: the numbers that give a RetinaNet's head tensors their meaning."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from edge_retina.errors import SpecError

__all__ = [
    "MAX_LOG_SCALE",
    "METADATA_KEY",
    "ORIGINS",
    "REQUIRED",
    "DetectorSpec",
    "cell_anchors",
]

# Keeps exp() finite: a box grows at most 1000/16 times. torchvision models/detection/_utils.py, BoxCoder.
MAX_LOG_SCALE = math.log(1000 / 16)
# Key under which an exporter puts the spec into ONNX metadata_props.
METADATA_KEY = "edge_retina.spec"
# Fields without a default: what no trainer's file may leave out.
REQUIRED = ("family", "labels", "input_size", "mean", "std", "strides", "level_shapes", "cell_anchors")
# Where a field's value came from: read off the graph, off its metadata, the family's habit, or a person.
ORIGINS = ("graph", "metadata", "family", "user")

Box = tuple[float, float, float, float]
_CHOICES: dict[str, tuple[str, ...]] = {
    "color_order": ("rgb", "bgr"),
    "resize": ("letterbox", "stretch", "shortest_side"),
    "rounding": ("half_up", "floor"),
    "placement": ("top_left", "center"),
    "box_coding": ("center", "corner"),
    "clip": ("content", "input", "pixels", "after_nms", "none"),
    "class_choice": ("every", "best"),
    "top_k_scope": ("level", "all"),
}
_FLAGS = ("inclusive_pixels", "drop_empty", "class_aware_nms")
# More boxes or classes than any detector has; a spec from a stranger must not make us allocate without bound.
_MAX_LEVELS = 8
_MAX_CELL_ANCHORS = 64
_MAX_SIDE = 16384
_MAX_NUMBER = 3e38
_MAX_MESSAGE = 300


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """Everything that heads-to-detections needs and the head tensors do not say.

    Pixels are network-input pixels unless a field says otherwise. Levels run from fine to coarse.

    family: exporter family, for people. labels: one name per class channel.
    input_size: (H, W) of the network input. color_order: what the network wants, "rgb" or "bgr".
    mean, std: per channel in color_order, for pixel values 0..255. pad_value: likewise, before normalising.
    resize: "letterbox" (fit, keep aspect), "stretch" (ignore aspect) or "shortest_side" (torchvision's rule).
    shortest_side: (shortest, longest) side in pixels, for resize="shortest_side" only.
    rounding: of the resized sides, "half_up" or "floor".
    placement: where the resized frame lies on the padded input, "top_left" or "center".
    strides: per level (y, x). level_shapes: per level (H, W) in cells.
    cell_anchors: per level, per anchor: x1 y1 x2 y2 about the cell's origin (x * stride, y * stride).
    box_coding: deltas are dx dy dw dh ("center"), or x1 y1 x2 y2 moved by parts of the anchor's sides ("corner").
    delta_weights: deltas are divided by these. max_log_scale: clamp of dw, dh before exp; 80 is none.
    inclusive_pixels: the network was trained on x2, y2 as the last pixel inside, a box being x2 - x1 + 1 wide; what is
    detected is half-open all the same, x2 - x1 wide.
    clip: boxes are moved into the resized frame ("content"), the whole network input ("input") or its first and last
    pixel ("pixels", to W - 1 and H - 1) before NMS, into the resized frame after it ("after_nms"), or not ("none").
    drop_empty: boxes without area after clipping are dropped.
    score_threshold: a score must exceed it. class_choice: an anchor stands for "every" class or its "best" one.
    top_k: (anchor, class) pairs kept, of each level or, with top_k_scope="all", of all together.
    nms_iou: a box with a larger IoU to a better one is suppressed. class_aware_nms: only by its own class.
    max_detections: detections per frame. origins: field name to one of ORIGINS.

    Raises SpecError when a value is missing, malformed or contradicts another.
    """

    family: str
    labels: tuple[str, ...]
    input_size: tuple[int, int]
    color_order: str = "rgb"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad_value: tuple[float, float, float] = (0.0, 0.0, 0.0)
    resize: str = "letterbox"
    shortest_side: tuple[int, int] | None = None
    rounding: str = "half_up"
    placement: str = "top_left"
    strides: tuple[tuple[int, int], ...]
    level_shapes: tuple[tuple[int, int], ...]
    cell_anchors: tuple[tuple[Box, ...], ...]
    box_coding: str = "center"
    delta_weights: Box = (1.0, 1.0, 1.0, 1.0)
    max_log_scale: float = MAX_LOG_SCALE
    inclusive_pixels: bool = False
    clip: str = "content"
    drop_empty: bool = False
    score_threshold: float = 0.05
    class_choice: str = "every"
    top_k: int = 1000
    top_k_scope: str = "level"
    nms_iou: float = 0.5
    class_aware_nms: bool = True
    max_detections: int = 100
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise SpecError(f"DetectorSpec: {problem[:_MAX_MESSAGE]}")

    @property
    def num_classes(self) -> int:
        """Class channels per anchor, K."""
        return len(self.labels)

    @property
    def num_levels(self) -> int:
        """Pyramid levels, 5 in the paper."""
        return len(self.strides)

    def candidates(self) -> int:
        """Boxes per frame that reach NMS at most: top_k, or all pairs where there are fewer; all levels."""
        total = sum(self.level_candidates(level) for level in range(self.num_levels))
        return min(total, self.top_k) if self.top_k_scope == "all" else total

    def level_candidates(self, level: int) -> int:
        """Of them those that come from one level at most."""
        (height, width), classes = self.level_shapes[level], 1 if self.class_choice == "best" else self.num_classes
        return min(self.top_k, height * width * len(self.cell_anchors[level]) * classes)

    def override(self, origin: str, **values: Any) -> DetectorSpec:
        """A copy with some fields replaced and their origin noted. Raises SpecError for an unknown field."""
        known = {f.name for f in fields(self)} - {"origins"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SpecError(f"DetectorSpec has no field {', '.join(unknown)}; its fields are {sorted(known)}")
        clean = {name: _tuples(value) for name, value in values.items()}
        return replace(self, **clean, origins={**self.origins, **dict.fromkeys(values, origin)})

    def to_json(self) -> str:
        """The spec as JSON text; from_json gives it back equal."""
        return json.dumps(self.to_dict(), indent=1)

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain lists, numbers and strings."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, text: str | bytes, origin: str | None = None) -> DetectorSpec:
        """Read what to_json wrote. `origin`, where given, becomes the origin of every field in the text."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise SpecError(f"DetectorSpec: wanted JSON, found text that does not parse: {exc}") from exc
        return cls.from_dict(data, origin)

    @classmethod
    def from_dict(cls, data: Any, origin: str | None = None) -> DetectorSpec:
        """Build from plain values. Raises SpecError for unknown, missing or malformed fields."""
        if not isinstance(data, dict):
            raise SpecError(f"DetectorSpec: wanted a JSON object, found {type(data).__name__}")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            odd = ", ".join(map(repr, unknown))[:_MAX_MESSAGE]
            raise SpecError(f"DetectorSpec: unknown field {odd}; known: {sorted(known)}")
        values = {name: _tuples(value) for name, value in data.items() if name != "origins"}
        origins = data.get("origins", {})
        if origin is not None:
            origins = dict.fromkeys(values, origin)
        if not isinstance(origins, dict):
            raise SpecError(f"DetectorSpec: origins wants an object, found {type(origins).__name__}")
        try:
            return cls(**values, origins=origins)
        except TypeError as exc:
            missing = [name for name in REQUIRED if name not in data]
            raise SpecError(f"DetectorSpec: missing field {', '.join(missing) or exc}") from exc


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _numbers(value: Any, count: int, *, kind: type = float) -> bool:
    """True for a tuple of `count` finite numbers; with kind=int, of integers from 1 to _MAX_SIDE."""
    if not isinstance(value, tuple) or len(value) != count:
        return False
    if kind is int:
        return all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= _MAX_SIDE for v in value)
    # The limit is float32's: a larger number, or an integer too large for a float, is infinite in the graph.
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= _MAX_NUMBER for v in value)


def _problems(s: DetectorSpec) -> list[str]:
    """What is wrong, the most basic first; later rules may rely on earlier ones, so the first is the one to show."""
    found: list[str] = []

    def rule(holds: bool, text: str) -> bool:
        if not holds:
            found.append(text)
        return holds

    rule(isinstance(s.family, str) and s.family != "", f"family wants a name, found {s.family!r}")
    rule(
        isinstance(s.labels, tuple) and 1 <= len(s.labels) <= 65535 and all(isinstance(v, str) for v in s.labels),
        "labels wants 1 to 65535 names",
    )
    rule(_numbers(s.input_size, 2, kind=int), f"input_size wants (H, W) in 1..{_MAX_SIDE}, found {s.input_size!r}")
    for name, choices in _CHOICES.items():
        value = getattr(s, name)
        rule(value in choices, f"{name} wants one of {', '.join(choices)}, found {value!r}")
    for name in ("mean", "std", "pad_value"):
        rule(_numbers(getattr(s, name), 3), f"{name} wants 3 finite numbers, found {getattr(s, name)!r}")
    if found:
        return found
    rule(all(v > 0 for v in s.std), f"std wants 3 positive numbers, found {s.std!r}")
    if s.resize == "shortest_side":
        good = s.shortest_side is not None and _numbers(s.shortest_side, 2, kind=int)
        rule(good, f"resize='shortest_side' wants shortest_side=(shortest, longest), found {s.shortest_side!r}")
    elif s.shortest_side is not None:
        rule(False, f"shortest_side goes with resize='shortest_side' only, found resize={s.resize!r}")
    levels = len(s.strides) if isinstance(s.strides, tuple) else 0
    if not rule(1 <= levels <= _MAX_LEVELS, f"strides wants 1 to {_MAX_LEVELS} levels, found {levels}"):
        return found
    for name in ("strides", "level_shapes"):
        value = getattr(s, name)
        good = isinstance(value, tuple) and len(value) == levels and all(_numbers(v, 2, kind=int) for v in value)
        rule(good, f"{name} wants {levels} pairs (y, x) of positive integers, found {value!r}")
    cells = s.cell_anchors
    if rule(isinstance(cells, tuple) and len(cells) == levels, f"cell_anchors wants {levels} levels"):
        for level, cell in enumerate(cells):
            good = isinstance(cell, tuple) and 1 <= len(cell) <= _MAX_CELL_ANCHORS
            good = good and all(_numbers(a, 4) and a[0] < a[2] and a[1] < a[3] for a in cell)
            rule(good, f"cell_anchors[{level}] wants 1 to {_MAX_CELL_ANCHORS} boxes x1 < x2, y1 < y2")
    weights = s.delta_weights
    good = _numbers(weights, 4) and all(v > 0 for v in weights)
    rule(good, f"delta_weights wants 4 positive numbers, found {weights!r}")
    for name, low, high in (("max_log_scale", 0.0, 80.0), ("score_threshold", 0.0, 1.0), ("nms_iou", 0.0, 1.0)):
        value = getattr(s, name)
        rule(_numbers((value,), 1) and low <= value <= high, f"{name} wants {low} to {high}, found {value!r}")
    for name, most in (("top_k", 5000), ("max_detections", 5000)):
        value = getattr(s, name)
        good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
        rule(good, f"{name} wants 1 to {most}, found {value!r}")
    for name in _FLAGS:
        rule(isinstance(getattr(s, name), bool), f"{name} wants true or false, found {getattr(s, name)!r}")
    rule(all(v in ORIGINS for v in s.origins.values()), f"origins wants values from {', '.join(ORIGINS)}")
    return found


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounded: bool = False) -> tuple[Box, ...]:
    """Anchors of one cell about its origin, ratio outer, size inner.

    sizes: square roots of the areas, pixels. ratios: height / width. rounded: corners to whole pixels, half to
    even, as torchvision does (models/detection/anchor_utils.py).

    >>> cell_anchors([32], [1.0])
    ((-16.0, -16.0, 16.0, 16.0),)
    """
    anchors: list[Box] = []
    for ratio in ratios:
        for size in sizes:
            half_h, half_w = size * math.sqrt(ratio) / 2, size / math.sqrt(ratio) / 2
            if rounded:
                half_h, half_w = float(round(half_h)), float(round(half_w))
            anchors.append((-half_w, -half_h, half_w, half_h))
    return tuple(anchors)
