"""A plan deserialised and checked; what TensorRT says on the way and later goes to Python's logging."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge_retina.errors import PlanRefused, RuntimeFailure
from edge_retina.runtime.worker import FRAMES, OUTPUTS, Plan

__all__ = ["load_plan", "logger", "open_profiler"]

_log = logging.getLogger("edge_retina.tensorrt")
# What a lowered model calls: the plugin's name, version and namespace, as lowering.py writes them.
_PLUGIN = ("AnchorDecode", "1", "edge_retina")
# Messages kept for the text of an error; TensorRT says the cause first and its consequences after.
_KEPT = 6
_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|could not be allocated|MemoryAllocation", re.IGNORECASE)


def load_plan(
    trt: ModuleType, plan: bytes, *, plugin_library: Path | None = None, allow_host_code: bool = False
) -> Plan:
    """Deserialise a plan, with a device current, and hold its inputs and outputs against those of design.md.

    Raises PlanRefused with TensorRT's words where it does not load; RuntimeFailure for a TensorRT that does not start,
    too little memory, and no plan of edge-retina's.
    """
    if plugin_library is not None:
        _load_plugin(trt, plugin_library)
    log, errors = logger(trt), _error_recorder(trt)
    log.told()
    try:
        runtime = trt.Runtime(log)
    except (TypeError, RuntimeError) as cause:  # pybind11's words for a null pointer
        raise RuntimeFailure(
            f"TensorRT {trt.__version__} cannot start: {log.told() or cause}; it may want a newer driver or another "
            "GPU: check `nvidia-smi` (on Jetson: tegrastats)"
        ) from cause
    runtime.error_recorder = errors
    if allow_host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = errors.told() or log.told() or "it does not say why"
        if _MEMORY.search(reason):  # nothing against the plan, which stays in the cache
            raise RuntimeFailure(
                f"out of memory while loading a plan of {len(plan)} bytes: {reason}; stop what else uses the GPU, or "
                "build a plan for a smaller batch or smaller frames"
            )
        raise PlanRefused(
            f"TensorRT {trt.__version__} refuses the plan: {reason}. A plan is for one TensorRT version and one GPU "
            "model, and loads machine code only where that is allowed by name; build it again on this machine"
        )
    engine.error_recorder = errors
    found = {
        name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)))
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
    }
    detections = next((shape[1] for name, (_, _, shape) in found.items() if name == "boxes" and len(shape) == 3), -1)
    batch, height, width = found[FRAMES][2][:3] if FRAMES in found and len(found[FRAMES][2]) == 4 else (-1, -1, -1)
    types = {np.float32: trt.DataType.FLOAT, np.int32: trt.DataType.INT32}
    mode = trt.TensorIOMode
    wanted = {FRAMES: (mode.INPUT, trt.DataType.UINT8, (batch, height, width, 3))}
    for name, (dtype, row) in OUTPUTS.items():
        wanted[name] = (mode.OUTPUT, types[dtype], (batch, *(detections if size is None else size for size in row)))
    if found != wanted or detections < 1:
        raise RuntimeFailure(
            f"no plan of edge-retina's: wanted {_listed(wanted)}; found {_listed(found)}; build one: edge-retina build"
        )
    odd = [
        name
        for name in found
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE
        or engine.get_tensor_format(name) != trt.TensorFormat.LINEAR
    ]
    if odd:
        raise RuntimeFailure(f"the plan wants {', '.join(odd)} on the host or in a packed format; build it again")
    least, _, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(FRAMES, 0))
    return Plan(engine, errors, least, most, detections)


def _listed(tensors: Mapping[str, tuple[Any, Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {mode.name} {dtype.name} {list(shape)}" for name, (mode, dtype, shape) in tensors.items())


def _load_plugin(trt: ModuleType, library: Path) -> None:
    registry = trt.get_plugin_registry()
    # None where one of its creators is registered already, such as by an earlier runtime of this process.
    if registry.load_library(str(library)) is None and registry.get_creator(*_PLUGIN) is None:
        raise RuntimeFailure(
            f"TensorRT {trt.__version__} cannot load the plugin {library}: {logger(trt).told() or 'no reason given'}; "
            "compile it for this TensorRT and this GPU: edge-retina plugin build --force"
        )


@cache
def logger(trt: ModuleType) -> Any:
    """The process's one logger for this TensorRT, into Python's "edge_retina.tensorrt"; told(): its latest errors.

    One, because TensorRT keeps the first that it is given for everything it has no better one for.
    """
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
    }

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._latest: deque[str] = deque(maxlen=_KEPT)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self._latest.append(message)
            _log.log(level, "%s", message)

        def told(self) -> str:
            return _drained(self._latest)

    return Logger()


def _error_recorder(trt: ModuleType) -> Any:
    """What TensorRT reports errors to where they happen, on any thread; told(): the latest ones."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self._latest: deque[tuple[Any, str]] = deque(maxlen=_KEPT)

        def report_error(self, code: Any, text: str) -> bool:
            self._latest.append((code, text))
            _log.error("%s", text)
            return True  # TensorRT's samples answer the same; the call that failed fails by itself

        def num_errors(self) -> int:
            return len(self._latest)

        def get_error_code(self, at: int) -> Any:
            return self._latest[at][0]

        def get_error_desc(self, at: int) -> str:
            return self._latest[at][1]

        def has_overflowed(self) -> bool:
            return len(self._latest) == _KEPT

        def clear(self) -> None:
            self._latest.clear()

        def told(self) -> str:
            return _drained(deque(text for _, text in self._latest), self._latest)

    return Recorder()


def open_profiler(trt: ModuleType) -> Any:
    """An IProfiler of that module; taken(): what it was told since the last time, [(layer, milliseconds)].

    TensorRT tells it of every layer before a run that is no graph returns.
    """

    class Profiler(trt.IProfiler):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self._told: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._told.append((layer_name, ms))

        def taken(self) -> list[tuple[str, float]]:
            told, self._told = self._told, []
            return told

    return Profiler()


def _drained(texts: deque[str], kept: deque[Any] | None = None) -> str:
    told = "; ".join(dict.fromkeys(text.strip() for text in texts))
    (texts if kept is None else kept).clear()
    return told
