"""A bundle's plan for one GPU: taken from the cache, or lowered, compiled and kept there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edge_retina.errors import UsageError
from edge_retina.plans import Plan, PlanKey, building, list_plans, read_plan, write_plan
from edge_retina.profile import Profile

if TYPE_CHECKING:
    from edge_retina.bundle import Bundle
    from edge_retina.compile import Compiled, Options

__all__ = ["Place", "Wanted", "find_plan", "plan_key", "prepare"]


@dataclass(frozen=True, eq=False)
class Place:
    """What a plan is compiled for.

    target: "tensorrt" or "tensorrt_rtx". trt: its module. gpu, compute_capability, driver: of the device, such as
    "Orin", "8.7", "12.6". free_memory: of the device, bytes, None without one. capabilities: TensorRT-RTX only, whose
    plans run on every GPU of these, such as ("SM86", "SM89"); the others are then empty. current: makes the device
    current on this thread while it is compiled for.
    """

    target: str
    trt: ModuleType
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    free_memory: int | None = None
    capabilities: tuple[str, ...] = ()
    current: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Wanted:
    """How a plan is to be compiled; the defaults suit most.

    profile: batches and frames it takes. workspace: most bytes of device memory for scratch, None: by what is free.
    optimization_level: TensorRT's, 0 to 5, None: its own. version_compatible, hardware_compatible, refit: TensorRT's
    flags of these names. plugin: library of the AnchorDecode plugin, None: the body of standard operators.
    """

    profile: Profile
    workspace: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    plugin: Path | None = None


def _options(bundle: Bundle, place: Place, wanted: Wanted) -> Options:
    from edge_retina.compile import Options

    return Options(
        precision=bundle.manifest.precision,
        profile=wanted.profile,
        workspace=wanted.workspace,
        optimization_level=wanted.optimization_level,
        version_compatible=wanted.version_compatible,
        hardware_compatible=wanted.hardware_compatible,
        refit=wanted.refit,
        compute_capabilities=place.capabilities,
        plugin=wanted.plugin is not None,
    )


def plan_key(bundle: Bundle, place: Place, wanted: Wanted) -> PlanKey:
    """Everything that decides what a plan is, or where it loads."""
    return PlanKey(
        bundle=bundle.digest,
        target=place.target,
        version=place.trt.__version__,
        gpu=place.gpu,
        compute_capability=",".join(place.capabilities) or place.compute_capability,
        driver=place.driver,
        plugin="" if wanted.plugin is None else hashlib.sha256(wanted.plugin.read_bytes()).hexdigest(),
        profile=wanted.profile.text,
        options=_options(bundle, place, wanted).text,
    )


def find_plan(
    bundle: Bundle,
    place: Place,
    wanted: Wanted,
    *,
    any_frames: bool = False,
    host_code: bool = False,
    on_note: Callable[[str], None] = lambda _: None,
) -> Plan | None:
    """The cached plan for `wanted`, else the one used last that runs here and takes the same frames and more.

    So what `build` compiled with options of its own is what `run` runs without repeating them. any_frames: nobody asked
    for a largest frame, so a plan for smaller ones will do, and on_note is told of it. host_code: plans that hold code
    for the CPU count as well. None without one.
    """
    key = plan_key(bundle, place, wanted)
    usable = [known.key for known in list_plans() if host_code or not known.host_code]
    fitting = [(other, profile) for other in usable if other != key and (profile := _serving(other, key)) is not None]
    for candidate in (key, *(other for other, profile in fitting if profile.covers(wanted.profile))):
        if (plan := read_plan(candidate, on_note=on_note)) is not None:
            return plan
    for candidate, profile in fitting if any_frames else ():
        batch, height, width = profile.most
        if batch >= wanted.profile.most[0] and (plan := read_plan(candidate, on_note=on_note)) is not None:
            on_note(f"this plan takes frames up to {width}x{height}; for larger ones: --largest-frame WxH")
            return plan
    return None


def _serving(other: PlanKey, key: PlanKey) -> Profile | None:
    """The profile of another key's plan where that plan runs in the place of one of `key`."""
    runs_here = set(key.compute_capability.split(",")) <= set(other.compute_capability.split(","))
    alike = replace(key, compute_capability=other.compute_capability, profile=other.profile, options=other.options)
    if not runs_here or alike != other:
        return None
    try:
        return Profile.from_text(other.profile)
    except UsageError:  # another version of edge-retina may write profiles otherwise
        return None


def prepare(
    bundle: Bundle,
    place: Place,
    wanted: Wanted,
    *,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int], None] = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The plan of a bundle for a place; compiled, which takes seconds to minutes, where the cache has none.

    Of two processes that want the same plan one compiles and the other waits for it.
    Raises ModelError, RuntimeFailure, BundleError, OutputError.
    """
    key = plan_key(bundle, place, wanted)
    with building(key, on_note=on_note):
        if (plan := read_plan(key, on_note=on_note)) is not None:
            return plan
        compiled = _compile(bundle, place, wanted, on_stage, on_step, on_note)
        return write_plan(key, compiled.plan, host_code=compiled.host_code, about=_about(bundle, compiled))


def _compile(
    bundle: Bundle,
    place: Place,
    wanted: Wanted,
    on_stage: Callable[[str], None],
    on_step: Callable[[int, int], None],
    on_note: Callable[[str], None],
) -> Compiled:
    # Where a plan is found, nothing of the build half is loaded.
    import onnx

    from edge_retina.compile import compile_plan
    from edge_retina.lowering import lower_bundle
    from edge_retina.plans import read_timing_cache, write_timing_cache
    from edge_retina.rewrite.macs import conv_macs

    on_stage("lower")
    model = lower_bundle(bundle, place.target, plugin=wanted.plugin is not None)
    machine = (place.gpu, place.compute_capability, place.trt.__version__, place.driver)
    timed = place.target == "tensorrt"
    macs = conv_macs(onnx.load_from_string(model))
    with place.current():
        compiled = compile_plan(
            place.trt,
            model,
            _options(bundle, place, wanted),
            macs=macs,
            plugin_library=wanted.plugin,
            free_memory=place.free_memory,
            timing_cache=read_timing_cache(*machine) if timed else None,
            on_stage=on_stage,
            on_step=on_step,
            on_note=on_note,
        )
    if compiled.timing_cache is not None:
        write_timing_cache(*machine, compiled.timing_cache)
    return compiled


def _about(bundle: Bundle, compiled: Compiled) -> dict[str, Any]:
    """What `edge-retina plans` and the report show of a plan."""
    return {
        "model": bundle.path.name,
        "precision": bundle.manifest.precision,
        "shares": dict(compiled.shares),
        "seconds": round(compiled.seconds, 1),
        "layers": [asdict(layer) for layer in compiled.layers],
    }
