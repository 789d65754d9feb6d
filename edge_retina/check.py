"""The trial run of a rewritten model: it must load, have finite heads and, if it can, take batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_retina.errors import ModelError

if TYPE_CHECKING:
    from edge_retina.spec import DetectorSpec

__all__ = ["Checked", "check", "head_names", "head_session"]

# Frame sizes (H, W) that a dynamic model is tried on: landscape, portrait.
_TRIAL_FRAMES = ((48, 64), (96, 32))


@dataclass(frozen=True)
class Checked:
    """What the trial run showed. batch_max: 1 when the graph works on single frames only, else None (any)."""

    batch_max: int | None


def check(model: bytes, spec: DetectorSpec, frame_size: tuple[int, int] | None = None) -> Checked:
    """Run a rewritten model on noise: it must load, have finite heads and, if it can, take batches.

    The heads of a batch must be exactly those of its frames alone; otherwise batch_max is 1. Detections would not do:
    noise has none. Raises ModelError, RuntimeFailure.
    """
    from edge_retina.runtime.ort import OrtRuntime

    rng = np.random.default_rng(0)
    sizes = (frame_size,) if frame_size else _TRIAL_FRAMES
    trials = [rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8) for height, width in sizes]
    exact = _batches_are_exact(head_session(model, spec), spec, trials[0])
    with OrtRuntime(model) as runtime:
        for frames in trials:
            runtime.run(frames[:1])
    return Checked(None if exact else 1)


def head_names(spec: DetectorSpec) -> list[str]:
    """The head tensors of a rewritten graph: logits of every level, then deltas."""
    return [f"{kind}_{level}" for kind in ("logits", "deltas") for level in range(spec.num_levels)]


def head_session(model: bytes, spec: DetectorSpec) -> Any:
    """An ONNX Runtime session over a rewritten model with its heads for outputs. Raises RuntimeFailure."""
    from edge_retina.runtime.ort import open_session

    return open_session(_with_heads(model, spec), lean=True)


def _with_heads(model: bytes, spec: DetectorSpec) -> bytes:
    """The model with its heads for outputs; a function of its own, so that the copy in between is gone early."""
    import onnx

    proto = onnx.load_from_string(model)
    kind = onnx.TensorProto.FLOAT
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in head_names(spec))
    return bytes(proto.SerializeToString())


def _batches_are_exact(session: Any, spec: DetectorSpec, frames: npt.NDArray[np.uint8]) -> bool:
    """True when a batch runs and gives bit for bit what its frames give alone.

    Raises ModelError for heads that are not finite; downstream NaN logits would pass for an empty frame.
    """
    names = head_names(spec)
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
