"""`edge-retina train`; PyTorch is imported when the command runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_retina.errors import MissingPackage, UsageError

__all__ = ["train_command"]

_AS_GIVEN = (
    *("data", "out", "images", "val", "val_images", "pretrained", "size", "epochs", "minutes", "steps", "batch"),
    *("optimizer", "lr", "weight_decay", "beta", "workers", "seed", "device", "amp", "resume", "overwrite"),
)


def _size(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as (H, W)."""
    width, separator, height = value.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size wants WIDTHxHEIGHT, such as 320x320, found {value!r}")
    return int(height), int(width)


@click.command("train")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="COCO json, or its folder.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The ONNX to write.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures [beside the annotations].")
@click.option("--val", type=click.Path(path_type=Path), help="Validation set [a twentieth of --data].")
@click.option("--val-images", type=click.Path(path_type=Path), help="Folder of its pictures.")
@click.option("--model", default="narrow", show_default=True, help="narrow, resnet18, resnet34, resnet50 or resnet101.")
@click.option(
    "--pretrained", type=click.Path(path_type=Path), help="ResNet weights to start from (torchvision's .pth)."
)
@click.option(
    "--size",
    callback=_size,
    default="320x320",
    show_default=True,
    metavar="WxH",
    help="Network input, multiples of 32.",
)
@click.option("--epochs", default=12, show_default=True, type=click.IntRange(min=1))
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="End earlier, annealed by the clock.")
@click.option("--steps", type=click.IntRange(min=1), help="End earlier, annealed by the number of steps.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(min=1), help="Images per step and process.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option("--lr", type=float, help="Peak learning rate [adamw 0.002, sgd 0.01].")
@click.option("--weight-decay", type=float, help="Of convolution kernels [adamw 0.05, sgd 0.0001].")
@click.option("--loss", type=click.Choice(["focal", "ce"]), default="focal", show_default=True)
@click.option("--gamma", default=2.0, show_default=True, help="Focusing parameter of the focal loss.")
@click.option("--alpha", default=0.25, show_default=True, help="Weight of the foreground in the focal loss.")
@click.option("--beta", default=0.1, show_default=True, help="Where smooth L1 turns linear; 0: plain L1.")
@click.option(
    "--flip",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Probability of a left-right flip; 0 for text and digits.",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Zoom in or out by up to 2 to this power.",
)
@click.option(
    "--colour", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Strength of colour changes, 0..1."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=0), help="Processes that read images.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--amp/--no-amp", default=True, show_default=True, help="Mixed precision (bfloat16).")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint beside --out.")
@click.option("--overwrite", is_flag=True, help="Start anew although there is one.")
def train_command(**given: Any) -> None:
    """Train a RetinaNet on a COCO set and export it as ONNX; several GPUs: torchrun -m edge_retina train ..."""
    try:
        import faster_coco_eval  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as exc:
        raise MissingPackage(f"training needs {exc.name}; run: pip install 'edge-retina[train]'") from exc
    import os

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from edge_retina.train.data import Augmentation
    from edge_retina.train.export import export_onnx
    from edge_retina.train.loop import train
    from edge_retina.train.options import Progress as Step
    from edge_retina.train.options import TrainOptions

    plain = given["loss"] == "ce"
    options = TrainOptions(
        **{name: given[name] for name in _AS_GIVEN},
        preset=given["model"],
        gamma=0.0 if plain else given["gamma"],
        alpha=None if plain else given["alpha"],
        augmentation=Augmentation(given["flip"], given["scale"], given["colour"]),
    )
    first = int(os.environ.get("RANK", "0")) == 0
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[facts]}"))
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not first)
    task = bar.add_task("", total=1.0, epoch=0, facts="")

    def show(step: Step) -> None:
        # Not sooner: what is wrong with the data or the options is said without an empty bar above it.
        if first and not bar.live.is_started:
            if step.validation_images == 0:
                click.echo(
                    f"{options.data}: fewer than 20 pictures, so none is held out and no AP reported; give --val",
                    err=True,
                )
            bar.start()
        if step.metrics is not None:
            facts = "  ".join(f"{name} {value:.3f}" for name, value in step.metrics.items())
            bar.console.print(
                f"epoch {step.epoch}  step {step.step}  validation {facts}", highlight=False, soft_wrap=True
            )
        ap = "" if step.ap is None else f"  validation AP {step.ap:.3f}"
        facts = f"step {step.step}  class {step.classification:.3f}  box {step.regression:.3f}{ap}"
        bar.update(task, completed=step.fraction, epoch=step.epoch, facts=facts)

    try:
        trained = train(options, show)
    except KeyboardInterrupt:
        if first and options.checkpoint.is_file():
            how = "--resume in place of --overwrite" if options.overwrite else "--resume"
            click.echo(f"{options.checkpoint} holds this run; go on with the same command and {how}", err=True)
        raise
    finally:
        if bar.live.is_started:
            bar.stop()
    if first:
        export_onnx(trained.model, trained.spec, options.out)
        click.echo(str(options.out))
