"""What `build` does after the bundle: the plan for this GPU, or for GPUs elsewhere, and the options for it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_retina.commands.options import as_one, frame_size
from edge_retina.errors import EdgeRetinaError, UsageError

if TYPE_CHECKING:
    from edge_retina.bundle import Bundle
    from edge_retina.engine import Place, Wanted
    from edge_retina.plans import Plan

__all__ = ["Planned", "compile_at", "find_place", "plan_line", "plan_options"]

_MIB = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """The options of a plan, as they were given."""

    target: str = "auto"
    plan: Path | None = None
    batch: int = 1
    usual_frame: tuple[int, int] | None = None
    largest_frame: tuple[int, int] | None = None
    workspace: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    compute_capability: tuple[str, ...] = ()
    plugin: bool = True
    dla: bool = False


_OPTIONS = (
    click.option(
        "--target",
        type=click.Choice(("auto", "tensorrt", "tensorrt_rtx", "ort")),
        default="auto",
        show_default=True,
        help="Compile a plan for it; ort needs none, auto compiles where there is a GPU.",
    ),
    click.option("--plan", type=click.Path(path_type=Path), help="Also write the bare plan, for trtexec or Triton."),
    click.option("--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Most frames in one run."),
    click.option("--usual-frame", metavar="WxH", callback=frame_size, help="Tune for this frame size [1280x720]."),
    click.option("--largest-frame", metavar="WxH", callback=frame_size, help="Largest frame taken [3840x2160]."),
    click.option("--workspace", metavar="MIB", type=click.IntRange(min=1), help="Most scratch memory [what is free]."),
    click.option("--optimization-level", type=click.IntRange(0, 5), help="How long TensorRT may search [its default]."),
    click.option("--version-compatible", is_flag=True, help="The plan also loads in later versions of TensorRT."),
    click.option("--hardware-compatible", is_flag=True, help="The plan also runs on other GPUs, Ampere and newer."),
    click.option("--refit", is_flag=True, help="The plan's weights can be replaced."),
    click.option(
        "--compute-capability",
        metavar="SM",
        multiple=True,
        help="GPUs that a TensorRT-RTX plan is made for, such as SM86; needs no GPU here.",
    ),
    click.option("--plugin/--no-plugin", default=True, help="Decode in the CUDA plugin, where it is built."),
    click.option("--dla", is_flag=True, help="Not supported; says why and what to do."),
)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a plan; the command gets them as one argument, `planned`."""
    return as_one(command, "planned", Planned, _OPTIONS)


def find_place(planned: Planned) -> Place | None:
    """Where the plan is to run, looked up before anything is built; None where none is asked for or, with "auto", no
    GPU is here: the first run where there is one compiles it then.

    Raises UsageError for options that make no sense together, MissingPackage, RuntimeFailure.
    """
    if planned.dla:
        from edge_retina.refusal import dla_refusal

        raise dla_refusal()
    compiled = planned.target in ("tensorrt", "tensorrt_rtx")
    if planned.plan is not None and not compiled:
        raise UsageError("--plan wants to know which TensorRT: add --target tensorrt or --target tensorrt_rtx")
    if planned.compute_capability and planned.target != "tensorrt_rtx":
        raise UsageError(
            "--compute-capability goes with --target tensorrt_rtx, which compiles for GPUs elsewhere; TensorRT "
            "compiles for the GPU that it finds"
        )
    if planned.target == "ort":
        if planned != Planned("ort"):
            raise UsageError("ONNX Runtime needs no plan: leave out the options of a plan, or choose another --target")
        return None
    try:
        return _place(planned)
    except EdgeRetinaError as exc:
        if compiled:
            raise
        _log.info("no plan now: %s", exc)
        return None


def _place(planned: Planned) -> Place:
    from edge_retina.engine import Place
    from edge_retina.runtime.choose import gpu_place, load_module

    if planned.target == "tensorrt_rtx" and (planned.version_compatible or planned.hardware_compatible):
        raise UsageError(
            "TensorRT-RTX has engines for one version and for the GPUs that are listed: leave out --version-compatible "
            "and --hardware-compatible, and give each --compute-capability"
        )
    if planned.compute_capability:
        names = tuple(dict.fromkeys(name.upper() for name in planned.compute_capability))
        rtx = load_module("tensorrt_rtx")
        known = sorted((n for n in dir(rtx.ComputeCapability) if re.fullmatch(r"SM\d+", n)), key=lambda n: int(n[2:]))
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"--compute-capability wants some of {', '.join(known)}, found {', '.join(unknown)}")
        return Place("tensorrt_rtx", rtx, capabilities=names)
    if planned.target == "tensorrt_rtx":
        load_module("tensorrt_rtx")
    from edge_retina.runtime.cuda import open_device

    try:
        device = open_device()
    except EdgeRetinaError as exc:
        if planned.target == "tensorrt_rtx":
            raise UsageError(
                "TensorRT-RTX compiles for GPUs elsewhere too: say which, --compute-capability SM86 (may be repeated); "
                f"here there is none ({str(exc).partition(';')[0]})"
            ) from exc
        raise
    if planned.target != "auto":
        return gpu_place(planned.target, load_module(planned.target), device)
    try:
        return gpu_place("tensorrt", load_module("tensorrt"), device)
    except EdgeRetinaError:
        return gpu_place("tensorrt_rtx", load_module("tensorrt_rtx"), device)


def compile_at(
    bundle: Bundle,
    place: Place,
    planned: Planned,
    on_stage: Callable[[str], None],
    on_step: Callable[[int, int], None],
    on_note: Callable[[str], None],
) -> Plan:
    """The plan of a bundle for a place, from the cache or compiled into it, and written out where that was asked for.

    Raises UsageError, RuntimeFailure, ModelError, OutputError.
    """
    from edge_retina.engine import prepare
    from edge_retina.plans import write_bare

    wanted = _wanted(bundle, place, planned, on_note)
    plan = prepare(bundle, place, wanted, on_stage=on_stage, on_step=on_step, on_note=on_note)
    if planned.plan is not None:
        write_bare(planned.plan, plan)
    return plan


def _wanted(bundle: Bundle, place: Place, planned: Planned, on_note: Callable[[str], None]) -> Wanted:
    from edge_retina.engine import Wanted
    from edge_retina.profile import Profile
    from edge_retina.runtime.choose import plugin_for

    size = bundle.manifest.frame_size
    if size is not None and (planned.usual_frame or planned.largest_frame):
        raise UsageError(f"frames of {size[1]}x{size[0]} only: leave out --usual-frame and --largest-frame")
    frames = {"usual": planned.usual_frame, "most": planned.largest_frame}
    known = {name: value for name, value in frames.items() if value is not None}
    batch = min(planned.batch, bundle.manifest.batch_max or planned.batch)
    return Wanted(
        profile=Profile.for_frames(size, batch, **known),
        workspace=None if planned.workspace is None else planned.workspace * _MIB,
        optimization_level=planned.optimization_level,
        version_compatible=planned.version_compatible,
        hardware_compatible=planned.hardware_compatible,
        refit=planned.refit,
        plugin=plugin_for(place, on_note) if planned.plugin else None,
    )


def plan_line(plan: Plan) -> str:
    """What a plan is, in a line."""
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in plan.about.get("shares", {}).items() if share >= 0.005)
    convolutions = shares or "not shown"
    where = f"{plan.key.gpu} ({plan.key.compute_capability})" if plan.key.gpu else plan.key.compute_capability
    size = len(plan.data) / 1e6
    return f"plan for {where}, {plan.key.target} {plan.key.version}: {size:.1f} MB, convolutions: {convolutions}"
