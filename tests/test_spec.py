"""DetectorSpec: JSON there and back, each rule broken once, and where a frame lands on the network input."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina.errors import SpecError
from edge_retina.geometry import Geometry, fit_frame
from edge_retina.spec import MAX_LOG_SCALE, ORIGINS, REQUIRED, DetectorSpec, cell_anchors

ONE_ANCHOR = (((-4.0, -4.0, 4.0, 4.0),),)


def make_spec(**values: Any) -> DetectorSpec:
    plain: dict[str, Any] = {
        "family": "mine",
        "labels": ("cat", "dog"),
        "input_size": (64, 96),
        "mean": (1.0, 2.0, 3.0),
        "std": (4.0, 5.0, 6.0),
        "strides": ((8, 8),),
        "level_shapes": ((8, 12),),
        "cell_anchors": ONE_ANCHOR,
    }
    return DetectorSpec(**{**plain, **values})


# JSON


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "0", '"x"', "{", b"\xff\xfe", "[" * 100_000, "1" * 5000])
def test_text_that_is_no_spec(text: str | bytes) -> None:
    with pytest.raises(SpecError, match="DetectorSpec: "):
        DetectorSpec.from_json(text)


def test_json_there_and_back() -> None:
    spec = make_spec(origins={"labels": "user"})
    again = DetectorSpec.from_json(spec.to_json())
    assert again == spec
    assert again.origins == {"labels": "user"}
    assert again.strides == ((8, 8),)  # tuples, not lists
    assert hash(again) == hash(spec)


def test_json_from_another_origin() -> None:
    data = {key: value for key, value in make_spec().to_dict().items() if key in REQUIRED}
    spec = DetectorSpec.from_json(json.dumps(data), origin="metadata")
    assert spec.origins == dict.fromkeys(REQUIRED, "metadata")
    assert spec.top_k == 1000


def test_missing_fields_are_named_all_at_once() -> None:
    with pytest.raises(SpecError, match="missing field labels, input_size, mean, std, strides, level_shapes, cell_anc"):
        DetectorSpec.from_dict({"family": "mine"})


def test_unknown_fields_are_named() -> None:
    with pytest.raises(SpecError, match=r"unknown field 'colour'; known: .*'color_order'"):
        DetectorSpec.from_dict({**make_spec().to_dict(), "colour": "rgb"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(json_values)
def test_any_json_is_a_spec_or_a_spec_error(value: Any) -> None:
    with pytest.raises(SpecError):
        DetectorSpec.from_json(json.dumps(value))


@settings(deadline=None)
@given(
    st.sampled_from([*REQUIRED, "top_k", "nms_iou", "origins", "shortest_side", "class_aware_nms", "resize"]),
    json_values,
)
def test_any_value_in_a_field_is_good_or_a_spec_error(name: str, value: Any) -> None:
    data = {**make_spec().to_dict(), name: value}
    try:
        spec = DetectorSpec.from_json(json.dumps(data))
    except SpecError:
        return
    assert DetectorSpec.from_json(spec.to_json()) == spec


numbers = st.floats(-1e6, 1e6)


@st.composite
def specs(draw: st.DrawFn) -> DetectorSpec:
    levels = draw(st.integers(1, 4))
    pairs = st.tuples(st.integers(1, 512), st.integers(1, 512))
    boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), *[st.floats(-99, 99)] * 2, *[st.floats(1, 99)] * 2)
    cells = st.lists(boxes, min_size=1, max_size=3).map(tuple)
    resize = draw(st.sampled_from(["letterbox", "stretch", "shortest_side"]))
    return DetectorSpec(
        family=draw(st.text(min_size=1)),
        labels=tuple(draw(st.lists(st.text(), min_size=1, max_size=4))),
        input_size=draw(pairs),
        color_order=draw(st.sampled_from(["rgb", "bgr"])),
        mean=draw(st.tuples(numbers, numbers, numbers)),
        std=draw(st.tuples(*[st.floats(1e-3, 1e3)] * 3)),
        resize=resize,
        shortest_side=draw(pairs) if resize == "shortest_side" else None,
        placement=draw(st.sampled_from(["top_left", "center"])),
        strides=tuple(draw(pairs) for _ in range(levels)),
        level_shapes=tuple(draw(pairs) for _ in range(levels)),
        cell_anchors=tuple(draw(cells) for _ in range(levels)),
        score_threshold=draw(st.floats(0, 1)),
        class_aware_nms=draw(st.booleans()),
        origins=draw(st.dictionaries(st.sampled_from(REQUIRED), st.sampled_from(ORIGINS))),
    )


@settings(deadline=None)
@given(specs())
def test_any_spec_survives_json(spec: DetectorSpec) -> None:
    again = DetectorSpec.from_json(spec.to_json())
    assert again == spec
    assert again.origins == spec.origins


# Rules

BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"family": ""}, "family wants a name, found ''"),
    ({"labels": ()}, "labels wants 1 to 65535 names"),
    ({"labels": ("a", 1)}, "labels wants 1 to 65535 names"),
    ({"input_size": (0, 64)}, r"input_size wants \(H, W\) in 1..16384, found \(0, 64\)"),
    ({"input_size": (64.0, 64)}, "input_size wants"),
    ({"input_size": (True, 64)}, "input_size wants"),
    ({"color_order": "RGB"}, "color_order wants one of rgb, bgr, found 'RGB'"),
    ({"resize": "crop"}, "resize wants one of letterbox, stretch, shortest_side, found 'crop'"),
    ({"placement": "bottom"}, "placement wants one of top_left, center"),
    ({"mean": (1.0, 2.0)}, "mean wants 3 finite numbers"),
    ({"mean": (1.0, 2.0, math.nan)}, "mean wants 3 finite numbers"),
    ({"mean": (1.0, 2.0, 10**400)}, "mean wants 3 finite numbers"),  # once an OverflowError
    ({"mean": (1.0, 2.0, 1e39)}, "mean wants 3 finite numbers"),  # infinite in float32
    ({"std": (1.0, 0.0, 1.0)}, "std wants 3 positive numbers"),
    ({"shortest_side": (800, 1333)}, "shortest_side goes with resize='shortest_side' only, found resize='letterbox'"),
    ({"resize": "shortest_side"}, r"resize='shortest_side' wants shortest_side=\(shortest, longest\), found None"),
    ({"strides": ()}, "strides wants 1 to 8 levels, found 0"),
    ({"strides": ((8, 8),) * 9}, "strides wants 1 to 8 levels, found 9"),
    ({"strides": ((8, 0),)}, r"strides wants 1 pairs \(y, x\) of positive integers"),
    ({"level_shapes": ((8, 12), (4, 6))}, r"level_shapes wants 1 pairs"),
    ({"cell_anchors": ()}, "cell_anchors wants 1 levels"),
    ({"cell_anchors": ((),)}, r"cell_anchors\[0\] wants 1 to 64 boxes x1 < x2, y1 < y2"),
    ({"cell_anchors": (((4.0, -4.0, -4.0, 4.0),),)}, r"cell_anchors\[0\] wants"),
    ({"delta_weights": (1.0, 1.0, 0.0, 1.0)}, "delta_weights wants 4 positive numbers"),
    ({"max_log_scale": 81.0}, "max_log_scale wants 0.0 to 80.0, found 81.0"),
    ({"score_threshold": -0.1}, "score_threshold wants 0.0 to 1.0, found -0.1"),
    ({"nms_iou": math.nan}, "nms_iou wants 0.0 to 1.0, found nan"),
    ({"top_k": 0}, "top_k wants 1 to 5000, found 0"),
    ({"top_k": 5001}, "top_k wants 1 to 5000, found 5001"),
    ({"top_k": True}, "top_k wants 1 to 5000, found True"),
    ({"max_detections": 5001}, "max_detections wants 1 to 5000, found 5001"),
    ({"class_aware_nms": 1}, "class_aware_nms wants true or false, found 1"),
    ({"origins": {"labels": "dream"}}, "origins wants values from graph, metadata, family, user"),
]


@pytest.mark.parametrize(("values", "message"), BROKEN)
def test_each_rule_says_what_it_wants(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_spec(**values)


def test_a_message_has_a_bearable_length() -> None:
    with pytest.raises(SpecError) as caught:
        make_spec(mean=tuple(range(100_000)))
    assert len(str(caught.value)) < 400


def test_override_notes_the_origin_and_makes_tuples() -> None:
    spec = make_spec(origins={"labels": "family"}).override("user", labels=["a"], input_size=[32, 32])
    assert (spec.labels, spec.input_size) == (("a",), (32, 32))
    assert spec.origins == {"labels": "user", "input_size": "user"}
    with pytest.raises(SpecError, match="has no field colour; its fields are"):
        spec.override("user", colour="rgb")
    with pytest.raises(SpecError, match="has no field origins"):
        spec.override("user", origins={})


def test_counts() -> None:
    # Level 0: 8 x 12 cells x 1 anchor x 2 classes = 192; level 1: 4 x 6 x 2 = 48.
    spec = make_spec(strides=((8, 8), (16, 16)), level_shapes=((8, 12), (4, 6)), cell_anchors=ONE_ANCHOR * 2)
    assert (spec.num_classes, spec.num_levels) == (2, 2)
    assert spec.candidates() == 192 + 48
    assert spec.override("user", top_k=100).candidates() == 100 + 48


def test_the_clamp_is_that_of_the_literature() -> None:
    assert pytest.approx(4.135167, abs=1e-6) == MAX_LOG_SCALE


def test_cell_anchors_by_hand() -> None:
    assert cell_anchors([], [1.0]) == ()
    # Ratio 4 is twice as tall as its square root of area, half as wide.
    assert cell_anchors([8], [1.0, 4.0]) == ((-4.0, -4.0, 4.0, 4.0), (-2.0, -8.0, 2.0, 8.0))
    # 32 / sqrt(2) / 2 = 11.3, 32 * sqrt(2) / 2 = 22.6.
    assert cell_anchors([32], [0.5], rounded=True) == ((-23.0, -11.0, 23.0, 11.0),)


# Geometry

FITS: list[tuple[dict[str, Any], tuple[int, int], tuple[int, int], tuple[int, int]]] = [
    # spec, frame (H, W), content, offset
    ({}, (1, 1), (64, 64), (0, 0)),
    ({}, (64, 96), (64, 96), (0, 0)),
    ({}, (480, 640), (64, 85), (0, 0)),  # 640 * 64 / 480 = 85.33
    ({}, (480, 645), (64, 86), (0, 0)),  # exactly 86
    ({}, (320, 4), (64, 1), (0, 0)),  # 4 * 64 / 320 = 0.8
    ({}, (6400, 1), (64, 1), (0, 0)),  # 0.01, and never less than one pixel
    ({}, (1, 8000), (1, 96), (0, 0)),
    ({"placement": "center"}, (480, 640), (64, 85), (0, 5)),  # 11 columns to spare, 5 before, 6 after
    ({"placement": "center"}, (100, 300), (32, 96), (16, 0)),
    ({"resize": "stretch"}, (480, 640), (64, 96), (0, 0)),
    (
        {"resize": "shortest_side", "shortest_side": (32, 90), "rounding": "floor"},
        (480, 640),
        (32, 42),
        (0, 0),
    ),  # 42.67
    ({"resize": "shortest_side", "shortest_side": (32, 90)}, (480, 640), (32, 43), (0, 0)),
    ({"rounding": "floor"}, (300, 451), (63, 96), (0, 0)),  # 63.86
    ({"resize": "shortest_side", "shortest_side": (60, 66)}, (480, 640), (50, 66), (0, 0)),  # the longest side limits
    ({"resize": "shortest_side", "shortest_side": (800, 1333)}, (480, 640), (64, 85), (0, 0)),  # the input limits
]


@pytest.mark.parametrize(("values", "frame", "content", "offset"), FITS)
def test_fit_frame_by_hand(
    values: dict[str, Any], frame: tuple[int, int], content: tuple[int, int], offset: tuple[int, int]
) -> None:
    assert fit_frame(make_spec(**values), *frame) == Geometry(frame, content, offset)


@settings(deadline=None)
@given(specs(), st.integers(1, 9000), st.integers(1, 9000))
def test_a_frame_always_lands_inside_the_input(spec: DetectorSpec, height: int, width: int) -> None:
    fit = fit_frame(spec, height, width)
    for start, size, room in zip(fit.offset, fit.content, spec.input_size, strict=True):
        assert start >= 0
        assert 1 <= size <= room - start


def test_geometry_vector_by_hand() -> None:
    # offset x y, content w h, scale x y, frame w h
    assert Geometry((480, 640), (60, 80), (2, 3)).vector() == [3, 2, 80, 60, 8, 8, 640, 480]
