"""`edge-retina build`: a trained RetinaNet becomes a bundle, in FP32, FP16 or INT8, with what that cost."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edge_retina import project
from edge_retina.commands.options import frame_size, read_spec
from edge_retina.commands.plan import Planned, compile_at, find_place, plan_line, plan_options
from edge_retina.errors import UsageError

if TYPE_CHECKING:
    from edge_retina.bundle import Bundle

__all__ = ["build_command", "stages"]

# Of calibrate.histogram.METHODS and quantize.EFFORTS, which cannot be imported before they are needed.
_METHODS, _EFFORTS = ("mse", "max", "percentile", "entropy"), ("normal", "high")
_ONLY_INT8 = (
    "--ranges",
    "--int8-method",
    "--int8-effort",
    "--no-equalize",
    "--no-scale-search",
    "--no-bias-correction",
    "--float-layers",
    "--int8-share",
    "--auto",
)


@click.command("build")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(), help="The bundle to write, or its folder/ [model name with .edge].")
@click.option("--int8", is_flag=True, help="Quantize to INT8; needs --calib.")
@click.option("--fp16", is_flag=True, help="Run the trunk in FP16.")
@click.option("--calib", metavar="SRC", help="Calibration pictures: folder, glob, COCO json, video or camera.")
@click.option("--calib-images", metavar="DIR", help="Pictures of the COCO json given with --calib.")
@click.option("--calib-most", type=click.IntRange(min=1), default=512, show_default=True, help="Pictures to use.")
@click.option("--ranges", metavar="FILE", help="Use the ranges of this bundle or ranges.json; they must fit.")
@click.option(
    "--int8-method", type=click.Choice(_METHODS), default=_METHODS[0], show_default=True, help="Activation ranges."
)
@click.option(
    "--int8-effort",
    type=click.Choice(_EFFORTS),
    default=_EFFORTS[0],
    show_default=True,
    help="high: round weights adaptively.",
)
@click.option("--no-equalize", is_flag=True, help="Leave out cross-layer equalisation.")
@click.option("--no-scale-search", is_flag=True, help="Leave out the search for weight scales.")
@click.option("--no-bias-correction", is_flag=True, help="Leave out bias correction.")
@click.option("--float-layers", metavar="PATTERN", multiple=True, help="Layers to leave in float, such as '*stem*'.")
@click.option(
    "--int8-share",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Work that the automatic choice of float layers leaves in INT8.",
)
@click.option(
    "--eval", "annotations", metavar="JSON", type=click.Path(path_type=Path), help="Measure on these COCO annotations."
)
@click.option("--images", metavar="DIR", type=click.Path(path_type=Path), help="Pictures of --eval [beside it].")
@click.option("--max-ap-drop", type=click.FloatRange(0, 1), help="Refuse what costs more AP than this, such as 0.005.")
@click.option("--auto", is_flag=True, help="Rather than refuse, return layers to float, the worst first.")
@click.option(
    "--frame-size", "size", metavar="WxH", callback=frame_size, help="Take frames of this size only [any size]."
)
@click.option("--family", help="Exporter family, when it is not recognised.")
@click.option("--spec", "spec_path", type=click.Path(), help="JSON with DetectorSpec fields to replace.")
@plan_options
def build_command(
    model: Path | None,
    out: str | None,
    int8: bool,
    fp16: bool,
    calib: str | None,
    calib_images: str | None,
    calib_most: int,
    ranges: str | None,
    int8_method: str,
    int8_effort: str,
    no_equalize: bool,
    no_scale_search: bool,
    no_bias_correction: bool,
    float_layers: tuple[str, ...],
    int8_share: float,
    annotations: Path | None,
    images: Path | None,
    max_ap_drop: float | None,
    auto: bool,
    size: tuple[int, int] | None,
    family: str | None,
    spec_path: str | None,
    planned: Planned,
) -> None:
    """Turn MODEL.onnx, a trained RetinaNet, into a bundle and, where there is a GPU, compile its plan.

    Without MODEL: the one that edge-retina.toml names, else the only *.onnx in this folder.
    """
    from edge_retina.build import build, bundle_path

    if int8 and fp16:
        raise UsageError("--int8 and --fp16 exclude each other; on TensorRT an INT8 graph's remainder is FP16 anyway")
    place = find_place(planned)
    folder = Path.cwd()
    known = project.read_project(folder)
    path = model or project.find_model(folder, known)
    # Labels, precision and bundle of the project are those of its own model, not of whatever else is built here.
    ours = known if known is not None and project.owns(folder, known, path) else project.Project()
    precision = "int8" if int8 else "fp16" if fp16 else ours.precision or "fp32"
    calib = calib or (ours.calibration if precision == "int8" else None)
    _check(precision, calib, _typed(click.get_current_context()))
    overrides = read_spec(spec_path)
    if ours.labels:
        overrides.setdefault("labels", list(ours.labels))
    target = bundle_path(path, out or ours.bundle)
    with stages(path.name) as (on_stage, on_step, on_note):
        bundle = build(
            path,
            target,
            precision=precision,
            frame_size=size,
            family=family,
            overrides=overrides,
            calib=calib,
            calib_images=calib_images,
            calib_most=calib_most,
            ranges=ranges,
            recipe=_recipe(precision, int8_method, int8_effort, no_equalize, no_scale_search, no_bias_correction),
            float_layers=float_layers,
            int8_share=int8_share,
            annotations=annotations,
            images=images,
            max_ap_drop=max_ap_drop,
            auto=auto,
            on_stage=on_stage,
            on_step=on_step,
            on_note=on_note,
        )
        plan = None if place is None else compile_at(bundle, place, planned, on_stage, on_step, on_note)
    _report(bundle)
    if plan is not None:
        click.echo(plan_line(plan), err=True)
    click.echo(str(target))
    if known is None:
        _offer_project(folder, project.Project(path, target, calib, None, precision))


def _typed(context: click.Context) -> set[str]:
    """The long names of the options on the command line, defaults left out."""
    source = context.get_parameter_source
    return {p.opts[-1] for p in context.command.params if p.name and source(p.name) is ParameterSource.COMMANDLINE}


def _check(precision: str, calib: str | None, typed: set[str]) -> None:
    """Refuse what would be ignored."""
    if "--images" in typed and "--eval" not in typed:
        raise UsageError("--images are the pictures of --eval ann.json; give both or none")
    if precision == "fp32" and calib is not None:
        raise UsageError("--calib: calibration goes with --int8, or --fp16 to look for overflows; add one of them")
    if precision != "int8" and (stray := [name for name in _ONLY_INT8 if name in typed]):
        raise UsageError(f"{stray[0]} goes with --int8; add it or leave this out")
    if precision == "fp32" and "--max-ap-drop" in typed:
        raise UsageError("--max-ap-drop is of what --int8 or --fp16 costs; add one of them or leave this out")
    if calib is None and "--calib-images" in typed:
        raise UsageError("--calib-images are the pictures of --calib ann.json; give both or none")
    if calib is None and "--calib-most" in typed:
        raise UsageError("--calib-most is how many pictures of --calib to use; give both or none")
    if "--auto" in typed and "--max-ap-drop" not in typed:
        raise UsageError("--auto returns layers to float until --max-ap-drop is met; say how much, such as 0.005")


def _recipe(precision: str, method: str, effort: str, no_equalize: bool, no_search: bool, no_bias: bool) -> Any:
    if precision != "int8":
        return None
    from edge_retina.quantize import Recipe

    return Recipe(method, not no_equalize, not no_search, not no_bias, effort)


@contextlib.contextmanager
def stages(
    name: str,
) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None], Callable[[str], None]]]:
    """A progress bar on stderr: what to call with each stage, with each step of it, and with what to say."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(name, total=None)
        yield (
            lambda stage: bar.reset(task, description=f"{stage} {name}", total=None),
            lambda done, total: bar.update(task, completed=done, total=total),
            lambda note: console.print(note, soft_wrap=True),
        )


def _report(bundle: Bundle) -> None:
    """What was built, on stderr."""
    manifest = bundle.manifest
    size = bundle.path.stat().st_size / 1e6
    batches = "single frames only" if manifest.batch_max == 1 else "any batch size"
    what = f"{bundle.spec.family}, {bundle.spec.num_classes} classes, {manifest.precision}, {batches}, {size:.1f} MB"
    click.echo(what, err=True)
    if line := _accuracy_line(manifest.accuracy or {}):
        click.echo(line, err=True)
    click.echo(f"run it: edge-retina run {bundle.path} --camera 0", err=True)


def _accuracy_line(accuracy: Mapping[str, Any]) -> str:
    """AP on labels, else agreement with FP32, which is no accuracy and not to be read as one; "" for neither."""
    columns = [f"{name} AP {accuracy[name]['AP']:.4f}" for name in ("fp32", "fp16", "int8") if name in accuracy]
    columns += [f"{name} agrees with FP32 to {a['AP']:.4f}" for name, a in accuracy.get("agreement", {}).items()]
    if not columns:
        return ""
    share = f"; {accuracy['int8_share']:.1%} of the work in INT8" if "int8_share" in accuracy else ""
    return f"{', '.join(columns)}{share} ({accuracy['measured']})"


def _offer_project(folder: Path, new: project.Project) -> None:
    """Offer to remember the model, so that next time `edge-retina build` and `run` need no names."""
    if new.model is None or new.model.resolve().parent != folder or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    question = f"write {project.FILE}, so that `edge-retina build` and `run` need no names?"
    if click.confirm(question, err=True, default=True):
        click.echo(f"wrote {project.write_project(folder, new).name}", err=True)
