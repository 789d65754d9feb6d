"""`edge-retina export`: a bundle for engines that other people run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_retina.commands.options import frame_size
from edge_retina.errors import InputError

if TYPE_CHECKING:
    from edge_retina.bundle import Bundle
    from edge_retina.export.triton import Exported
    from edge_retina.plans import Plan

__all__ = ["export_command"]

_CACHE = Path("cache")


@click.group("export")
def export_command() -> None:
    """Write a bundle for Triton Inference Server or DeepStream."""


@export_command.command("triton")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Model repository, new or not.")
@click.option("--name", help="Of the model [the bundle's file name].")
@click.option("--version", type=click.IntRange(min=1), help="Of the model [1; of one that is there it must be given].")
@click.option(
    "--plan",
    "plan_path",
    metavar="OUT.plan|cache",
    type=click.Path(path_type=Path),
    help="Serve this plan of the bundle in the TensorRT backend; `cache`: the one used last.",
)
@click.option(
    "--plugin", type=click.Path(path_type=Path), help="Library the plan was compiled with [what plugin build made]."
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Frames that run together at most [8, or the plan's].")
@click.option("--max-delay-us", type=click.IntRange(min=0), default=0, help="How long a frame waits for others [0].")
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True, help="At work at a time.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="CPU threads of an instance [all cores].")
@click.option("--gpu", is_flag=True, help="Let the ONNX Runtime backend use the server's GPU.")
@click.option("--frame-size", "frame", metavar="WxH", callback=frame_size, help="Of the frame that warms it up.")
@click.option("--json", "as_json", is_flag=True, help="What was written, as one JSON object.")
def triton_command(
    bundle: Path,
    out: Path,
    name: str | None,
    version: int | None,
    plan_path: Path | None,
    plugin: Path | None,
    max_batch: int | None,
    max_delay_us: int,
    instances: int,
    threads: int,
    gpu: bool,
    frame: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """Write BUNDLE into a Triton model repository.

    A new model, or a further version of one that is there. The ONNX Runtime backend runs the bundle's own ONNX.
    config.pbtxt is yours once it is there.
    """
    from edge_retina.bundle import read_bundle
    from edge_retina.export.triton import Serving, export_triton

    opened = read_bundle(bundle)
    plan = None if plan_path is None else _plan(opened, plan_path)
    if plan is not None and plan.key.plugin and plugin is None:
        from edge_retina.plugin import find_library

        plugin = find_library(plan.key.version, plan.key.compute_capability)
    serving = Serving(max_batch, instances, threads, gpu, max_delay_us, frame)
    done = export_triton(opened, out, name=name, version=version, serving=serving, plan=plan, plugin=plugin)
    if as_json:
        facts = {"model": str(done.model), "version": done.version, "config_kept": done.config_kept}
        click.echo(json.dumps({**facts, "plugin": done.plugin and str(done.plugin)}))
    else:
        click.echo(str(done.model / str(done.version)))
    if done.config_kept:
        click.echo(f"{done.model / 'config.pbtxt'}: was there and stays as it is", err=True)
    click.echo(f"serve it: {_serve(out, done)}", err=True)


def _plan(bundle: Bundle, path: Path) -> Plan:
    """The plan in a file, or the one of the cache used last. Raises BundleError, InputError."""
    from edge_retina.plans import list_plans, read_bare, read_plan

    if path != _CACHE:
        return read_bare(path, bundle=bundle.digest)
    for facts in list_plans():
        if (facts.key.bundle, facts.key.target) == (bundle.digest, "tensorrt") and (plan := read_plan(facts.key)):
            return plan
    raise InputError(f"no plan of {bundle.path} for TensorRT in the cache; list them: edge-retina plans")


def _serve(repository: Path, done: Exported) -> str:
    """What to type; of any path."""
    from edge_retina.export.triton import REGISTER

    command = f"tritonserver --model-repository={shlex.quote(str(repository.absolute()))}"
    if done.plugin is None:
        return command
    folder = done.plugin.parent.absolute()
    register, source = (shlex.quote(str(folder / name)) for name in ("libedge_retina_register.so", REGISTER))
    build = f"g++ -std=c++17 -shared -fPIC -I/usr/local/cuda/include -o {register} {source} -lnvinfer -ldl"
    return f"{build} && {command} --backend-config=tensorrt,plugins={register}"


@export_command.command("deepstream")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option(
    "--frame-size", "frame", metavar="WxH", callback=frame_size, help="What nvstreammux gives [the bundle's]."
)
@click.option("--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Frames that run together.")
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="What is not passed on.")
@click.option(
    "--plugin", type=click.Path(path_type=Path), help="Decode with this library of `edge-retina plugin build`."
)
def deepstream_command(
    bundle: Path, out: Path, frame: tuple[int, int] | None, batch: int, min_score: float, plugin: Path | None
) -> None:
    """Write BUNDLE for DeepStream's nvinfer.

    A folder with the model, nvinfer's configuration, the box parser's source and a Makefile. Not run on a GPU yet.
    """
    from edge_retina.bundle import read_bundle
    from edge_retina.export.deepstream import export_deepstream

    folder = export_deepstream(read_bundle(bundle), out, frame=frame, batch=batch, min_score=min_score, plugin=plugin)
    click.echo(str(folder))
    click.echo(
        f"on the machine with DeepStream: make -C {shlex.quote(str(folder))}, then nvinfer with its config_infer.txt",
        err=True,
    )
