"""`edge-retina inspect`: what a model or a bundle is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_retina import errors
from edge_retina.commands.options import blanks, read_spec
from edge_retina.drafts import Draft

__all__ = ["inspect_command"]


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--family", help="Exporter family, when it is not recognised.")
@click.option("--spec", "spec_path", type=click.Path(), help="JSON with DetectorSpec fields to replace.")
@click.option("--write-spec", type=click.Path(path_type=Path), help="Write all that as a file for --spec.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def inspect_command(
    file: Path, family: str | None, spec_path: str | None, write_spec: Path | None, as_json: bool
) -> None:
    """Show what an ONNX or a bundle is: heads, levels, anchors, thresholds, preprocessing, each with its origin.

    Of a graph that no family knows --write-spec starts a spec: what the graph says is filled in, the rest null.
    """
    from rich.table import Table

    from edge_retina.console import Results
    from edge_retina.inspect import inspect_file, rows, spec_file, start_spec
    from edge_retina.spec import DetectorSpec

    try:
        facts = inspect_file(file, family=family, overrides=read_spec(spec_path))
    except (errors.NotADetector, errors.SpecError):
        if write_spec is None or spec_path is not None:
            raise
        started = start_spec(file)
        _write_spec(write_spec, started)
        click.echo(f"{write_spec}: started, for no family knows this graph; fill in: {', '.join(blanks(started))}")
        return
    if facts["kind"] == "bundle" and (family is not None or spec_path is not None or write_spec is not None):
        options = "--family and --spec, as --write-spec, apply to an ONNX only"
        raise errors.UsageError(f"{file}: {options}; leave them out for a bundle")
    if write_spec is not None:
        _write_spec(write_spec, spec_file(facts))
        click.echo(f"{write_spec}: spec and heads of {file}, for --spec", err=True)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    spec = DetectorSpec.from_dict(facts["spec"])
    table = Table("field", "value", "origin", title=f"{file} ({facts['kind']})", title_justify="left")
    for row in rows(spec):
        table.add_row(*row)
    Results().print(table)
    if facts["kind"] == "onnx":
        heads = facts["heads"]
        click.echo(f"heads from {heads['trunk_input']}: {', '.join(heads['logits'])}; {', '.join(heads['deltas'])}")
        click.echo("\n  ".join(["build would rewrite:", *facts["rewrite"]]))
    else:
        size = facts["frame_size"]
        frames = "any" if size is None else f"{size[1]}x{size[0]}"
        click.echo(f"precision {facts['precision']}, frames {frames}, batch {facts['batch_max'] or 'any'}")
        click.echo(f"digest {facts['digest']}, built by edge-retina {facts['edge_retina']}")


def _write_spec(target: Path, data: dict[str, Any]) -> None:
    """Write a spec file. Raises UsageError where there is a file already, OutputError."""
    if target.exists():
        raise errors.UsageError(f"{target}: is there already, and may have been filled in; choose another name")
    draft = Draft(target)
    try:
        draft.fill((json.dumps(data, indent=1) + "\n").encode())
        draft.publish()
    finally:
        draft.discard()
