"""From the float graph to the precision asked for, proved on pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from edge_retina.auto import give_back
from edge_retina.calibrate import gather
from edge_retina.calibrate.pictures import CalibrationSet, open_calibration
from edge_retina.calibrate.ranges import Ranges
from edge_retina.check import check
from edge_retina.errors import AccuracyLost
from edge_retina.gate import NOTHING_FOUND, lost, too_much
from edge_retina.int8 import (
    binding,
    calibrate,
    check_patterns,
    disagreements,
    known_ranges,
    layer_label,
    quantize,
    some_frames,
    some_layers,
)
from edge_retina.memory import tidied
from edge_retina.proof import Judge, Measured, Trial, cautions, open_judge
from edge_retina.quantize import Recipe
from edge_retina.rewrite.half import half_overflow, to_half
from edge_retina.rewrite.infer import infer_types
from edge_retina.rewrite.trunk import Trunk
from edge_retina.sensitivity import HARMLESS, rank
from edge_retina.spec import DetectorSpec
from edge_retina.summary import report_page
from edge_retina.types import U8

__all__ = ["Asked", "Float", "Made", "make"]

# Frames of noise for FP16 without calibration pictures: they only look for overflow.
_NOISE_FRAMES = 2
# Calibration pictures that do the same.
_OVERFLOW_FRAMES = 64
_RANKING_FRAMES = 4  # each of them is run once for each layer
# When the TensorRT form disagrees so many times more than what was measured, the user should know.
_FURTHER = 1.5
# Far more than any model that kept its accuracy has shown.
_MUCH = 0.15
_UNPROVED = (
    "what FP16 costs was not measured, and overflow was looked for on noise only: "
    "give pictures with --calib FOLDER, or annotated ones with --eval ann.json"
)


@dataclass(frozen=True, eq=False)
class Float:
    """The rewritten FP32 model. data: graph as bytes. digest: of the ONNX given. name: its file name."""

    graph: onnx.ModelProto
    data: bytes
    spec: DetectorSpec
    digest: str
    frame_size: tuple[int, int] | None
    batch_max: int | None
    name: str


@dataclass(frozen=True)
class Asked:
    """What the caller of build wants; see there. older: the bundle that will be replaced, for its ranges."""

    precision: str
    calib: str | None
    calib_images: str | os.PathLike[str] | None
    calib_most: int
    ranges: Path | None
    older: Path
    recipe: Recipe | None
    float_layers: tuple[str, ...]
    int8_share: float
    annotations: Path | None
    images: Path | None
    max_ap_drop: float | None
    auto: bool
    tools: Mapping[str, str]
    on_stage: Callable[[str], None]
    on_step: Callable[[int, int], None]
    on_note: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Made:
    """What goes into the bundle."""

    model: bytes
    batch_max: int | None
    calibration_digest: str | None = None
    accuracy: Mapping[str, Any] | None = None
    extra: Mapping[str, bytes] = field(default_factory=dict)


def make(source: Float, asked: Asked) -> Made:
    """The model in the precision asked for, measured against FP32 where there are pictures to measure on.

    Raises what build raises.
    """
    pictures = None
    if asked.calib is not None:
        pictures = open_calibration(
            asked.calib, most=asked.calib_most, frame_size=source.frame_size, images=asked.calib_images
        )
    judge = open_judge(asked.annotations, asked.images, pictures)
    for caution in cautions(judge, pictures) if judge is not None else ():
        asked.on_note(caution)
    with Trial(source.spec, source.digest, source.frame_size) as trial:
        return _STAGES[asked.precision](source, replace(asked, on_stage=tidied(asked.on_stage)), pictures, judge, trial)


def _fp32(source: Float, asked: Asked, _: CalibrationSet | None, judge: Judge | None, trial: Trial) -> Made:
    if judge is None or asked.annotations is None:
        return Made(source.data, source.batch_max)
    before = _measure(judge, trial, source.data, "fp32", source.batch_max, asked)
    measured = {"fp32": before}
    asked.on_stage("report")
    page = report_page(source.name, "fp32", {"fp32": source.data}, measured, judge, tools=asked.tools)
    return Made(source.data, source.batch_max, None, _accuracy(judge, measured), {"report.html": page})


def _fp16(source: Float, asked: Asked, pictures: CalibrationSet | None, judge: Judge | None, trial: Trial) -> Made:
    asked.on_stage("find overflows")
    frames = some_frames(pictures, _OVERFLOW_FRAMES) if pictures is not None else _noise(source)
    graph = gs.import_onnx(source.graph)
    maxima = {name: found.maximum for name, found in gather(source.graph, _halved(graph), frames).items()}
    half = to_half(graph, half_overflow(maxima))
    if half.kept:
        kept = some_layers(half.kept)
        asked.on_note(
            f"{len(half.kept)} tensors stay FP32, for they would overflow FP16 or their operators need it: {kept}"
        )
    data = gs.export_onnx(graph).SerializeToString(deterministic=True)
    asked.on_stage("check FP16")
    check(data, source.spec, source.frame_size)
    # Types do not change what takes batches. ONNX Runtime's FP16 on a CPU differs by a rounding there, a GPU may not.
    batch_max = source.batch_max
    if judge is None:
        asked.on_note(_UNPROVED)
        return Made(data, batch_max)
    before = _measure(judge, trial, source.data, "fp32", source.batch_max, asked)
    after = _measure(judge, trial, data, "fp16", batch_max, asked)
    if too_much(before, after, asked.max_ap_drop, asked.on_note):
        raise AccuracyLost(f"{_lost('FP16', before, after, asked, judge)}; build it without --fp16")
    digest = None if pictures is None else pictures.digest
    measured = {"fp32": before, "fp16": after}
    models = {"fp32": source.data, "fp16": data}
    asked.on_stage("report")
    page = report_page(source.name, "fp16", models, measured, judge, kept=half.kept, tools=asked.tools)
    return Made(data, batch_max, digest, _accuracy(judge, measured), {"report.html": page})


def _halved(graph: gs.Graph) -> set[str]:
    """Tensors that FP16 would hold, of two axes or more, as statistics want; not of a Pad, which may add infinity."""
    trunk = Trunk(graph)
    shapes = {name: kind.shape for name, kind in infer_types(graph).items()}
    made = [t for n in trunk.nodes if n.op != "Pad" and trunk.is_data(n) for t in n.outputs if trunk.is_float(t)]
    return {t.name for t in made if len(shapes.get(t.name) or ()) >= 2}


def _noise(source: Float) -> list[U8]:
    height, width = source.frame_size or source.spec.input_size
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(_NOISE_FRAMES)]


def _int8(source: Float, asked: Asked, pictures: CalibrationSet | None, judge: Judge | None, trial: Trial) -> Made:
    assert pictures is not None and judge is not None  # noqa: PT018
    recipe = asked.recipe or Recipe()
    check_patterns(source.graph, asked.float_layers)
    ranges = _ranges(source, asked, pictures, recipe)
    before = _measure(judge, trial, source.data, "fp32", source.batch_max, asked)
    for warning in ranges.warnings:
        asked.on_note(f"calibration: {warning}")
    asked.on_stage("quantize")
    int8 = quantize(
        source.graph,
        source.spec,
        ranges,
        pictures,
        recipe,
        float_layers=asked.float_layers,
        least_share=asked.int8_share,
        on_step=asked.on_step,
    )
    data = int8.model.SerializeToString(deterministic=True)
    asked.on_stage("check INT8")
    batch_max = check(data, source.spec, source.frame_size).batch_max
    after = _measure(judge, trial, data, "int8", batch_max, asked)
    if too_much(before, after, asked.max_ap_drop, asked.on_note):
        asked.on_stage("rank layers")
        inside = [unit for unit in int8.quantizer.units() if unit[0] not in int8.choice.skip]
        few = slice(_RANKING_FRAMES)
        sqnr, wanted = int8.choice.sqnr or None, int8.wanted[few]
        costs = rank(int8.quantizer, source.spec, int8.frames[few], inside, sqnr=sqnr, wanted=wanted)
        if not asked.auto:
            worst = ", ".join(f"{layer_label(c.unit[0])} ({c.disagreement:.3f})" for c in costs[:5])
            raise AccuracyLost(
                f"{_lost('INT8', before, after, asked, judge)}. Quantized alone, these cost most: {worst}. "
                "Next: --auto, which returns layers to float until it fits; --int8-effort high; or --float-layers NAME"
            )

        def measure(model: bytes) -> Measured:
            return _measure(judge, trial, model, "int8", batch_max, asked)

        refused = partial(too_much, limit=asked.max_ap_drop, on_note=asked.on_note)
        given = give_back(int8, costs, measure, lambda found: refused(before, found))
        if given is None:
            raise AccuracyLost(
                f"{_lost('INT8', before, after, asked, judge)}, and no less with all layers but one in float. "
                "Next: --fp16; a larger --max-ap-drop; or more calibration pictures"
            )
        first, (int8, data, after) = int8, given
        more = len(int8.choice.skip) - len(first.choice.skip)
        asked.on_note(f"--auto returned {more} convolutions to float: INT8 share {first.share:.1%} -> {int8.share:.1%}")
        batch_max = check(data, source.spec, source.frame_size).batch_max
    if int8.choice.skip:
        asked.on_note(
            f"left in float: {some_layers(int8.choice.skip)}; {int8.share:.1%} of the convolutions' work is INT8"
        )
    differ = disagreements(int8, source.spec)
    if differ["onnxruntime"] > _MUCH:
        asked.on_note(
            f"INT8 changes the heads by {differ['onnxruntime']:.2f}, where 0.04 is little: prove it with "
            "--eval ann.json --max-ap-drop 0.005, and see which layers it is with: edge-retina sensitivity"
        )
    if differ["tensorrt"] > max(HARMLESS, _FURTHER * differ["onnxruntime"]):
        asked.on_note(
            f"TensorRT clips what ONNX Runtime does not: its heads disagree with FP32's by {differ['tensorrt']:.3f}, "
            f"ONNX Runtime's by {differ['onnxruntime']:.3f}; try --int8-method max"
        )
    measured = {"fp32": before, "int8": after}
    models = {"fp32": source.data, "int8": data}
    asked.on_stage("report")
    page = report_page(
        source.name,
        "int8",
        models,
        measured,
        judge,
        int8=int8,
        ranges=ranges,
        pictures=pictures,
        differ=differ,
        tools=asked.tools,
    )
    extra = {"ranges.json": ranges.to_json(int8.quantizer.used_ranges()), "report.html": page}
    facts = _accuracy(judge, measured)
    facts |= {"disagreement": differ, "int8_share": round(int8.share, 6)}
    facts["float_layers"] = [layer_label(name) for name in int8.choice.skip]
    digest = hashlib.sha256(extra["ranges.json"]).hexdigest()
    return Made(data, batch_max, digest, facts, extra)


def _ranges(source: Float, asked: Asked, pictures: CalibrationSet, recipe: Recipe) -> Ranges:
    """Ranges that are there and fit, else new ones."""
    bound = binding(source.digest, source.spec, source.frame_size, pictures, recipe)
    found = known_ranges(source.graph, bound, asked.ranges, asked.older, asked.on_note)
    if found is not None:
        return found
    asked.on_stage("calibrate")
    return calibrate(source.graph, pictures, bound, recipe, on_step=asked.on_step)


def _measure(judge: Judge, trial: Trial, model: bytes, precision: str, batch_max: int | None, asked: Asked) -> Measured:
    asked.on_stage(f"measure {precision.upper()}")
    return judge.measure(trial.bundle(model, precision, batch_max), asked.on_step)


def _lost(what: str, before: Measured, after: Measured, asked: Asked, judge: Judge) -> str:
    return lost(what, before, after, asked.max_ap_drop, agreement=not judge.labelled)


def _accuracy(judge: Judge, measured: Mapping[str, Measured]) -> dict[str, Any]:
    known = {name: found.accuracy.to_json() for name, found in measured.items() if found.accuracy is not None}
    if known and not judge.labelled:  # no AP, and FP32's would be 1 by definition
        known = {"agreement": {name: found for name, found in known.items() if name != "fp32"}}
    return {"measured": judge.sentence if known else NOTHING_FOUND, **known}


_STAGES: dict[str, Callable[[Float, Asked, CalibrationSet | None, Judge | None, Trial], Made]] = {
    "fp32": _fp32,
    "fp16": _fp16,
    "int8": _int8,
}
