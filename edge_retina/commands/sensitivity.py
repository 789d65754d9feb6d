"""`edge-retina sensitivity`: what quantizing each layer alone costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_retina.commands.build import stages
from edge_retina.commands.options import frame_size, read_spec

if TYPE_CHECKING:
    from edge_retina.sensitivity import Cost

__all__ = ["sensitivity_command"]


@click.command("sensitivity")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--calib", metavar="SRC", required=True, help="Pictures: folder, glob, COCO json, video or camera.")
@click.option("--calib-images", metavar="DIR", help="Pictures of the COCO json given with --calib.")
@click.option(
    "--calib-most", type=click.IntRange(min=1), default=64, show_default=True, help="Pictures for the ranges."
)
@click.option("--frames", type=click.IntRange(min=1), default=8, show_default=True, help="Pictures to compare on.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Rows to show.")
@click.option("--frame-size", "size", metavar="WxH", callback=frame_size, help="Frames of this size only [any size].")
@click.option("--family", help="Exporter family, when it is not recognised.")
@click.option("--spec", "spec_path", type=click.Path(), help="JSON with DetectorSpec fields to replace.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def sensitivity_command(
    model: Path,
    calib: str,
    calib_images: str | None,
    calib_most: int,
    frames: int,
    top: int,
    size: tuple[int, int] | None,
    family: str | None,
    spec_path: str | None,
    as_json: bool,
) -> None:
    """Rank the layers of MODEL.onnx by what quantizing each of them alone costs; no labels needed.

    Disagreement is that of the heads with the float model's: 0 is the same, and 0.04 for a whole model is little.
    """
    from edge_retina.calibrate.pictures import open_calibration
    from edge_retina.importer import import_model, load_onnx
    from edge_retina.int8 import binding, calibrate, layer_label, trial_frames
    from edge_retina.quantize import Quantizer, Recipe, equalized
    from edge_retina.rewrite import rewrite
    from edge_retina.rewrite.macs import conv_macs
    from edge_retina.rewrite.opset import LEAST_OPSET
    from edge_retina.sensitivity import rank

    with stages(model.name) as (on_stage, on_step, on_note):
        on_stage("read")
        source = load_onnx(model)
        found = import_model(source, family=family, overrides=read_spec(spec_path))
        graph = rewrite(source.graph, found, size, least_opset=LEAST_OPSET)
        pictures = open_calibration(calib, most=calib_most, frame_size=size, images=calib_images)
        recipe = Recipe()
        on_stage("calibrate")
        bound = binding(source.digest, found.spec, size, pictures, recipe)
        ranges = calibrate(graph, pictures, bound, recipe, on_step=on_step)
        for warning in ranges.warnings:
            on_note(f"calibration: {warning}")
        even = equalized(graph, ranges.factors)
        quantizer = Quantizer(even, ranges.statistics, recipe)
        on_stage("rank layers of")
        total, done = len(quantizer.units()), 0

        def step() -> None:
            nonlocal done
            done += 1
            on_step(done, total)

        costs = rank(quantizer, found.spec, trial_frames(pictures, frames), on_unit=step)
    macs = conv_macs(even)
    whole = sum(macs.values())
    rows = [_row(cost, layer_label(cost.unit[0]), sum(macs[name] for name in cost.unit) / whole) for cost in costs]
    if as_json:
        click.echo(json.dumps({"model": str(model), "pictures": pictures.count, "layers": rows}, indent=1))
    else:
        _print(rows, top)


def _row(cost: Cost, name: str, share: float) -> dict[str, Any]:
    """One layer; sqnr_db is None where it has no noise of its own, or more than can be told."""
    sqnr = round(cost.sqnr, 2) if math.isfinite(cost.sqnr) else None
    facts = {"disagreement": round(cost.disagreement, 6), "sqnr_db": sqnr, "share": round(share, 6)}
    return {"layer": name, "convolutions": len(cost.unit), **facts}


def _print(rows: list[dict[str, Any]], top: int) -> None:
    from rich.table import Table

    from edge_retina.console import Results

    table = Table("layer")
    for name in ("convolutions", "disagreement", "SQNR dB", "share of work"):
        table.add_column(name, justify="right")
    for row in rows[:top]:
        sqnr = "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        cells = str(row["convolutions"]), f"{row['disagreement']:.4f}", sqnr, f"{row['share']:.1%}"
        table.add_row(row["layer"], *cells)
    Results().print(table)
    if len(rows) > top:
        click.echo(f"{len(rows) - top} more layers cost less: --top {len(rows)}")
