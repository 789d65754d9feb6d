"""Types, layouts, shapes and workspace: what TensorRT asks before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from decoder import make_spec
from emulator.launcher import Emulator, Layout, formats_of, params_of
from plugin.shim import (
    CHW2,
    CHW4,
    CHW16,
    CHW32,
    HWC,
    HWC8,
    LINEAR,
    TYPES,
    Plugin,
    Shim,
    Tensor,
    attributes_of,
    heads,
    parsed,
    results,
)

SPEC = make_spec()
FLOAT, HALF, INT8, INT32 = (TYPES[name] for name in ("float32", "float16", "int8", "int32"))
# What the kernels read of what TensorRT has.
LAYOUTS = {FLOAT: (LINEAR, CHW32, HWC), HALF: (LINEAR, CHW2, HWC8, CHW32)}


@pytest.fixture
def plugin(shim: Shim) -> Iterator[Plugin]:
    made = shim.create(parsed(attributes_of(SPEC)))
    assert made is not None
    with made:
        yield made


def test_outputs_have_their_types(plugin: Plugin) -> None:
    for head in (FLOAT, HALF):
        assert plugin.output_types([head] * 4 + [FLOAT]) == [FLOAT, FLOAT, INT32, INT32]
    assert plugin.output_types([HALF, HALF, FLOAT, HALF, FLOAT]) == [FLOAT, FLOAT, INT32, INT32]


@pytest.mark.parametrize(
    ("types", "outputs", "told"),
    [
        ([HALF, FLOAT, HALF, HALF, FLOAT], 4, "logits of all levels want one type, found HALF and FLOAT"),
        ([HALF] * 5, 4, "input 4 wants FLOAT, found HALF"),
        ([INT8] * 4 + [FLOAT], 4, "input 0 wants FLOAT or HALF, found INT8"),
        ([HALF] * 3 + [4, FLOAT], 4, "input 3 wants FLOAT or HALF, found another type"),
        ([FLOAT] * 4, 4, "wants 5 inputs and 4 outputs, found 4 and 4"),
        ([FLOAT] * 5, 3, "wants 5 inputs and 4 outputs, found 5 and 3"),
    ],
)
def test_types_that_do_not_go(shim: Shim, plugin: Plugin, types: list[int], outputs: int, told: str) -> None:
    assert plugin.output_types(types, outputs) is None
    assert told in shim.said()


def test_shapes_follow_the_batch_alone(plugin: Plugin) -> None:
    # A symbol of input i is -1 - i: the batch of the first input is -1.
    assert plugin.output_shapes(heads(SPEC, -1)) == [(-1, 50, 4), (-1, 50), (-1, 50), (-1,)]
    assert plugin.output_shapes(heads(SPEC, 7)) == [(7, 50, 4), (7, 50), (7, 50), (7,)]


def test_a_size_that_is_not_known_yet_may_be_right(plugin: Plugin) -> None:
    inputs = [Tensor((-1,) * 4)] * 4 + [Tensor((-1,))]
    assert plugin.output_shapes(inputs) == [(-1, 50, 4), (-1, 50), (-1, 50), (-1,)]


WRONG_SHAPES = [
    (0, (1, 7, 8, 8), "input 0 wants shape [-1, 6, 8, 8], found [1, 7, 8, 8]"),
    (1, (1, 6, 8, 4), "input 1 wants shape [-1, 6, 4, 4], found [1, 6, 8, 4]"),
    (2, (1, 8, 8), "input 2 wants shape [-1, 8, 8, 8], found [1, 8, 8]"),
    (3, (), "input 3 wants shape [-1, 8, 4, 4], found []"),
    (4, (7,), "input 4 wants shape [8], found [7]"),
    (4, (1, 8), "input 4 wants shape [8], found [1, 8]"),
]


@pytest.mark.parametrize(("place", "shape", "told"), WRONG_SHAPES)
def test_shapes_that_do_not_go(shim: Shim, plugin: Plugin, place: int, shape: tuple[int, ...], told: str) -> None:
    inputs, outputs = heads(SPEC), results(SPEC)
    inputs[place] = Tensor(shape)
    asked = (
        lambda: plugin.output_shapes(inputs) is None,
        lambda: plugin.configure(inputs, outputs),
        lambda: plugin.shape_change(inputs, outputs),
        lambda: plugin.enqueue(inputs, outputs, [256] * 5, [256] * 4, 256),
    )
    for error in asked:
        assert error()
        assert shim.said() == f"error: edge_retina::AnchorDecode: {told}\n"


def test_shape_inputs_and_other_counts_are_refused(shim: Shim, plugin: Plugin) -> None:
    inputs, outputs = heads(SPEC), results(SPEC)
    assert plugin.output_shapes(inputs, shape_inputs=1) is None
    for few in (inputs[:-1], [*inputs, inputs[-1]]):
        assert plugin.output_shapes(few) is None
        assert plugin.configure(few, outputs) != 0
        assert plugin.shape_change(few, outputs) != 0
        assert plugin.workspace(few, outputs) == 0
    assert shim.said().count("wants 5 inputs") == 7


def test_one_batch_for_all_heads(shim: Shim, plugin: Plugin) -> None:
    inputs, outputs = heads(SPEC, 2), results(SPEC, 2)
    assert plugin.shape_change(inputs, outputs) == 0
    inputs[3] = heads(SPEC, 3)[3]
    assert plugin.shape_change(inputs, outputs) != 0
    assert "input 0 has 2, input 3 has 3" in shim.said()


def combinations(plugin: Plugin, types: list[int]) -> list[tuple[int, ...]]:
    """Formats of all inputs and outputs that TensorRT finds as it does: place by place, types being given."""
    inputs, outputs = heads(SPEC), results(SPEC)
    typed = [replace(t, type=kind) for t, kind in zip([*inputs, *outputs], types, strict=True)]

    def further(chosen: list[int]) -> Iterator[tuple[int, ...]]:
        if len(chosen) == len(typed):
            yield tuple(chosen)
            return
        for format_ in range(13):
            # What is behind the place asked about is not to be looked at: here it is nonsense.
            after = [replace(t, type=99, format=99) for t in typed[len(chosen) + 1 :]]
            known = [replace(t, format=f) for t, f in zip(typed, chosen, strict=False)]
            known = [*known, replace(typed[len(chosen)], format=format_), *after]
            if plugin.supports(len(chosen), known[:5], known[5:]):
                yield from further([*chosen, format_])

    return list(further([]))


OUT = [FLOAT, FLOAT, INT32, INT32]


def test_all_heads_share_a_layout(plugin: Plugin) -> None:
    for kind, formats in LAYOUTS.items():
        expected = [(format_,) * 4 + (LINEAR,) * 5 for format_ in formats]
        assert combinations(plugin, [kind] * 4 + [FLOAT] + OUT) == expected


def test_deltas_of_another_type_share_it_where_they_can(plugin: Plugin) -> None:
    found = combinations(plugin, [HALF, HALF, FLOAT, FLOAT, FLOAT, *OUT])
    assert [(f[0], f[2]) for f in found] == [(LINEAR, LINEAR), (CHW2, LINEAR), (HWC8, LINEAR), (CHW32, CHW32)]


@pytest.mark.parametrize(
    "types",
    [
        [HALF, FLOAT, HALF, HALF, FLOAT, *OUT],
        [INT8] * 4 + [FLOAT, *OUT],
        [FLOAT] * 4 + [HALF, *OUT],
        [FLOAT] * 5 + [HALF, FLOAT, INT32, INT32],
        [FLOAT] * 5 + [FLOAT, FLOAT, FLOAT, INT32],
    ],
)
def test_other_types_have_no_combination(plugin: Plugin, types: list[int]) -> None:
    assert combinations(plugin, types) == []


def test_places_that_are_none_are_not_supported(plugin: Plugin) -> None:
    inputs, outputs = heads(SPEC), results(SPEC)
    assert not plugin.supports(-1, inputs, outputs)
    assert not plugin.supports(9, inputs, outputs)
    assert not plugin.supports(0, inputs[:-1], outputs)
    assert not plugin.supports(0, inputs, outputs[:-1])


@pytest.mark.parametrize(("kind", "format_"), [(k, f) for k, formats in LAYOUTS.items() for f in formats])
def test_workspace_is_the_launchers(plugin: Plugin, emulator: Emulator, kind: int, format_: int) -> None:
    packs = {LINEAR: 1, CHW2: 2, CHW32: 32, HWC8: 0}
    for batch in (1, 2, 64):
        inputs = heads(SPEC, -1, "float16" if kind == HALF else "float32", format_)
        got = plugin.workspace(inputs, results(SPEC, -1), batch)
        if format_ == HWC:  # all channels of each head: 6 and 8
            formats = formats_of(SPEC, Layout("float", 6), Layout("float", 8))
        else:
            layout = Layout("half" if kind == HALF else "float", packs[format_])
            formats = formats_of(SPEC, layout, layout)
        assert got == emulator.workspace(params_of(SPEC), formats, batch) > 0


def test_batches_are_1_to_64(shim: Shim, plugin: Plugin) -> None:
    inputs, outputs = heads(SPEC, -1), results(SPEC, -1)
    assert plugin.configure(inputs, outputs, 64) == 0
    assert plugin.configure(inputs, outputs, 65) != 0
    assert "batch wants 1 to 64 images, the profile has 65" in shim.said()
    assert plugin.workspace(inputs, outputs, 65) == plugin.workspace(inputs, outputs, 0) == 0
    assert plugin.enqueue(heads(SPEC, 65), results(SPEC, 65), [256] * 5, [256] * 4, 256) != 0
    assert "found 65" in shim.said()
    assert plugin.enqueue(heads(SPEC, 0), results(SPEC, 0), [None] * 5, [None] * 4, None) == 0


def test_layouts_that_the_kernels_do_not_read(shim: Shim, plugin: Plugin) -> None:
    for name, format_ in itertools.product(("float16", "float32"), (CHW4, CHW16, 99)):
        inputs, outputs = heads(SPEC, 1, name, format_), results(SPEC)
        assert plugin.configure(inputs, outputs) != 0
        assert plugin.workspace(inputs, outputs) == 0
        assert plugin.enqueue(inputs, outputs, [256] * 5, [256] * 4, 256) != 0
        assert "a head's pack wants" in shim.said()


def test_memory_that_is_not_there(shim: Shim, plugin: Plugin) -> None:
    inputs, outputs = heads(SPEC), results(SPEC)
    for missing in range(10):
        addresses: list[int | None] = [256] * 10
        addresses[missing] = None
        assert plugin.enqueue(inputs, outputs, addresses[:5], addresses[5:9], addresses[9]) != 0
        assert "wants memory for all 5 inputs, 4 outputs and the workspace" in shim.said()
