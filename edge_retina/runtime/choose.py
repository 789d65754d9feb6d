"""Which runtime a bundle runs in: the best that works here, and why not the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from edge_retina.errors import EdgeRetinaError, MissingPackage, OutputError, PlanRefused, RuntimeFailure, UsageError
from edge_retina.runtime import Gpu, Runtime

if TYPE_CHECKING:
    from edge_retina.bundle import Bundle
    from edge_retina.engine import Place, Wanted
    from edge_retina.plans import Plan
    from edge_retina.runtime.cuda import Device

__all__ = ["choose", "gpu_place", "load_module", "plugin_for"]

_MOST_WORKERS = 2
_INSTALL = {
    "tensorrt": "pip install 'edge-retina[tensorrt]', on a Jetson apt install python3-libnvinfer",
    "tensorrt_rtx": "pip install 'edge-retina[rtx]'",
}


def choose(bundle: Bundle, target: str, *, threads: int | None, parallel: int, gpu: Gpu) -> Runtime:
    """Open `target`, or with "auto" the first of tensorrt, tensorrt_rtx and ort that works.

    With "auto" gpu.on_note is told in one line what was taken and why not those before it.
    Raises UsageError, RuntimeFailure, MissingPackage, BundleError.
    """
    if target in ("auto", "ort") and gpu.plan is not None:
        raise UsageError("a plan is for one TensorRT: give the target too, --target tensorrt or --target tensorrt_rtx")
    if target == "ort":
        return _ort(bundle, threads, parallel)
    return _best(bundle, threads, parallel, gpu) if target == "auto" else _trt(bundle, target, parallel, gpu)


def _best(bundle: Bundle, threads: int | None, parallel: int, gpu: Gpu) -> Runtime:
    reasons = []
    for target in ("tensorrt", "tensorrt_rtx"):
        try:
            runtime = _trt(bundle, target, parallel, gpu)
        except EdgeRetinaError as exc:
            reasons.append(f"{target}: {str(exc).partition(';')[0]}")  # without the remedy, which may be long
            continue
        gpu.on_note("; ".join([f"running on {target}", *(f"not {reason}" for reason in reasons)]))
        return runtime
    if len({reason.partition(": ")[2] for reason in reasons}) == 1:  # no GPU at all: one reason for both
        reasons = [f"tensorrt or tensorrt_rtx: {reasons[0].partition(': ')[2]}"]
    gpu.on_note("; ".join(["running on ort, the CPU", *(f"not {reason}" for reason in reasons)]))
    return _ort(bundle, threads, parallel)


def _ort(bundle: Bundle, threads: int | None, parallel: int) -> Runtime:
    from edge_retina.runtime.ort import OrtRuntime

    return OrtRuntime(bundle.model(), threads=threads, parallel=parallel)


def _trt(bundle: Bundle, target: str, parallel: int, gpu: Gpu) -> Runtime:
    from edge_retina.runtime.cuda import open_device

    device = open_device()  # first, for it costs least where there is none
    trt = load_module(target)
    place = gpu_place(target, trt, device)
    plan, library = _plan(bundle, place, gpu)
    try:
        return _open(plan, library, device, place, parallel, gpu)
    except PlanRefused as exc:
        if gpu.plan is not None:
            raise
        # What the key does not hold, such as another build of the same TensorRT.
        gpu.on_note(f"{plan.path}: {exc}; compiling anew")
        plan.path.unlink(missing_ok=True)
        plan, library = _plan(bundle, place, gpu)
        return _open(plan, library, device, place, parallel, gpu)


def _open(plan: Plan, library: Path | None, device: Device, place: Place, parallel: int, gpu: Gpu) -> Runtime:
    from edge_retina.runtime.trt import TrtRuntime

    if plan.host_code and not gpu.allow_host_code:
        raise RuntimeFailure(
            f"{plan.path.name}: a version-compatible plan holds code that runs on the CPU, which was not allowed; if "
            "you compiled it yourself add --allow-host-code"
        )

    def start(workers: int) -> Runtime:
        return TrtRuntime(
            place.trt,
            plan.data,
            device,
            name=place.target,
            parallel=workers,
            plugin_library=library,
            allow_host_code=plan.host_code,
        )

    # Of two one copies while the other computes; a third would only hold memory.
    workers = min(parallel, _MOST_WORKERS)
    try:
        return start(workers)
    except PlanRefused:
        raise
    except RuntimeFailure as exc:
        if workers == 1:
            raise
        gpu.on_note(f"one frame at a time: {exc}")
        return start(1)


def load_module(target: str) -> ModuleType:
    """The module of a target. Raises MissingPackage; RuntimeFailure where it is there and does not load."""
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as exc:
        raise MissingPackage(f"{target} is not installed; run: {_INSTALL[target]}") from exc
    except Exception as exc:  # a library that it wants may be missing, or be another version's
        raise RuntimeFailure(f"{target} is installed and does not load: {exc}; reinstall: {_INSTALL[target]}") from exc
    if not hasattr(module, "Builder"):  # a package of type stubs, or an empty folder of that name
        raise MissingPackage(f"{target} is not installed, only something of its name; run: {_INSTALL[target]}")
    return module


def gpu_place(target: str, trt: ModuleType, device: Device) -> Place:
    """A plan's place: this device; to TensorRT-RTX it is one of all that have its compute capability."""
    from edge_retina.engine import Place

    if target == "tensorrt_rtx":
        capability = f"SM{device.compute_capability.replace('.', '')}"
        return Place(target, trt, capabilities=(capability,), current=device.current)
    free = device.free_memory()
    return Place(target, trt, device.name, device.compute_capability, device.driver, free, current=device.current)


def _plan(bundle: Bundle, place: Place, gpu: Gpu) -> tuple[Plan, Path | None]:
    """The plan to run and the plugin's library that it needs."""
    from edge_retina.engine import find_plan, prepare

    if gpu.plan is not None:
        from edge_retina.plans import read_bare

        plan = read_bare(gpu.plan, bundle=bundle.digest, trusted=gpu.trusted)
        return plan, plugin_for(place, gpu.on_note) if plan.key.plugin else None
    wanted = _wanted(bundle, place, gpu)
    found = find_plan(
        bundle,
        place,
        wanted,
        any_frames=gpu.largest is None,
        host_code=gpu.allow_host_code,
        on_note=gpu.on_note,
    )
    if found is not None:
        return found, wanted.plugin
    where = place.gpu or place.capabilities[0]
    gpu.on_note(f"no plan for {where} and {place.target} {place.trt.__version__} yet: compiling, once")
    plan = prepare(bundle, place, wanted, on_stage=gpu.on_stage, on_step=gpu.on_step, on_note=gpu.on_note)
    return plan, wanted.plugin


def _wanted(bundle: Bundle, place: Place, gpu: Gpu) -> Wanted:
    from edge_retina.engine import Wanted
    from edge_retina.profile import Profile

    size = bundle.manifest.frame_size
    most = {"most": gpu.largest} if gpu.largest is not None and size is None else {}
    batch = min(gpu.batch, bundle.manifest.batch_max or gpu.batch)
    return Wanted(
        Profile.for_frames(size, batch, **most), plugin=plugin_for(place, gpu.on_note) if gpu.plugin else None
    )


def plugin_for(place: Place, on_note: Callable[[str], None] = lambda _: None) -> Path | None:
    """The plugin's library for a place, built where it can be; None where TensorRT's own layers are to do its work.

    on_note is told why there is none. Raises UsageError for an $EDGE_RETINA_PLUGIN that is no file.
    """
    if place.target != "tensorrt":
        return None
    from edge_retina.plugin import build_library, find_library, missing

    version = place.trt.__version__
    if (found := find_library(version, place.compute_capability)) is not None:
        return found
    if absent := missing(version):
        reason = ", ".join(f"{what} ({package})" for what, package in absent)
        on_note(f"decoding in TensorRT's own layers, not in the plugin, for which is missing: {reason}")
        return None
    try:
        return build_library(version, place.compute_capability, on_note=on_note)
    except (MissingPackage, RuntimeFailure, OutputError) as exc:
        on_note(f"decoding in TensorRT's own layers, for the plugin cannot be built: {exc}")
        return None
