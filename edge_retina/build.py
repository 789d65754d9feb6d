"""The stages from a trainer's ONNX to a bundle, in order; each a function that returns a value."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_retina.bundle import Bundle, write_bundle
from edge_retina.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edge_retina.spec import DetectorSpec

__all__ = ["Checked", "build", "bundle_path", "check"]

# What a bundle starts with: zip magic and, 26 bytes on, the name of its first member.
_BUNDLE_HEAD = (b"PK\3\4", b"manifest.json")
# Frame sizes (H, W) that a dynamic model is tried on: landscape, portrait.
_TRIAL_FRAMES = ((48, 64), (96, 32))


@dataclass(frozen=True)
class Checked:
    """What the trial run showed. batch_max: 1 when the graph works on single frames only, else None (any)."""

    batch_max: int | None


def build(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    precision: str = "fp32",
    frame_size: tuple[int, int] | None = None,
    family: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Turn a trained RetinaNet (ONNX) into a bundle beside it, or at `out`, a file or a folder.

    precision: "fp32". frame_size: (H, W) when every frame has that size, None for any. family, overrides: see
    importer.import_model. on_stage is told the name of each stage.
    Raises ModelError, SpecError, UsageError, RuntimeFailure, OutputError.
    """
    if precision != "fp32":
        raise UsageError(
            f"precision {precision} is not there yet: this edge-retina builds fp32; leave out --int8 and --fp16"
        )
    if frame_size is not None and not all(1 <= side <= 16384 for side in frame_size):
        raise UsageError(f"frame size wants 1 to 16384 pixels a side, found {frame_size[1]}x{frame_size[0]}")
    # The run half never loads these.
    from edge_retina.importer import import_model, load_onnx
    from edge_retina.rewrite import rewrite

    path = Path(model)
    target = bundle_path(path, out)
    on_stage("read")
    source = load_onnx(path)
    on_stage("import")
    found = import_model(source, family=family, overrides=overrides)
    on_stage("rewrite")
    rewritten = rewrite(source.graph, found, frame_size).SerializeToString(deterministic=True)
    on_stage("check")
    checked = check(rewritten, found.spec, frame_size)
    on_stage("write")
    return write_bundle(
        target,
        model=rewritten,
        spec=found.spec,
        precision=precision,
        model_digest=source.digest,
        frame_size=frame_size,
        batch_max=checked.batch_max,
        tools=_tools(),
    )


def bundle_path(model: Path, out: str | os.PathLike[str] | None) -> Path:
    """Where the bundle goes: beside the model, to a file, or into a folder, under the model's name.

    Raises UsageError where it would replace something that is not an older bundle.
    """
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


def check(model: bytes, spec: DetectorSpec, frame_size: tuple[int, int] | None = None) -> Checked:
    """Run a rewritten model on noise: it must load, have finite heads and, if it can, take batches.

    The heads of a batch must be exactly those of its frames alone; otherwise batch_max is 1. Detections would not do:
    noise has none. Raises ModelError, RuntimeFailure.
    """
    from edge_retina.runtime.ort import OrtRuntime

    rng = np.random.default_rng(0)
    sizes = (frame_size,) if frame_size else _TRIAL_FRAMES
    trials = [rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8) for height, width in sizes]
    exact = _batches_are_exact(_head_session(model, spec), spec, trials[0])
    with OrtRuntime(model) as runtime:
        for frames in trials:
            runtime.run(frames[:1])
    return Checked(None if exact else 1)


def _head_names(spec: DetectorSpec) -> list[str]:
    return [f"{kind}_{level}" for kind in ("logits", "deltas") for level in range(spec.num_levels)]


def _head_session(model: bytes, spec: DetectorSpec) -> Any:
    """The model with its heads for outputs."""
    import onnx

    from edge_retina.runtime.ort import open_session

    proto = onnx.load_from_string(model)
    kind = onnx.TensorProto.FLOAT
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in _head_names(spec))
    return open_session(proto.SerializeToString())


def _batches_are_exact(session: Any, spec: DetectorSpec, frames: npt.NDArray[np.uint8]) -> bool:
    """True when a batch runs and gives bit for bit what its frames give alone.

    Raises ModelError for heads that are not finite; downstream NaN logits would pass for an empty frame.
    """
    names = _head_names(spec)
    try:
        alone = [session.run(names, {"frames": frame[None]}) for frame in frames]
    except Exception as exc:  # onnxruntime's errors have no common base
        raise ModelError(
            "the model does not run on a single frame; if it was exported for another fixed batch size, export it "
            f"for batch 1 or with a free batch axis: {str(exc)[:300]}"
        ) from exc
    for heads in alone:
        for name, head in zip(names, heads, strict=True):
            if not np.isfinite(head).all():
                raise ModelError(
                    f"the model gives NaN or infinity on a frame of noise, in {name}; is the checkpoint sound, and are "
                    f"mean {spec.mean} and std {spec.std} (for pixels 0..255) the ones it was trained with?"
                )
    try:
        together = session.run(names, {"frames": frames})
    except Exception:  # a graph that takes single frames only
        return False
    stacked = [np.concatenate(heads) for heads in zip(*alone, strict=True)]
    return all(np.array_equal(both, one) for both, one in zip(together, stacked, strict=True))


def _tools() -> dict[str, str]:
    """Versions of the packages that had a hand in a bundle."""
    found = {}
    for name in ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
