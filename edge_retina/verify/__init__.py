"""Does a model as edge-retina runs it give the trainer's own detections?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_retina.detector import Detector
from edge_retina.errors import EdgeRetinaError, InputError, RuntimeFailure, UsageError
from edge_retina.geometry import fit_frame
from edge_retina.importer import import_model, load_onnx
from edge_retina.inspect import is_zip
from edge_retina.matching import PX, SCORE, Report, match
from edge_retina.rewrite import rewrite
from edge_retina.sources import open_source, probe
from edge_retina.spec import DetectorSpec
from edge_retina.types import F32, U8, Detections, Frame
from edge_retina.verify.heads import Heads
from edge_retina.verify.original import Original, Seen, detection_outputs, scaled
from edge_retina.verify.outputs import DetectionOutputs, Found
from edge_retina.verify.reference import read_reference
from edge_retina.verify.rewritten import Rewritten
from edge_retina.verify.verdict import Compared, Verdict

__all__ = ["Compared", "Verdict", "verify"]

# Of a resized side: what rounding a product in float32 instead of in integers makes of it.
_ROUNDED_APART = 1
# Of a channel's deviation: far more than moving the border of a picture by a pixel changes.
_SAME = 0.1
# Score tolerances to try where the chosen one does not do, to tell noise from a fault.
_LADDER = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3)


# What is looked at, what we find and what is wanted; or why a picture is left out.
_Pair = tuple[U8, Found, Found]
_Compare = Callable[[Frame], _Pair | EdgeRetinaError]


def verify(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str] | None = None,
    heads: bool = False,
    px: float = PX,
    score: float = SCORE,
    family: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_picture: Callable[[int, int | None], None] = lambda *_: None,
) -> Verdict:
    """Hold a model's detections against its trainer's, picture by picture, as matching.match does.

    model: an ONNX, or a bundle with a reference. images: a folder, glob, picture or video.
    Against what: recorded detections (reference; see verify.reference for the files), else the ONNX's own
    post-processing where it has one, run as it is, else, or with heads=True, its heads, decoded by boxes.detect.
    Pictures that the reference does not know, or on which the original graph fails, are left out, and a note says so.
    px, score: tolerances. family, overrides: see importer.import_model. on_picture is told how many are done, of all.
    Raises InputError, also where neither side finds anything; ModelError, SpecError, RuntimeFailure, UsageError,
    BundleError.
    """
    path, info = Path(model), probe(images)
    if info.live or (info.frames is None and not info.paths):
        raise UsageError(f"{images}: wanted pictures in files, which can be looked at again, found what never ends")
    if reference is not None and heads:
        raise UsageError("--reference and --heads each say what to compare with; give one of them")
    notes: dict[str, int] = {}
    with ExitStack() as stack:
        if path.suffix == ".edge" or is_zip(path):
            spec, compare, against = _bundle(path, reference, family, overrides, stack)
        else:
            spec, compare, against = _onnx(path, reference, heads, family, overrides, notes)
        done: list[tuple[str, Report]] = []
        needed: list[float | None] = []
        worst: Compared | None = None
        skipped: list[EdgeRetinaError] = []
        with closing(open_source(images)) as frames:
            for frame in frames:
                pair = compare(frame)
                if isinstance(pair, EdgeRetinaError):
                    skipped.append(pair)
                    on_picture(len(done) + len(skipped), info.frames)
                    continue
                compared = _compared(frame, pair, spec, px, score)
                done.append((compared.name, compared.report))
                needed.append(compared.score_needed)
                if worst is None or compared.badness > worst.badness:
                    worst = compared
                on_picture(len(done) + len(skipped), info.frames)
    if worst is None:
        raise skipped[0]
    verdict = Verdict(
        against[0],
        against[1],
        px,
        score,
        tuple(done),
        worst,
        None if None in needed else max(n for n in needed if n is not None),
        _sentences(notes, skipped, len(done)),
    )
    if not any(verdict.total[key] for key in ("matched", "missed", "extra")):
        raise InputError(
            f"neither side finds anything in {len(done)} pictures, which proves nothing; use pictures of what the "
            "model was trained on"
        )
    return verdict


def _bundle(
    path: Path,
    reference: str | os.PathLike[str] | None,
    family: str | None,
    overrides: Mapping[str, Any] | None,
    stack: ExitStack,
) -> tuple[DetectorSpec, _Compare, tuple[str, str]]:
    if family is not None or overrides:
        raise UsageError(f"{path}: --family and --spec apply to an ONNX only; leave them out for a bundle")
    if reference is None:
        raise UsageError(
            f"{path}: a bundle holds nothing of its trainer's to compare with; give recorded detections with "
            "--reference, or verify the ONNX it was built of"
        )
    detector = stack.enter_context(Detector.load(path, target="ort"))
    spec = replace(detector.spec, labels=detector.names)
    known = read_reference(Path(reference), spec.labels)

    def compare(frame: Frame) -> _Pair | EdgeRetinaError:
        wanted = known.of(frame.name)
        if wanted is None:
            return _unknown(reference)
        ours = detector(frame.image)
        return frame.image, (ours.xyxy, ours.scores, ours.labels.astype(np.int64)), _half_open(wanted, spec, frame)

    return spec, compare, (f"detections recorded in {reference}", "recorded")


def _onnx(
    path: Path,
    reference: str | os.PathLike[str] | None,
    heads: bool,
    family: str | None,
    overrides: Mapping[str, Any] | None,
    notes: dict[str, int],
) -> tuple[DetectorSpec, _Compare, tuple[str, str]]:
    source = load_onnx(path)
    found = import_model(source, family=family, overrides=overrides)
    known = None if reference is None else read_reference(Path(reference), found.spec.labels)
    outputs: DetectionOutputs | None = None
    if known is None and not heads:
        outputs = detection_outputs(source)
    if outputs is not None:
        original = Original(path, source, found, outputs)
        if not original.fits:
            # The original knows no frames: it gets pictures of its input's size, on which every rule puts them whole.
            found = replace(found, spec=found.spec.override("user", resize="stretch", shortest_side=None))
        ours = Rewritten(rewrite(source.graph, found), found.spec)
        same = "colour order, mean and std" if original.range == "normalised" else "colour order"
        rule = f"; the spec is taken at its word for {same}"
        if not original.fits:
            rule += "; pictures are stretched to its size first, so the resize rule is not tested"
        return (
            found.spec,
            lambda frame: _against_original(frame, original, ours, notes),
            (f"the post-processing in {path}, run as it is in ONNX Runtime, given {original.fed}{rule}", "original"),
        )
    ours = Rewritten(rewrite(source.graph, found), found.spec)
    if known is not None:

        def compare(frame: Frame) -> _Pair | EdgeRetinaError:
            wanted = known.of(frame.name)
            if wanted is None:
                return _unknown(reference)
            return frame.image, ours(frame.image)[0], _half_open(wanted, found.spec, frame)

        return found.spec, compare, (f"detections recorded in {reference}", "recorded")
    judge = Heads(load_onnx(path).graph, found)

    def up_to_heads(frame: Frame) -> _Pair:
        mine, network_input = ours(frame.image)
        return frame.image, mine, judge(network_input, fit_frame(found.spec, *frame.image.shape[:2]))

    text = (
        f"the heads of {path}, run as they are in ONNX Runtime and decoded in NumPy by the same spec: this proves the "
        "rewriting, not the spec (anchors, mean, std, resize rule, thresholds); recorded detections would: --reference"
    )
    return found.spec, up_to_heads, (text, "original heads")


def _half_open(recorded: Found, spec: DetectorSpec, frame: Frame) -> Found:
    """A trainer's boxes as ours: where his x2, y2 are the last pixel inside, a network-input pixel further."""
    boxes, scores, labels = recorded
    if spec.inclusive_pixels:
        fit = fit_frame(spec, *frame.image.shape[:2])
        x, y = fit.frame[1] / fit.content[1], fit.frame[0] / fit.content[0]
        boxes = boxes + np.array([0, 0, x, y], np.float32)
    return boxes, scores, labels


def _unknown(reference: str | os.PathLike[str] | None) -> InputError:
    return InputError(f"{reference} holds nothing of that name; its keys are the pictures' file names")


def _against_original(
    frame: Frame, original: Original, ours: Rewritten, notes: dict[str, int]
) -> _Pair | EdgeRetinaError:
    picture = frame.image if original.size is None else scaled(frame.image, original.size)
    mine, network_input = ours(picture)
    try:
        seen = original(picture, network_input)
    except RuntimeFailure as exc:  # a graph traced on one picture need not run on every other
        return exc
    fit = fit_frame(ours.spec, *picture.shape[:2])
    if seen.content is not None and seen.content != fit.content:
        apart = max(abs(a - b) for a, b in zip(seen.content, fit.content, strict=True))
        (h, w), (oh, ow), (fh, fw) = picture.shape[:2], seen.content, fit.content
        text = f"{w}x{h} pictures are resized to {ow}x{oh} by the original, to {fw}x{fh} by edge-retina"
        if apart <= _ROUNDED_APART and seen.network_input is not None and _alike(seen.network_input, network_input):
            mine = ours.from_network_input(seen.network_input, replace(fit, content=seen.content))
            text += ", a matter of rounding: compared from the original's network input on"
        _note(notes, text)
    elif seen.network_input is not None:
        _note_apart(notes, seen, network_input)
    return picture, mine, seen.found


def _alike(original: F32, ours: F32) -> bool:
    """Whether network inputs whose pictures lie a pixel apart have channels of the same mean and deviation."""
    means, spreads = ([np.asarray(fit(x, axis=(0, 2, 3))) for x in (original, ours)] for fit in (np.mean, np.std))
    near = _SAME * np.maximum(spreads[0], 1e-6)
    return bool((np.abs(means[0] - means[1]) <= near).all() and (np.abs(spreads[0] - spreads[1]) <= near).all())


def _note_apart(notes: dict[str, int], seen: Seen, network_input: F32) -> None:
    """Network inputs that differ by more than the rounding of a resize."""
    assert seen.network_input is not None
    apart = float(np.abs(seen.network_input - network_input).max(initial=0.0))
    spread = float(network_input.std())
    if apart > 0.05 * spread:
        _note(notes, f"network inputs differ by up to {apart:.2g}: look at mean, std, color_order, resize, placement")


def _note(notes: dict[str, int], text: str) -> None:
    notes[text] = notes.get(text, 0) + 1


def _sentences(notes: Mapping[str, int], skipped: Sequence[EdgeRetinaError], count: int) -> tuple[str, ...]:
    found = [text if times == count else f"{text} ({times} of {count})" for text, times in notes.items()]
    if skipped:
        found.append(f"{len(skipped)} of {count + len(skipped)} pictures were left out: {skipped[0]}")
    return tuple(found)


def _compared(frame: Frame, pair: _Pair, spec: DetectorSpec, px: float, score: float) -> Compared:
    image, ours, wanted = pair
    cuts = {"threshold": spec.score_threshold, "limit": spec.max_detections}
    report = match(ours, wanted, px=px, score=score, **cuts)  # type: ignore[arg-type]
    needed: float | None = score
    if not report.ok:
        tries = (t for t in _LADDER if t > score)
        needed = next((t for t in tries if match(ours, wanted, px=px, score=t, **cuts).ok), None)  # type: ignore[arg-type]
    sides = [Detections(*side, spec.labels, image.shape[:2]) for side in (ours, wanted)]  # type: ignore[arg-type]
    return Compared(frame.name or f"frame {frame.index}", image, sides[0], sides[1], report, needed)
