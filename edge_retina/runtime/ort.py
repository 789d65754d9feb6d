"""ONNX Runtime on the CPU: the embedded default."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.runtime import Outputs, cores

__all__ = ["OrtRuntime", "open_session"]

# Errors come as exceptions; stderr is not ONNX Runtime's to write to.
_FATAL = 4


class OrtRuntime:
    """A session over the rewritten ONNX.

    model: its bytes. threads: CPU threads in all, None for all cores. parallel: frames worked on at once, each with its
    share of the threads. profile: ONNX Runtime times every operator, which costs time itself, and writes a trace whose
    path begins so; end_profile gives it. Raises RuntimeFailure when ONNX Runtime refuses the model.
    """

    name = "ort"
    batch_most: int | None = None

    def __init__(
        self, model: bytes, *, threads: int | None = None, parallel: int = 1, profile: Path | None = None
    ) -> None:
        self.parallel = parallel
        if parallel > 1:
            threads = max(1, (threads or cores()) // parallel)
        self._session = open_session(model, threads, profile=profile)
        self._names = ["boxes", "scores", "labels", "count"]

    def run(self, frames: npt.NDArray[np.uint8]) -> Outputs:
        """Run frames uint8 (B, H, W, 3), BGR. Raises RuntimeFailure, UsageError for frames in a GPU's memory."""
        if not isinstance(frames, np.ndarray):
            raise UsageError(
                f"ONNX Runtime on the CPU wants NumPy frames, found {type(frames).__name__}; copy it to the host, or "
                "load the bundle with target 'tensorrt'"
            )
        try:
            return Outputs(*self._session.run(self._names, {"frames": frames}))
        except Exception as exc:
            raise RuntimeFailure(f"ONNX Runtime failed on frames {list(frames.shape)}: {_reason(exc)}") from exc

    def end_profile(self) -> Path:
        """Write the trace of all runs so far, in the format of Chrome's trace viewer; its path."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Nothing is held that the garbage collector would not free."""

    def __enter__(self) -> OrtRuntime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(
    model: bytes,
    threads: int | None = None,
    *,
    lean: bool = False,
    optimize: bool = True,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """A session on the CPU over any ONNX. Raises RuntimeFailure when ONNX Runtime refuses it.

    lean: in less memory, for what runs once or on calibration pictures. optimize: False runs the operators as they are,
    which for a frame or two costs no time and needs less memory again. profile: see OrtRuntime.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    if lean:
        # An arena, or a block planned ahead for all tensors, is larger than what lives at one time.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        # As the optimised graph has them, so that what is to be freed early can be arranged there.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no common base
        raise RuntimeFailure(f"ONNX Runtime {ort.__version__} refuses the model: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
