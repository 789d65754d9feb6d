"""The figures of docs/plugin.md that follow from a formula, computed anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from decoder import make_spec
from emulator.launcher import Emulator, formats_of, params_of

from edge_retina.spec import DetectorSpec, cell_anchors

NOTES = (Path(__file__).resolve().parents[2] / "docs" / "plugin.md").read_text(encoding="utf-8")
STRIDES = (8, 16, 32, 64, 128)
SHAPES = ((640, 640), (800, 1344))
BANDWIDTHS = {
    "Orin Nano": 68,
    "Orin Nano Super": 102,
    "AGX Orin 64 GB": 204.8,
    "Thor T5000": 273,
    "RTX 4090": 1008,
}


def retinanet(height: int, width: int) -> DetectorSpec:
    """Lin et al.'s detector: five levels, nine anchors a cell, COCO's 80 classes."""
    return make_spec(
        tuple((-(-height // s), -(-width // s)) for s in STRIDES),
        classes=80,
        strides=tuple((s, s) for s in STRIDES),
        cell_anchors=tuple(cell_anchors([4 * s * 2 ** (i / 3) for i in range(3)], [0.5, 1.0, 2.0]) for s in STRIDES),
        input_size=(height, width),
        max_detections=100,
    )


SPECS = [retinanet(*shape) for shape in SHAPES]
CELLS = [sum(h * w for h, w in spec.level_shapes) for spec in SPECS]
LOGITS = [cells * 9 * 80 for cells in CELLS]


def row(*values: object) -> str:
    return "| " + " | ".join(map(str, values)) + " |\n"


def test_what_must_be_moved() -> None:
    assert row("cells of levels P3 to P7, 9 anchors each", *(f"{n:,}" for n in CELLS)) in NOTES
    assert row("anchors", *(f"{9 * n:,}" for n in CELLS)) in NOTES
    assert row("logits", *(f"{n:,}" for n in LOGITS)) in NOTES
    assert row("bytes of logits, FP16 / FP32", *(f"{n * 2e-6:.1f} / {n * 4e-6:.1f} MB" for n in LOGITS)) in NOTES


def test_our_workspace(emulator: Emulator) -> None:
    for batch in (1, 16, 64):
        sizes = [emulator.workspace(params_of(spec), formats_of(spec), batch) for spec in SPECS]
        assert row(f"batch {batch}", *(f"{size / 1e6:.1f} MB" for size in sizes)) in NOTES


@pytest.mark.parametrize("name", BANDWIDTHS)
def test_predictions(emulator: Emulator, name: str) -> None:
    rate, times = BANDWIDTHS[name], []
    for spec, logits in zip(SPECS, LOGITS, strict=True):
        scratch = emulator.workspace(params_of(spec), formats_of(spec), 1)
        for size in (2, 4):
            least, most = logits * size, logits * size + 2 * scratch + 5 * 1000 * 4 * 32
            times.append(f"{least / rate / 1e6:.2f} to {most / rate / 0.7 / 1e6:.2f}")
    assert row(name, f"{rate} GB/s", *times) in NOTES


def test_the_others_workspace() -> None:
    first = [spec.level_shapes[0][0] * spec.level_shapes[0][1] * 720 for spec in SPECS]
    for shape, p3, all_ in zip(SHAPES, first, LOGITS, strict=True):
        line = next(text for text in NOTES.splitlines() if text.startswith(f"| workspace, {shape[0]}x{shape[1]} |"))
        _, _, _, odtk, efficient, opt, _ = (cell.strip() for cell in line.split("|"))
        assert odtk == f"{p3 * 17e-6:.1f} MB + CUB {p3 * 8e-6:.1f} MB"
        assert efficient == f"FP16 {all_ * 20e-6:.1f}, FP32 {all_ * 24e-6:.1f} MB"
        nms_opt = (all_ * 16 + all_ // 80 * 16 + 2 * 80 * 1000 * 4) / 1e6
        assert opt.removesuffix(" (1)") == f"{nms_opt:.1f} MB + CUB {all_ * 8e-6:.1f} MB"
