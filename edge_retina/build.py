"""The stages from a trainer's ONNX to a bundle, in order; each a function that returns a value."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_retina.bundle import PRECISIONS, Bundle, write_bundle
from edge_retina.check import check
from edge_retina.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edge_retina.quantize import Recipe

__all__ = ["build", "bundle_path"]

# What a bundle starts with: zip magic and, 26 bytes on, the name of its first member.
_BUNDLE_HEAD = (b"PK\3\4", b"manifest.json")


def build(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    precision: str = "fp32",
    frame_size: tuple[int, int] | None = None,
    family: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    calib: str | os.PathLike[str] | None = None,
    calib_images: str | os.PathLike[str] | None = None,
    calib_most: int = 512,
    ranges: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    float_layers: Sequence[str] = (),
    int8_share: float = 0.95,
    annotations: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    max_ap_drop: float | None = None,
    auto: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int], None] = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Turn a trained RetinaNet (ONNX) into a bundle beside it, or at `out`, a file or a folder.

    precision: "fp32", "fp16" or "int8". frame_size: (H, W) when every frame has that size, None for any. family,
    overrides: see importer.import_model.
    calib: pictures to calibrate on, a URI as open_source takes it or a COCO json with its pictures in calib_images; at
    most calib_most of them are taken. ranges: a bundle or ranges.json whose ranges are to be used, instead of new ones;
    they must belong to this model, preprocessing and pictures. recipe: how to quantize. float_layers: patterns of
    layers to leave in float. int8_share: of the convolutions' work, what the automatic choice of float layers leaves in
    INT8 at least; 1.0 leaves nothing to choose.
    annotations, images: a COCO json and the folder of its pictures, on which FP32 and `precision` are measured; without
    them calibration pictures tell how far the two agree. max_ap_drop: refuse the build when it costs more AP (0..1).
    auto: instead return layers to float, the worst first, until it does not.
    on_stage is told the name of each stage, on_step how far it is, on_note what the user should know.
    Raises ModelError, SpecError, UsageError, InputError, RuntimeFailure, AccuracyLost, OutputError.
    """
    _check_arguments(precision, frame_size, calib, max_ap_drop, int8_share, annotations)
    # The run half never loads these.
    from edge_retina.importer import import_model, load_onnx
    from edge_retina.precision import Asked, Float, make
    from edge_retina.rewrite import rewrite
    from edge_retina.rewrite.opset import LEAST_OPSET

    path = Path(model)
    target = bundle_path(path, out)
    on_stage("read")
    source = load_onnx(path)
    on_stage("import")
    found = import_model(source, family=family, overrides=overrides)
    on_stage("rewrite")
    least_opset = None if precision == "fp32" else LEAST_OPSET
    graph = rewrite(source.graph, found, frame_size, least_opset=least_opset)
    if quantizers := sum(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        if precision == "int8":
            raise ModelError(
                f"{path}: already quantized, by {quantizers} QuantizeLinear of its own; build it without --int8, which "
                "keeps them, or export the float model"
            )
        on_note(f"the model is quantized already, by {quantizers} QuantizeLinear of its own, which stay as they are")
    data = graph.SerializeToString(deterministic=True)
    on_stage("check")
    checked = check(data, found.spec, frame_size)
    tools = _tools()
    asked = Asked(
        precision=precision,
        calib=None if calib is None else os.fspath(calib),
        calib_images=calib_images,
        calib_most=calib_most,
        ranges=None if ranges is None else Path(ranges),
        older=target,
        recipe=recipe,
        float_layers=tuple(float_layers),
        int8_share=int8_share,
        annotations=None if annotations is None else Path(annotations),
        images=None if images is None else Path(images),
        max_ap_drop=max_ap_drop,
        auto=auto,
        tools=tools,
        on_stage=on_stage,
        on_step=on_step,
        on_note=on_note,
    )
    spec, digest = found.spec, source.digest
    given = Float(graph, data, spec, digest, frame_size, checked.batch_max, path.name)
    del source, found, graph, data  # the weights once more, which would be there until the end
    made = make(given, asked)
    on_stage("write")
    return write_bundle(
        target,
        model=made.model,
        spec=spec,
        precision=precision,
        model_digest=digest,
        frame_size=frame_size,
        batch_max=made.batch_max,
        calibration_digest=made.calibration_digest,
        accuracy=made.accuracy,
        tools=tools,
        extra=made.extra,
    )


def _check_arguments(
    precision: str,
    frame_size: tuple[int, int] | None,
    calib: str | os.PathLike[str] | None,
    max_ap_drop: float | None,
    int8_share: float,
    annotations: str | os.PathLike[str] | None,
) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; use one of {', '.join(PRECISIONS)}")
    if precision == "int8" and calib is None:
        raise UsageError("INT8 wants calibration pictures: --calib FOLDER, 100 or more as the camera sees its scenes")
    if frame_size is not None and not all(1 <= side <= 16384 for side in frame_size):
        raise UsageError(f"frame size wants 1 to 16384 pixels a side, found {frame_size[1]}x{frame_size[0]}")
    if not 0 <= int8_share <= 1:
        raise UsageError(f"the INT8 share wants 0 to 1, found {int8_share}")
    if max_ap_drop is not None and not 0 <= max_ap_drop <= 1:
        raise UsageError(f"the allowed AP drop wants 0 to 1 (0.005 is half a point), found {max_ap_drop}")
    if max_ap_drop is not None and annotations is None and calib is None:
        raise UsageError("an allowed AP drop wants pictures to measure on: --eval ann.json, or --calib FOLDER")


def bundle_path(model: Path, out: str | os.PathLike[str] | None) -> Path:
    """Where the bundle goes: beside the model, to a file, or into a folder, under the model's name.

    Raises ModelError for a folder as the model, UsageError where the bundle would replace something that is not an
    older one.
    """
    if model.is_dir():  # which may have no name to call the bundle by, such as "."
        raise ModelError(f"{model}: wanted an ONNX file, found a folder; run: edge-retina build FOLDER/MODEL.onnx")
    default = model.with_suffix(".edge")
    target = default if out is None else Path(out)
    if target.is_dir() or os.fspath(out or "").endswith(("/", os.sep)):
        target = target / default.name
    if target.resolve() == model.resolve():
        raise UsageError(f"{target}: the bundle would replace the model; choose another name with -o")
    head = b""
    with contextlib.suppress(OSError):  # of which the writer has more to say
        if target.is_file():
            with target.open("rb") as file:
                head = file.read(len(_BUNDLE_HEAD[0]) + 26 + len(_BUNDLE_HEAD[1]))
    if head and not (head.startswith(_BUNDLE_HEAD[0]) and head.endswith(_BUNDLE_HEAD[1])):
        raise UsageError(f"{target}: is there and is no bundle; choose another name with -o")
    return target


def _tools() -> dict[str, str]:
    """Versions of the packages that had a hand in a bundle."""
    found = {}
    for name in ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
