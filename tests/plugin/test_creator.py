"""Fields in and out: every value that a parser or a plan can hand over, and what none should."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from decoder import make_spec
from plugin.shim import BUILD, CHAR, FLOAT32, INT32, INT64, RUNTIME, Field, Shim, attributes_of, parsed

from edge_retina.lowering import PLUGIN_NAMESPACE, PLUGIN_VERSION
from edge_retina.rewrite.decode import FUNCTION

SPEC = make_spec()
GOOD = parsed(attributes_of(SPEC))
LARGEST = float(np.finfo(np.float32).max)


def with_field(name: str, **values: object) -> list[Field]:
    return [replace(f, **values) if f.name == name else f for f in GOOD]


def with_numbers(name: str, numbers: list[float], dtype: type = np.float32) -> list[Field]:
    data = np.array(numbers, dtype)
    kind = {np.float32: FLOAT32, np.int32: INT32, np.int64: INT64}[dtype]
    return with_field(name, type=kind, length=data.size, data=data.tobytes())


def refused(shim: Shim, fields: list[Field] | None) -> str:
    assert shim.create(fields) is None
    said = shim.said()
    assert said.count("\n") == 1
    assert said.startswith("error: edge_retina::AnchorDecode: ")
    return said


def made(shim: Shim, fields: list[Field], phase: int = BUILD) -> list[Field]:
    plugin = shim.create(fields, phase)
    assert plugin is not None, shim.said()
    with plugin:
        return plugin.fields()


def test_the_library_has_one_creator_for_the_call_of_lowering(shim: Shim) -> None:
    creators, name, version, space, declared = shim.creator()
    assert (creators, name, version, space) == (1, FUNCTION, PLUGIN_VERSION, PLUGIN_NAMESPACE)
    # Parsers pass on the attributes that are declared, and no others.
    assert declared == {f.name: f.type for f in GOOD}


def test_no_fields(shim: Shim) -> None:
    assert "strides is missing" in refused(shim, [])
    assert "wanted a collection" in refused(shim, None)


def test_a_plugin_is_what_its_creator_says(shim: Shim) -> None:
    plugin = shim.create(GOOD)
    assert plugin is not None
    with plugin:
        assert [plugin.name(i) for i in range(3)] == [FUNCTION, PLUGIN_VERSION, PLUGIN_NAMESPACE]
        assert [plugin.has(capability) for capability in range(4)] == [True, True, True, False]
        assert "levels 2, classes 3, top_k 1000, max_detections 50" in plugin.text("metadata")


@pytest.mark.parametrize("ends", ["", "\0"])
def test_what_it_serialises_makes_the_same_plugin(shim: Shim, ends: str) -> None:
    first = made(shim, parsed(attributes_of(SPEC), ends=ends))
    assert sorted(first, key=lambda f: str(f.name)) == sorted(
        parsed(attributes_of(SPEC), ends=""), key=lambda f: str(f.name)
    )
    assert made(shim, first, RUNTIME) == first


def test_every_choice_and_flag(shim: Shim) -> None:
    choices = {
        "box_coding": ("center", "corner"),
        "clip": ("content", "input", "pixels", "after_nms", "none"),
        "class_choice": ("every", "best"),
        "top_k_scope": ("level", "all"),
        "inclusive_pixels": (False, True),
        "drop_empty": (False, True),
        "class_aware_nms": (False, True),
    }
    timing = set()
    for values in itertools.product(*choices.values()):
        spec = make_spec(**dict(zip(choices, values, strict=True)))
        plugin = shim.create(parsed(attributes_of(spec)))
        assert plugin is not None, shim.said()
        with plugin, plugin.clone() as clone, plugin.clone("attach") as attached:
            assert {f.name: f for f in plugin.fields()} == {f.name: f for f in parsed(attributes_of(spec), ends="")}
            assert clone.fields() == attached.fields() == plugin.fields()
            assert clone.text("timing_id") == plugin.text("timing_id")
            timing.add(plugin.text("timing_id"))
    assert len(timing) == 320


def test_the_largest_detector(shim: Shim) -> None:
    cell = tuple((float(-i), -1.5, 1.0, 2.0) for i in range(1, 65))
    levels = [(16384, 1)] * 8
    spec = make_spec(
        tuple(levels),
        1,
        input_size=(16384, 16384),
        strides=((16384, 16384),) * 8,
        cell_anchors=(cell,) * 8,
        top_k=5000,
        max_detections=5000,
        max_log_scale=80.0,
        score_threshold=1.0,
        nms_iou=0.0,
    )
    assert len(made(shim, parsed(attributes_of(spec)))) == len(GOOD)


@pytest.mark.parametrize("name", [str(f.name) for f in GOOD if f.name != "input_size"])
def test_a_missing_field(shim: Shim, name: str) -> None:
    assert f"{name} is missing" in refused(shim, [f for f in GOOD if f.name != name])


@pytest.mark.parametrize("clip", ["content", "input", "pixels", "after_nms", "none"])
def test_input_size_is_needed_where_it_is_looked_at(shim: Shim, clip: str) -> None:
    fields = [f for f in parsed(attributes_of(make_spec(clip=clip))) if f.name != "input_size"]
    if clip in ("input", "pixels"):
        assert "input_size is missing" in refused(shim, fields)
    else:
        again = {f.name: f for f in made(shim, made(shim, fields))}
        assert again["input_size"].data == bytes(8)


@pytest.mark.parametrize("name", [str(f.name) for f in GOOD])
def test_a_field_of_a_wrong_kind(shim: Shim, name: str) -> None:
    kind, length = next((f.type, f.length) for f in GOOD if f.name == name)
    assert f"{name} is there twice" in refused(shim, [*GOOD, *[f for f in GOOD if f.name == name]])
    assert f"{name} wants values" in refused(shim, with_field(name, data=None))
    for short in (0, -1, -(2**31)):
        assert f"{name} wants" in refused(shim, with_field(name, length=short))
    for other in [*range(14), -1, 99]:
        if other not in (kind, INT64 if kind == INT32 else kind):
            # 8 bytes a value, so that no type reads past them.
            assert f"{name} wants" in refused(shim, with_field(name, type=other, data=bytes(8 * length)))
    if kind != CHAR:
        for long in (length - 1, length + 1, 100 * length + 1):
            said = refused(shim, with_field(name, length=long, data=bytes(8 * long)))
            assert f"{name} wants" in said or "level_shapes wants" in said


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("num_classes", 1, 65535),
        ("top_k", 1, 5000),
        ("max_detections", 1, 5000),
        ("inclusive_pixels", 0, 1),
        ("drop_empty", 0, 1),
        ("class_aware_nms", 0, 1),
    ],
)
def test_whole_numbers_have_limits(shim: Shim, name: str, low: int, high: int) -> None:
    for value in (low, high):
        assert made(shim, with_numbers(name, [value], np.int32)) == made(shim, with_numbers(name, [value], np.int64))
    for value in (low - 1, high + 1, -(2**31), 2**31 - 1):
        said = refused(shim, with_numbers(name, [value], np.int32))
        assert f"{name}[0] wants {low} to {high}, found {value}" in said
    for value in (2**32 + low, -(2**63), 2**63 - 1):
        assert f"found {value}" in refused(shim, with_numbers(name, [value], np.int64))


@pytest.mark.parametrize("name", ["strides", "level_shapes", "anchors_per_cell"])
def test_sizes_of_levels_have_limits(shim: Shim, name: str) -> None:
    length = next(f.length for f in GOOD if f.name == name)
    for value in (0, -1, 16385, 2**31 - 1, -(2**31)):
        for place in range(length):
            numbers = [1] * length
            numbers[place] = value
            assert f"{name}[{place}] wants 1 to" in refused(shim, with_numbers(name, numbers, np.int32))


def test_levels_that_no_memory_holds(shim: Shim) -> None:
    spec = make_spec(((16384, 16384), (1, 1)), 1, input_size=(16384, 16384))
    fields = parsed({**attributes_of(spec), "num_classes": 65535})
    assert "2^31" in refused(shim, fields)


@pytest.mark.parametrize(
    ("name", "high"), [("max_log_scale", 80.0), ("score_threshold", 1.0), ("nms_iou", 1.0), ("delta_weights", LARGEST)]
)
def test_numbers_have_limits(shim: Shim, name: str, high: float) -> None:
    length = next(f.length for f in GOOD if f.name == name)
    made(shim, with_numbers(name, [high] * length))
    with np.errstate(over="ignore"):
        beyond = float(np.nextafter(np.float32(high), np.float32(np.inf)))
    for value in (float("nan"), float("inf"), -float("inf"), -1e-9, beyond):
        numbers = [high] * length
        numbers[-1] = value
        assert f"{name}[{length - 1}] wants a number" in refused(shim, with_numbers(name, numbers))
    if name == "delta_weights":  # which divide
        for nothing in (0.0, -0.0):
            assert "delta_weights[0] wants a number above 0" in refused(shim, with_numbers(name, [nothing, 1, 1, 1]))


def test_anchors_are_boxes(shim: Shim) -> None:
    count = sum(map(len, SPEC.cell_anchors))
    for box in ([0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]):
        numbers = [0.0, 0.0, 1.0, 1.0] * (count - 1) + [float(v) for v in box]
        said = refused(shim, with_numbers("cell_anchors", numbers))
        assert "cell_anchors of level 1, anchor 1 want x1 < x2, y1 < y2" in said
    for bad in (float("nan"), float("inf")):
        assert "cell_anchors[3] wants" in refused(shim, with_numbers("cell_anchors", [0, 0, 1, bad] * count))


@pytest.mark.parametrize("levels", [0, 9])
def test_levels_are_1_to_8(shim: Shim, levels: int) -> None:
    numbers = [8, 8] * levels or [8]
    assert "strides wants y, x of 1 to 8 levels" in refused(shim, with_numbers("strides", numbers, np.int32))


@pytest.mark.parametrize(
    "text", [b"", b"\0", b"Content", b"content ", b"conten", b"content\0x", b"\xff\xfe\n", b"x" * 100_000]
)
def test_a_choice_that_is_none(shim: Shim, text: bytes) -> None:
    said = refused(shim, with_field("clip", length=len(text), data=text))
    assert "clip wants" in said
    assert len(said) < 330


def test_a_name_that_nobody_knows_is_not_looked_at(shim: Shim) -> None:
    others = [Field("plugin_note", INT32, -5, None), Field(None, CHAR, 3, b"abc"), Field("", 99, 1, b"?")]
    assert made(shim, [*others, *GOOD]) == made(shim, GOOD)


def test_far_too_many_fields(shim: Shim) -> None:
    assert "wanted a collection of 0 to 1024" in refused(shim, [Field("x", INT32, 1, bytes(4))] * 1025)


@pytest.mark.parametrize("finder", [0, 2, 3])
def test_without_a_logger_errors_go_to_stderr(shim: Shim, finder: int, capfd: pytest.CaptureFixture[str]) -> None:
    shim.call("logger", finder)
    try:
        assert shim.create([]) is None
    finally:
        shim.call("logger", 1)
    assert (
        capfd.readouterr().err
        == "edge_retina::AnchorDecode: strides is missing; export the call with all its attributes\n"
    )
    assert shim.said() == ""


def test_timing_is_shared_by_equal_calls_only(shim: Shim) -> None:
    ids = []
    for top_k in (100, 100, 101):
        plugin = shim.create(parsed(attributes_of(make_spec(top_k=top_k))))
        assert plugin is not None
        with plugin:
            ids.append(plugin.text("timing_id"))
    assert ids[0] == ids[1] != ids[2]
