"""What a build puts into its report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.calibrate.pictures import CalibrationSet
from edge_retina.calibrate.ranges import Ranges
from edge_retina.int8 import Int8, layer_label
from edge_retina.proof import Judge, Measured
from edge_retina.report import Layer, Pair, Report, render
from edge_retina.runtime.ort import open_session
from edge_retina.sensitivity import local_sqnr
from edge_retina.types import U8

__all__ = ["frame_times", "int8_layers", "report_page"]

_ROUNDS = 3
_SQNR_FRAMES = 2


def report_page(
    name: str,
    precision: str,
    models: Mapping[str, bytes],
    measured: Mapping[str, Measured],
    judge: Judge,
    *,
    int8: Int8 | None = None,
    ranges: Ranges | None = None,
    pictures: CalibrationSet | None = None,
    differ: Mapping[str, float] | None = None,
    kept: Sequence[str] = (),
    tools: Mapping[str, str],
) -> bytes:
    """The page for a model called `name`.

    models, measured: by precision, "fp32" first. int8, ranges, pictures, differ: of an INT8 build; differ is what
    int8.disagreements gave. kept: tensors that an FP16 build left in FP32. tools: package to version.
    """
    first = measured["fp32"].frame
    assert first is not None
    frame = first.image
    facts = [("Size and speed", "")]
    times = frame_times(models, frame)
    facts += [(f"{key.upper()} model", f"{len(data) / 1e6:.1f} MB") for key, data in models.items()]
    size = f"{frame.shape[1]}x{frame.shape[0]}"
    facts += [
        (f"{key.upper()}, ONNX Runtime", f"{1e3 * t:.1f} ms a frame of {size} (median)") for key, t in times.items()
    ]
    if int8 is not None and ranges is not None and pictures is not None:
        facts += _calibration_facts(int8, ranges, pictures)
        names = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
        facts += [(f"disagreement, as {names[key]} has it", f"{value:.4f}") for key, value in (differ or {}).items()]
    if kept:
        facts += [("FP16", ""), ("tensors kept in FP32", ", ".join(map(layer_label, kept)))]
    facts += [("Made with", ""), *tools.items()]
    layers = [] if int8 is None else int8_layers(int8)
    known = [(key.upper(), found.accuracy) for key, found in measured.items() if found.accuracy is not None]
    if not judge.labelled and precision == "fp32":  # that FP32 agrees with itself tells nothing
        known = []
    return render(
        Report(
            title=name,
            precision=precision,
            verdict=_verdict(precision, measured, int8, agreement=not judge.labelled),
            accuracies=known,
            measured=judge.sentence if known else "",
            layers=layers,
            pairs=_pairs(measured["fp32"], measured[precision]) if precision != "fp32" else (),
            facts=facts,
            warnings=() if ranges is None else ranges.warnings,
            agreement=not judge.labelled,
        )
    )


def frame_times(models: Mapping[str, bytes], frame: U8) -> dict[str, float]:
    """Median seconds a frame, uint8 (H, W, 3), for each model in ONNX Runtime; the models take turns."""
    sessions = {name: open_session(data) for name, data in models.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(_ROUNDS + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"frames": frame[None]})
            if number:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def int8_layers(int8: Int8) -> list[Layer]:
    """Every convolution, in graph order: precision, range, noise and what it costs alone where that was measured."""
    quantizer = int8.quantizer
    placement, inside = quantizer.everything, int8.quantized()
    sqnr = int8.choice.sqnr or local_sqnr(quantizer, int8.frames[:_SQNR_FRAMES])
    costs = {name: cost.disagreement for cost in int8.choice.costs for name in cost.unit}
    reads = {
        node.outputs[0].name: node.inputs[0].name for node in gs.import_onnx(quantizer.model).nodes if node.op == "Conv"
    }
    layers = []
    for name, macs in int8.macs.items():
        tensor = reads[name]
        observed = quantizer.statistics.get(tensor)
        group = placement.groups.get(tensor)
        noise = sqnr.get(name)
        layers.append(
            Layer(
                layer_label(name),
                macs,
                "int8" if name in inside else "float",
                0.0 if group is None else quantizer.range(placement.observed[group]),
                None if observed is None else observed.histogram,
                None if noise is None or np.isinf(noise) else noise,
                costs.get(name),
                "" if name in inside else "left in float",
            )
        )
    return layers


def _verdict(precision: str, measured: Mapping[str, Measured], int8: Int8 | None, *, agreement: bool) -> str:
    was, now = measured["fp32"].accuracy, measured[precision].accuracy
    share = "" if int8 is None else f"; {int8.share:.1%} of the convolutions' work in INT8"
    if was is None or now is None or (agreement and precision == "fp32"):
        return f"{precision.upper()}: accuracy not measured{share}"
    if precision == "fp32":
        return f"FP32: AP {was.AP:.3f}"
    if agreement:
        return f"{precision.upper()}: agreement with FP32 {now.AP:.4f}{share}"
    drop = was.AP - now.AP
    change = f"{abs(drop):.4f} {'below' if drop > 0 else 'above'} FP32's {was.AP:.4f}" if drop else "that of FP32"
    return f"{precision.upper()}: AP {now.AP:.4f}, {change}{share}"


def _pairs(before: Measured, after: Measured) -> list[Pair]:
    return [
        Pair(one.frame.name or f"frame {one.frame.index}", one.frame.image, one.detections, other.detections)
        for one, other in zip(before.pictured, after.pictured, strict=True)
    ]


def _calibration_facts(int8: Int8, ranges: Ranges, pictures: CalibrationSet) -> list[tuple[str, str]]:
    recipe = int8.quantizer.recipe
    switches = {
        "cross-layer equalisation": recipe.equalize,
        "weight scale search": recipe.search_scales,
        "bias correction": recipe.correct_bias,
    }
    bound = ranges.binding
    return [
        ("Calibration", ""),
        ("pictures", f"{pictures.count} of {pictures.uri}"),
        ("ranges by", f"{recipe.method}, effort {recipe.effort}"),
        ("refinements", ", ".join(f"{name} {'on' if on else 'off'}" for name, on in switches.items())),
        ("streams equalised", str(len(ranges.factors))),
        ("model digest", bound.model),
        ("preprocessing digest", bound.preprocessing),
        ("pictures digest", bound.pictures or "none: a camera"),
    ]
