"""The INT8 stage of a build: calibrate, equalise, quantize, and leave in float what INT8 does not suit."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from edge_retina.bundle import read_bundle
from edge_retina.calibrate import look, sample_size
from edge_retina.calibrate.kept import Kept
from edge_retina.calibrate.pictures import CalibrationSet, Picture, SetCheck, spread
from edge_retina.calibrate.probes import open_probes
from edge_retina.calibrate.ranges import Binding, Ranges
from edge_retina.disagreement import Reference, disagreement, references
from edge_retina.errors import BundleError, InputError, UsageError
from edge_retina.memory import release
from edge_retina.quantize import Quantizer, Recipe, equalize, equalized, observed
from edge_retina.rewrite.equalize import channel_factors, equalizable
from edge_retina.rewrite.integer_conv import restore_convs
from edge_retina.rewrite.macs import conv_macs
from edge_retina.rewrite.placement import place, quantizable
from edge_retina.rewrite.signed import to_signed
from edge_retina.rewrite.stem import restore_stem
from edge_retina.sensitivity import Choice, choose_float, share
from edge_retina.spec import DetectorSpec
from edge_retina.types import U8

__all__ = [
    "Int8",
    "OnStep",
    "binding",
    "calibrate",
    "check_patterns",
    "disagreements",
    "known_ranges",
    "layer_label",
    "quantize",
    "some_frames",
    "some_layers",
    "trial_frames",
]

# Called with how many steps are done, and of how many.
OnStep = Callable[[int, int], None]

# Pictures for what needs few: equalisation, the choice of float layers, rounding with high effort.
_EQUALIZE, _CHOOSE, _ROUND = 16, 8, 64
# What of a spec stands between a frame and the network.
_PREPROCESSING = (
    *("input_size", "color_order", "mean", "std", "pad_value"),
    *("resize", "shortest_side", "rounding", "placement"),
)


@dataclass(frozen=True, eq=False)
class Int8:
    """A quantized model and what is known of it.

    quantizer, choice: how it came about. macs: of every convolution, by its output. share: of them in INT8, 0..1.
    frames, wanted: a few pictures, uint8 (H, W, 3), and what the float model says of them.
    """

    model: onnx.ModelProto
    quantizer: Quantizer
    choice: Choice
    macs: dict[str, int]
    frames: Sequence[U8]
    wanted: Sequence[Reference]

    @property
    def share(self) -> float:
        """Of the convolutions' multiply-accumulates those in INT8."""
        return share(self.macs, set(self.macs) - self.quantized())

    def quantized(self) -> set[str]:
        """Convolutions in INT8, by their outputs."""
        return set(self.quantizer.everything.convs) - set(self.choice.skip)


def layer_label(name: str) -> str:
    """A layer as its trainer called it: the output's name in the ONNX that was given."""
    return name.removeprefix("model/")


def binding(
    model_digest: str,
    spec: DetectorSpec,
    frame_size: tuple[int, int] | None,
    pictures: CalibrationSet,
    recipe: Recipe,
) -> Binding:
    """What ranges of these pictures will belong to."""
    values = spec.to_dict()
    facts = {"frame_size": frame_size, "equalize": recipe.equalize, **{name: values[name] for name in _PREPROCESSING}}
    preprocessing = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Binding(model_digest, preprocessing, pictures.digest, pictures.count)


def calibrate(
    model: onnx.ModelProto, pictures: CalibrationSet, bound: Binding, recipe: Recipe, *, on_step: OnStep
) -> Ranges:
    """Ranges of a float model's tensors on calibration pictures.

    A few pictures for the equalisation, then all others. Raises InputError, ModelError, RuntimeFailure, OutputError.
    """
    few = spread(pictures.count, _EQUALIZE) if recipe.equalize else []
    total, done = pictures.count + len(few), 0
    looked = SetCheck()

    def counted(frames: Iterator[Picture]) -> Iterator[U8]:
        nonlocal done
        for frame in frames:
            yield frame.image
            done += 1
            on_step(done, total)

    def checked() -> Iterator[Picture]:
        for frame in pictures.frames():
            looked.add(frame)
            yield frame

    release()
    probes = open_probes(model, observed(model), sample_size(pictures.count))
    release()
    with Kept(probes.read, few) as kept:
        factors = equalize(model, look(probes, counted(_some(pictures, few)), read=kept.keep)) if few else {}
        divided = channel_factors(gs.import_onnx(model), factors)
        release()
        statistics = look(probes, counted(checked()), factors=divided, read=kept.read)
    del probes
    release()
    # Through the file's precision, so that ranges read again give the same model.
    return Ranges.from_json(Ranges(bound, factors, statistics, tuple(looked.warnings())).to_json({}))


def known_ranges(
    model: onnx.ModelProto, bound: Binding, given: Path | None, older: Path, on_note: Callable[[str], None]
) -> Ranges | None:
    """Ranges of a float model that are there and fit, None where it has to be calibrated.

    given: a bundle or ranges.json that has to fit. older: a bundle whose ranges are used if they do; on_note is told.
    Raises InputError, BundleError.
    """
    if given is not None:
        found = _read_ranges(given)
        if differs := bound.differs(found.binding) or _misfit(model, found):
            raise InputError(
                f"{given}: its ranges are of another calibration (differs: {differs}); leave out --ranges to calibrate"
            )
        return found
    with contextlib.suppress(BundleError, InputError):  # no bundle yet, or one without ranges
        found = _read_ranges(older)
        if not (differs := bound.differs(found.binding) or _misfit(model, found)):
            on_note(f"ranges of {older} reused: same model, preprocessing and pictures")
            return found
        on_note(f"ranges of {older} are stale (differs: {differs}): calibrating anew")
    return None


def _read_ranges(path: Path) -> Ranges:
    """Out of a bundle or a ranges.json. Raises InputError, BundleError."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: wanted a bundle or a ranges.json, found no such file")
        with path.open("rb") as file:
            bundled = file.read(2) == b"PK"
        text = read_bundle(path).read("ranges.json") if bundled else path.read_bytes()
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}; leave out --ranges to calibrate") from exc
    return Ranges.from_json(text, str(path))


def _misfit(model: onnx.ModelProto, ranges: Ranges) -> str:
    """What of ranges is not of a float model's tensors, for a message; "" when nothing is.

    Not even ranges bound to the same ONNX need be: another version may have rewritten it otherwise.
    """
    graph = gs.import_onnx(model)
    tensors = graph.tensors()
    streams = {stream.name: len(tensors[stream.writers[0]].values) for stream in equalizable(graph)}
    for name, factor in ranges.factors.items():
        if streams.get(name) != len(factor):
            return f"{len(factor)} factors of {name!r}"
    if strange := sorted(observed(model) ^ set(ranges.statistics)):
        return f"tensor {strange[0]!r}"
    for conv in quantizable(graph):
        name, channels = conv.inputs[0].name, conv.inputs[1].values.shape[1] * conv.attrs.get("group", 1)
        if name in ranges.statistics and len(ranges.statistics[name].mean) != channels:
            return f"channels of {name!r}"
    return ""


def quantize(
    model: onnx.ModelProto,
    spec: DetectorSpec,
    ranges: Ranges,
    pictures: CalibrationSet,
    recipe: Recipe,
    *,
    float_layers: Sequence[str] = (),
    least_share: float = 0.95,
    on_step: OnStep,
) -> Int8:
    """The INT8 version of a float model.

    float_layers: patterns of layers to leave in float whatever they cost. least_share: how much of the convolutions'
    work the automatic choice has to leave in INT8; 1.0 turns it off. Raises UsageError for a pattern without a match.
    """
    even = equalized(model, ranges.factors)
    macs = conv_macs(even)
    quantizer = Quantizer(even, ranges.statistics, recipe)
    if recipe.effort == "high":
        from edge_retina.rounding import round_weights

        done, chosen = 0, spread(pictures.count, _ROUND)

        def rounded() -> Iterator[U8]:
            nonlocal done
            for frame in _some(pictures, chosen):
                yield frame.image
                done += 1
                on_step(done, len(chosen))

        quantizer = Quantizer(even, ranges.statistics, recipe, round_weights(quantizer, rounded()))
    forced = _matching(float_layers, quantizer.everything.convs)
    frames = trial_frames(pictures)
    wanted = references(even, spec, frames)
    choice = choose_float(quantizer, spec, frames, macs, skip=forced, least_share=least_share, wanted=wanted)
    return Int8(quantizer.quantized(choice.skip), quantizer, choice, macs, frames, wanted)


def disagreements(int8: Int8, spec: DetectorSpec) -> dict[str, float]:
    """Disagreement with the float model, 0.0 the same, as "onnxruntime" and as "tensorrt" compute the INT8 model.

    They differ where activations exceed their range: uint8 without negative numbers has codes to spare, int8 clips.
    """
    graph = gs.import_onnx(int8.model)
    restore_convs(graph)
    restore_stem(graph)
    to_signed(graph)
    forms = {"onnxruntime": int8.model, "tensorrt": gs.export_onnx(graph)}
    del graph
    # What the choice of float layers measured already, unless --auto returned more of them since.
    known = {"onnxruntime": int8.choice.after} if int8.choice.after else {}
    found = {n: known.get(n) or disagreement(form, spec, int8.frames, int8.wanted) for n, form in forms.items()}
    return {name: round(value, 6) for name, value in found.items()}


def trial_frames(pictures: CalibrationSet, most: int = _CHOOSE) -> list[U8]:
    """A few pictures, evenly spread over the set."""
    return list(some_frames(pictures, most))


def some_frames(pictures: CalibrationSet, most: int) -> Iterator[U8]:
    """The same, one in memory at a time."""
    return (picture.image for picture in _some(pictures, spread(pictures.count, most)))


def _some(pictures: CalibrationSet, indices: Sequence[int]) -> Iterator[Picture]:
    wanted = set(indices)
    for index, picture in enumerate(pictures.frames()):
        if index in wanted:
            yield picture
        if index >= indices[-1]:
            return


def check_patterns(model: onnx.ModelProto, patterns: Sequence[str]) -> None:
    """Raise UsageError for patterns of float layers that match nothing, or everything."""
    everything = place(gs.import_onnx(model)).convs
    if patterns and set(_matching(patterns, everything)) >= set(everything):
        raise UsageError("--float-layers leaves nothing in INT8; name fewer layers, or build without --int8")


def some_layers(names: Sequence[str], most: int = 8) -> str:
    """The first few layers, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(layer_label, names[:most])) + rest


def _matching(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [name for name in names if fnmatch.fnmatchcase(layer_label(name), pattern)]
        if not hits:
            some = ", ".join(layer_label(name) for name in names[:5])
            raise UsageError(
                f"--float-layers {pattern!r} matches none of the {len(names)} convolutions, such as {some}; "
                "see all with: edge-retina sensitivity"
            )
        found |= dict.fromkeys(hits)
    return tuple(found)
