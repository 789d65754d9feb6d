"""enqueue on the emulated kernels, held against the NumPy reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from decoder import make_spec, random_heads
from emulator.launcher import Layout
from emulator.reference import detect
from plugin.shim import CHW2, CHW32, HWC, HWC8, LINEAR, RUNTIME, Plugin, Shim, attributes_of, heads, parsed, results

from edge_retina.geometry import fit_frame
from edge_retina.spec import DetectorSpec

SPEC = make_spec()
GEOMETRY = fit_frame(SPEC, 48, 80)
OUTPUTS = (np.float32, np.float32, np.int32, np.int32)
Arrays = Sequence[npt.NDArray[np.floating]]


def aligned(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A copy that starts at a multiple of 256, as TensorRT's do."""
    memory = np.zeros(array.nbytes + 256, np.uint8)
    start = -memory.ctypes.data % 256
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def run(
    plugin: Plugin,
    spec: DetectorSpec,
    logits: Arrays,
    deltas: Arrays,
    layouts: tuple[Layout, Layout],
    format_: int,
    frame: tuple[int, int] = (48, 80),
) -> list[npt.NDArray[np.generic]]:
    """The four outputs of one enqueue; layouts: of logits and deltas, as format_ has them."""
    batch, kind = len(logits[0]), "float16" if layouts[0].element == "half" else "float32"
    laid = [aligned(layout.lay(v)) for layout, group in zip(layouts, (logits, deltas), strict=True) for v in group]
    laid.append(aligned(np.array(fit_frame(spec, *frame).vector(), np.float32)))
    inputs, outputs = heads(spec, batch, kind, format_), results(spec, batch)
    into = [aligned(np.full(t.shape, 77, dtype)) for t, dtype in zip(outputs, OUTPUTS, strict=True)]
    assert plugin.configure(inputs, outputs, batch) == 0
    scratch = aligned(np.full(plugin.workspace(inputs, outputs, batch), 0xA5, np.uint8))
    assert plugin.shape_change(inputs, outputs) == 0
    addresses = ([v.ctypes.data for v in group] for group in (laid, into))
    error = plugin.enqueue(inputs, outputs, *addresses, scratch.ctypes.data)
    assert error == 0, plugin.shim.said()
    return into


def agree(got: Sequence[npt.NDArray[np.generic]], wanted: Sequence[npt.NDArray[np.generic]]) -> None:
    assert (got[3] == wanted[3]).all()
    assert (got[2] == wanted[2]).all()
    np.testing.assert_allclose(got[1], wanted[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(got[0], wanted[0], rtol=0, atol=1e-4)


def of(shim: Shim, spec: DetectorSpec) -> Plugin:
    """The plugin of a spec as a plan has it: built, serialised, made anew, cloned for a context."""
    built = shim.create(parsed(attributes_of(spec)))
    assert built is not None, shim.said()
    with built:
        loaded = shim.create(built.fields(), RUNTIME)
    assert loaded is not None, shim.said()
    with loaded:
        return loaded.clone("attach")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("element", "format_", "pack"),
    [
        ("float", LINEAR, 1),
        ("float", CHW32, 32),
        ("float", HWC, None),
        ("half", LINEAR, 1),
        ("half", CHW2, 2),
        ("half", CHW32, 32),
        ("half", HWC8, 0),
    ],
)
def test_every_layout_gives_the_reference(shim: Shim, element: str, format_: int, pack: int | None, batch: int) -> None:
    rng = np.random.default_rng(7)
    logits, deltas = random_heads(SPEC, rng, batch)
    channels = (len(SPEC.cell_anchors[0]) * SPEC.num_classes, len(SPEC.cell_anchors[0]) * 4)
    layouts = tuple(Layout(element, c if pack is None else pack) for c in channels)
    with of(shim, SPEC) as plugin:
        got = run(plugin, SPEC, logits, deltas, (layouts[0], layouts[1]), format_)
    seen = [[layouts[0].values(v) for v in group] for group in (logits, deltas)]
    wanted = detect(*seen, SPEC, GEOMETRY)
    assert wanted[3].min() > 5
    agree(got, wanted)


@pytest.mark.parametrize(
    "values",
    [
        {"clip": "input", "box_coding": "corner", "class_choice": "best"},
        {"clip": "pixels", "inclusive_pixels": True, "drop_empty": True, "placement": "center"},
        {"clip": "after_nms", "top_k_scope": "all", "top_k": 20, "class_aware_nms": False},
        {"clip": "none", "delta_weights": (10.0, 10.0, 5.0, 5.0), "max_detections": 3, "score_threshold": 0.3},
        {"shapes": ((8, 8), (4, 4), (2, 2), (1, 1)), "classes": 11, "per_cell": 3, "nms_iou": 0.1},
    ],
)
def test_every_field_reaches_the_kernels(shim: Shim, values: dict[str, object]) -> None:
    spec = make_spec(**values)  # type: ignore[arg-type]
    logits, deltas = random_heads(spec, np.random.default_rng(3), 2)
    with of(shim, spec) as plugin:
        got = run(plugin, spec, logits, deltas, (Layout(), Layout()), LINEAR)
    wanted = detect(logits, deltas, spec, fit_frame(spec, 48, 80))
    assert wanted[3].min() > 0
    agree(got, wanted)


def test_nothing_found(shim: Shim) -> None:
    logits, deltas = random_heads(SPEC, np.random.default_rng(0), mean=-50)
    with of(shim, SPEC) as plugin:
        boxes, scores, labels, count = run(plugin, SPEC, logits, deltas, (Layout(), Layout()), LINEAR)
    assert (count.tolist(), boxes.any(), scores.any(), (labels == -1).all()) == ([0], False, False, True)


def test_one_object_serves_batches_of_any_size(shim: Shim) -> None:
    logits, deltas = random_heads(SPEC, np.random.default_rng(5), 4)
    with of(shim, SPEC) as plugin:
        together = run(plugin, SPEC, logits, deltas, (Layout(), Layout()), LINEAR)
        for image in range(4):
            one = [[v[image : image + 1] for v in group] for group in (logits, deltas)]
            alone = run(plugin, SPEC, *one, (Layout(), Layout()), LINEAR)
            assert all((a[0] == b[image]).all() for a, b in zip(alone, together, strict=True))
