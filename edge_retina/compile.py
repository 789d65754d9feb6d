"""TensorRT's builder: a lowered model in, a plan out; one path for TensorRT 10.3 to 11.x and for TensorRT-RTX.

The module, tensorrt or tensorrt_rtx, is an argument. Networks are strongly typed in every version: precision is the
model's, and no builder chooses it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_retina.bundle import PRECISIONS
from edge_retina.errors import ModelError, RuntimeFailure, UsageError
from edge_retina.layers import Layer, check_precision, conv_precisions, engine_layers, network_layers
from edge_retina.lowering import PLUGIN_NAMESPACE, PLUGIN_VERSION
from edge_retina.monitor import held_interrupts, open_log, open_monitor
from edge_retina.profile import Profile
from edge_retina.refusal import build_refusal, no_builder, parse_refusal

__all__ = ["Compiled", "Options", "compile_plan", "workspace_limit"]

_INPUT, _OUTPUT = "frames", "boxes"
_PLUGIN = "AnchorDecode"
# Half of what is free stays for weights and activations; convolutions gain nothing from more than 4 GiB of workspace.
_WORKSPACE_MOST = 4 << 30
_LEVELS = range(6)


@dataclass(frozen=True)
class Options:
    """What to compile for.

    precision: that of the model, which the plan is held to. workspace: bytes; None for half of the free memory, 4 GiB
    at most. optimization_level: 0 to 5, how long to look for fast kernels; None for TensorRT's own, 3.
    version_compatible: loads in later versions of the same major one, and holds host code. hardware_compatible: runs
    on Ampere and all later desktop GPUs. refit: weights can be replaced. compute_capabilities: of TensorRT-RTX, such
    as ("SM86", "SM89"); empty for its own set. plugin: AnchorDecode has to be the plugin. Raises UsageError.
    """

    profile: Profile
    precision: str = "fp32"
    workspace: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    compute_capabilities: tuple[str, ...] = ()
    plugin: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision {self.precision!r}; use one of {', '.join(PRECISIONS)}")
        if self.workspace is not None and self.workspace < 1:
            raise UsageError(f"the workspace wants 1 byte or more, found {self.workspace}")
        if self.optimization_level is not None and self.optimization_level not in _LEVELS:
            raise UsageError(f"the optimisation level wants 0 to {_LEVELS[-1]}, found {self.optimization_level}")
        for name in self.compute_capabilities:
            if not re.fullmatch(r"SM\d{2,3}", name):
                raise UsageError(f"a compute capability looks like SM86, found {name!r}")
        if len(set(self.compute_capabilities)) != len(self.compute_capabilities):
            raise UsageError(f"a compute capability is given twice: {', '.join(self.compute_capabilities)}")

    @property
    def text(self) -> str:
        """One line that tells plans of one profile apart: "int8 workspace=auto level=auto plugin"."""
        flags = ("version_compatible", "hardware_compatible", "refit", "plugin")
        return " ".join(
            (
                self.precision,
                f"workspace={'auto' if self.workspace is None else self.workspace}",
                f"level={'auto' if self.optimization_level is None else self.optimization_level}",
                *(flag for flag in flags if getattr(self, flag)),
                *sorted(self.compute_capabilities),
            )
        )


@dataclass(frozen=True)
class Compiled:
    """A plan and what is known of it.

    layers: of the engine; empty where nobody could read it. shares: of conv_precisions. seconds: it took to compile.
    timing_cache: what the next build on this GPU may start from; None with TensorRT-RTX. host_code: the plan holds
    code for the host, so that loading it is running it.
    """

    plan: bytes
    layers: tuple[Layer, ...]
    shares: Mapping[str, float]
    seconds: float
    timing_cache: bytes | None
    host_code: bool


def workspace_limit(options: Options, free_memory: int | None) -> int | None:
    """Bytes of workspace that a builder gets; None leaves TensorRT's own limit, all of the GPU's memory."""
    if options.workspace is not None:
        if free_memory is not None and options.workspace > free_memory:
            raise UsageError(
                f"the workspace wants {options.workspace} bytes, found {free_memory} free on the GPU; "
                "give less with --workspace, or close what else uses the GPU"
            )
        return options.workspace
    return None if free_memory is None else min(free_memory // 2, _WORKSPACE_MOST)


def compile_plan(
    trt: ModuleType,
    model: bytes,
    options: Options,
    *,
    macs: Mapping[str, int],
    plugin_library: Path | None = None,
    free_memory: int | None = None,
    timing_cache: bytes | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int], None] = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Compiled:
    """Compile a model, lowered for the module's target, on the GPU that is current; TensorRT-RTX needs none.

    macs: of rewrite.macs, for the same model. plugin_library: holds AnchorDecode's creator, loaded before parsing.
    free_memory: of the GPU, bytes. timing_cache: of an earlier build. on_step: builder's progress, done and total.
    Ctrl-C is taken at the builder's next step and then raises KeyboardInterrupt, with nothing left behind.
    Raises UsageError; ModelError for a model that TensorRT refuses; RuntimeFailure for a GPU that is missing,
    unsupported or out of memory, and for a plan in which less than half of the convolutions' work has the precision.
    """
    rtx = trt.__name__ == "tensorrt_rtx"
    _check_target(trt, options, plugin_library, rtx)
    workspace = workspace_limit(options, free_memory)
    started, log = time.monotonic(), open_log(trt)
    with held_interrupts() as stop:
        try:
            builder = trt.Builder(log)
        except (TypeError, RuntimeError) as cause:  # pybind11's words for a null pointer
            raise no_builder(trt.__name__, log.errors, cause) from cause
        if plugin_library is not None:
            _load_plugin(trt, plugin_library, log)
        on_stage("parse")
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        # It owns the weights that the network points to, until the plan is built.
        parser = trt.OnnxParser(network, log)
        if not parser.parse(model):
            raise parse_refusal([parser.get_error(i) for i in range(parser.num_errors)], log.errors, model)
        parsed = network_layers(network)
        if options.plugin:
            _check_plugin(parsed)
        config = builder.create_builder_config()
        _configure(trt, config, options, workspace)
        _add_profile(builder, network, config, options.profile)
        # Held until the build is over: TensorRT keeps a pointer to it.
        cache = None if rtx else _timing_cache(config, timing_cache, log, on_note)
        on_stage("compile")
        plan = _build(trt, builder, network, config, stop, on_step)
        if plan is None:
            raise build_refusal(log.errors, workspace=workspace, profile=options.profile.text)
        kept = None if cache is None else bytes(config.get_timing_cache().serialize())
        # What the builder holds is memory that the engine may need.
        del cache, config, parser, network, builder
        on_stage("inspect")
        layers = engine_layers(log.engine) if rtx else _inspect(trt, plan, options, log)
        if stop.is_set():
            raise KeyboardInterrupt
    shares = conv_precisions(parsed, macs, layers)
    if shares["other"] > 0:
        on_note(f"{shares['other']:.0%} of the convolutions' work is in kernels whose precision TensorRT does not name")
    check_precision(shares, options.precision)
    return Compiled(plan, layers, shares, time.monotonic() - started, kept, host_code=options.version_compatible)


def _check_target(trt: ModuleType, options: Options, plugin_library: Path | None, rtx: bool) -> None:
    if not rtx:
        if options.compute_capabilities:
            raise UsageError("TensorRT compiles for the GPU it runs on; compute capabilities are for tensorrt_rtx")
        return
    # A creator that is registered, even if never used, ends the process in TensorRT-RTX's parser.
    if options.plugin or plugin_library is not None:
        raise UsageError("TensorRT-RTX has no plugins; lower the model for tensorrt_rtx, which has none")
    if options.version_compatible or options.hardware_compatible:
        raise UsageError(
            "TensorRT-RTX has engines for one version and for several GPUs: give compute capabilities in place of "
            "version_compatible and hardware_compatible"
        )
    known = [name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
    if unknown := [name for name in options.compute_capabilities if name not in known]:
        raise UsageError(f"{trt.__name__} {trt.__version__} knows {', '.join(known)}, found {', '.join(unknown)}")


def _load_plugin(trt: ModuleType, library: Path, log: Any) -> None:
    """Load the library unless its creator is there already; load_library then gives None and no reason."""
    registry, known = trt.get_plugin_registry(), len(log.errors)
    creator = (_PLUGIN, PLUGIN_VERSION, PLUGIN_NAMESPACE)
    if registry.get_creator(*creator) is not None:
        return
    if registry.load_library(str(library)) is None or registry.get_creator(*creator) is None:
        told = f" ({log.errors[-1]})" if log.errors else ""
        raise RuntimeFailure(
            f"{library}: wanted a library with AnchorDecode version {PLUGIN_VERSION} for TensorRT {trt.__version__}, "
            f"and it cannot be loaded{told}; build it for this machine (plugins/anchor_decode/README.md), or add "
            "--no-plugin"
        )
    del log.errors[known:]  # asking for what is not there yet is an error to TensorRT, and would explain a later one


def _check_plugin(parsed: tuple[Layer, ...]) -> None:
    maker = next((layer for layer in parsed if _OUTPUT in dict(layer.outputs)), None)
    if maker is None or maker.type != "PLUGIN_V3":
        found = f"{maker.type} {maker.name!r}" if maker else "no layer"
        raise RuntimeFailure(
            f"wanted the AnchorDecode plugin to give {_OUTPUT!r}, found {found}; lower the model with the plugin, "
            "without AnchorDecode's body"
        )


def _configure(trt: ModuleType, config: Any, options: Options, workspace: int | None) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # FP32 means FP32, as ONNX Runtime has it: TF32 keeps 10 bits of 23, and who wants speed takes FP16.
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if names := options.compute_capabilities:
        config.num_compute_capabilities = len(names)
        for place, name in enumerate(names):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), place)


def _add_profile(builder: Any, network: Any, config: Any, wanted: Profile) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    if list(shapes) != [_INPUT]:
        raise ModelError(f"wanted a model with the one input {_INPUT!r}, found {list(shapes)}; give a bundle's model")
    shape = shapes[_INPUT]
    for asked in wanted.shapes():
        if len(asked) != len(shape) or any(size not in (-1, ask) for size, ask in zip(shape, asked, strict=True)):
            raise UsageError(f"the model takes {_INPUT} of {shape} (-1: any), the profile wants {asked}")
    if -1 not in shape:
        return  # TensorRT makes the only profile there can be
    profile = builder.create_optimization_profile()
    profile.set_shape(_INPUT, *wanted.shapes())
    if config.add_optimization_profile(profile) < 0:
        raise RuntimeFailure(f"TensorRT refuses the profile {wanted.text}; give other frame sizes or a smaller batch")


def _timing_cache(config: Any, old: bytes | None, log: Any, on_note: Callable[[str], None]) -> Any:
    known = len(log.errors)
    cache = config.create_timing_cache(old or b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        on_note("the timing cache is of another GPU or TensorRT, or damaged; all kernels are timed anew")
        del log.errors[known:]
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _build(
    trt: ModuleType,
    builder: Any,
    network: Any,
    config: Any,
    stop: threading.Event,
    on_step: Callable[[int, int], None],
) -> bytes | None:
    """The plan, or None where the builder's log says why not. Raises KeyboardInterrupt and what on_step raised."""
    config.progress_monitor = monitor = open_monitor(trt, on_step, stop)
    memory = builder.build_serialized_network(network, config)
    if stop.is_set():
        raise KeyboardInterrupt
    if memory is not None:
        monitor.finish()
    if monitor.failure is not None:
        raise monitor.failure
    return None if memory is None else bytes(memory)


def _inspect(trt: ModuleType, plan: bytes, options: Options, log: Any) -> tuple[Layer, ...]:
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = options.version_compatible  # made here a moment ago
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        told = f": {log.errors[-1]}" if log.errors else ""
        raise RuntimeFailure(f"TensorRT made a plan that it cannot load{told}; close what else uses the GPU, try again")
    inspector = engine.create_engine_inspector()
    return engine_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
