"""What a launch moves and needs, counted: loads of each logit, launches, workspace; and the same bytes each time.

That each input is read through the counted loads alone, the emulator enforces: nothing else reaches it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from decoder import make_spec, random_heads
from emulator.launcher import Layout, formats_of, params_of
from emulator.reference import detect, rounded_once

from edge_retina.geometry import Geometry
from edge_retina.spec import DetectorSpec, cell_anchors

STRIDES = (8, 16, 32, 64, 128)
LAUNCHES, WORKSPACE = 4, 10 << 20
PLAIN = Geometry((64, 64), (64, 64), (0, 0))


def full_size(height: int, width: int, **values: Any) -> DetectorSpec:
    """A RetinaNet of COCO's 80 classes: five levels, nine anchors to a cell."""
    return make_spec(
        tuple((-(-height // s), -(-width // s)) for s in STRIDES),
        classes=80,
        strides=tuple((s, s) for s in STRIDES),
        cell_anchors=tuple(cell_anchors([4 * s * 2 ** (i / 3) for i in range(3)], [0.5, 1.0, 2.0]) for s in STRIDES),
        input_size=(height, width),
        max_detections=100,
        **values,
    )


@cache
def full_size_heads(spec: DetectorSpec) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits such that about one in a hundred exceeds 0.05, which is more than a trained network's."""
    rng = np.random.default_rng(0)
    logits, deltas = [], []
    for shape in spec.level_shapes:
        logits.append(rng.standard_normal((1, 720, *shape), dtype=np.float32) * np.float32(1.5) - np.float32(6.5))
        deltas.append(rng.standard_normal((1, 36, *shape), dtype=np.float32) * np.float32(0.3))
    return logits, deltas


@pytest.mark.parametrize("choice", ["every", "best"])
@pytest.mark.parametrize(("height", "width", "element"), [(640, 640, "float"), (800, 1344, "half")])
def test_at_full_size_each_logit_is_read_once(emulator, height, width, element, choice):
    spec, layout = full_size(height, width, class_choice=choice), Layout(element)
    logits, deltas = full_size_heads(full_size(height, width))
    geometry = Geometry((height, width), (height, width), (0, 0))
    run = emulator(spec, logits, deltas, geometry, layout=layout)
    with rounded_once():
        wanted = detect([layout.values(v) for v in logits], deltas, spec, geometry)
    for ours, theirs in zip((run.boxes, run.scores, run.labels, run.count), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert run.count.tolist() == [100]
    assert all((loads == 1).all() for loads in run.loads)
    assert run.launches == LAUNCHES
    assert run.used <= run.workspace <= WORKSPACE


def test_at_full_size_each_logit_is_read_once_though_all_pass(emulator):
    spec = full_size(640, 640)
    logits, deltas = full_size_heads(spec)
    geometry = Geometry((640, 640), (640, 640), (0, 0))
    run = emulator(spec, [v + 12 for v in logits], deltas, geometry)
    with rounded_once():
        wanted = detect([v + 12 for v in logits], deltas, spec, geometry)
    np.testing.assert_array_equal(run.boxes, wanted[0])
    assert all((loads == 1).all() for loads in run.loads)
    assert run.used <= WORKSPACE


@pytest.mark.parametrize("top_k", [1, 1000, 5000])
@pytest.mark.parametrize("choice", ["every", "best"])
def test_workspace_is_bounded_whatever_is_kept(emulator, choice, top_k):
    spec = full_size(800, 1344, top_k=top_k, class_choice=choice)
    assert emulator.workspace(params_of(spec), formats_of(spec)) <= WORKSPACE


@pytest.mark.parametrize("top_k", [1, 1000, 5000])
@pytest.mark.parametrize(("choice", "classes"), [("every", 80), ("best", 80), ("best", 1), ("every", 1)])
@pytest.mark.parametrize("side", [64, 640, 1344])
def test_workspace_of_an_image_is_what_the_readme_says(emulator, choice, classes, side, top_k):
    spec = replace(full_size(side, side), labels=("x",) * classes, top_k=top_k, class_choice=choice)
    anchors = sum(9 * height * width for height, width in spec.level_shapes)
    keys = 8 * anchors if choice == "best" else anchors * classes / 4
    most = keys + 40 * top_k * spec.num_levels + 24 * spec.max_detections + 8192
    assert emulator.workspace(params_of(spec), formats_of(spec)) <= most


@pytest.mark.parametrize("top_k", [1, 300, 5000])
def test_workspace_never_shrinks_with_the_batch(emulator, top_k):
    spec = full_size(320, 320, top_k=top_k)
    needed = [emulator.workspace(params_of(spec), formats_of(spec), batch) for batch in range(1, 65)]
    assert needed == sorted(needed)


def test_workspace_of_a_large_batch_at_full_size(emulator):
    """Tiles grow with the batch, so that 64 images need far less than 64 times what one does."""
    spec = full_size(800, 1344)
    one, many = (emulator.workspace(params_of(spec), formats_of(spec), batch) for batch in (1, 64))
    assert many <= 16 * one


@pytest.mark.parametrize("levels", [1, 8])
@pytest.mark.parametrize("classes", [1, 90])
@pytest.mark.parametrize("batch", [1, 5])
def test_launches_depend_on_nothing(emulator, levels, classes, batch):
    spec = make_spec(((4, 4),) * levels, classes=classes)
    assert emulator(spec, *random_heads(spec, np.random.default_rng(0), batch), PLAIN).launches == LAUNCHES


@pytest.mark.parametrize(
    "values", [{"top_k": 40}, {"class_choice": "best"}, {"top_k_scope": "all", "top_k": 25}], ids=str
)
def test_the_same_bytes_whatever_the_order_of_threads_and_what_memory_held(emulator, values, monkeypatch):
    """Three tiles on the first level, all of which fill their buffers."""
    spec = make_spec(((30, 25), (5, 5)), classes=20, **values)
    logits, deltas = random_heads(spec, np.random.default_rng(1), batch=2, mean=3)
    logits = [np.round(v * 4) / np.float32(4) for v in logits]
    first = emulator(spec, logits, deltas, PLAIN)
    for seed, fill, workers in ((1, 0, "1"), (2, 0xFF, "2"), (3, 0x7F, "3"), (4, 0xA5, "2")):
        monkeypatch.setenv("EMULATOR_WORKERS", workers)
        assert emulator(spec, logits, deltas, PLAIN, seed=seed, fill=fill).bytes == first.bytes


@pytest.mark.parametrize("values", [{}, {"class_choice": "best"}, {"top_k_scope": "all"}], ids=str)
def test_a_batch_of_16_gives_what_its_images_give_alone_bit_for_bit(emulator, values):
    spec = make_spec(((12, 9), (3, 3)), classes=20, **{"top_k": 30, **values})
    logits, deltas = random_heads(spec, np.random.default_rng(7), batch=16)
    logits = [np.round(v * 2) / np.float32(2) for v in logits]
    logits[0][3], logits[1][3] = -50, -50  # one image with nothing in it
    logits[0][4], logits[1][4] = 7, 7  # and one of nothing but ties
    together = emulator(spec, logits, deltas, PLAIN)
    for row in range(16):
        alone = emulator(spec, [v[row : row + 1] for v in logits], [v[row : row + 1] for v in deltas], PLAIN)
        for name in ("boxes", "scores", "labels", "count"):
            assert getattr(together, name)[row].tobytes() == getattr(alone, name)[0].tobytes()


def test_tiles_that_grew_with_the_batch_give_the_same(emulator):
    """Four tiles for one image, one for each of 16."""
    spec = make_spec(((30, 45),), classes=20, per_cell=2, top_k=300, nms_iou=0.3)
    logits, deltas = random_heads(spec, np.random.default_rng(8), batch=1, mean=0)
    together = emulator(spec, [np.repeat(v, 16, 0) for v in logits], [np.repeat(v, 16, 0) for v in deltas], PLAIN)
    alone = emulator(spec, logits, deltas, PLAIN)
    assert all(together.boxes[row].tobytes() == alone.boxes.tobytes() for row in range(16))


def test_a_level_of_more_tiles_than_a_block_has_threads(emulator):
    """532,900 anchors in tiles of 1,024: the second kernel goes through them in two groups."""
    spec = make_spec(((730, 730),), classes=1, per_cell=1, class_choice="best", top_k=300, strides=((8, 8),))
    logits, deltas = random_heads(spec, np.random.default_rng(9))
    geometry = Geometry((5840, 5840), (5840, 5840), (0, 0))
    run = emulator(spec, logits, deltas, geometry)
    with rounded_once():
        wanted = detect(logits, deltas, spec, geometry)
    np.testing.assert_array_equal(run.boxes, wanted[0])
    assert (run.loads[0] == 1).all()
