"""The `edge-retina` command: results on stdout, talk on stderr, each error one message and its exit code.

Exit codes: 0 done, 1 other error, 2 usage, 3 input, 4 model, 5 bundle, 6 output, 7 runtime, 8 package missing,
9 accuracy lost, 10 detections differ, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from edge_retina import errors
from edge_retina.commands.batch import batch_command
from edge_retina.commands.bench import bench_command
from edge_retina.commands.build import build_command
from edge_retina.commands.calib import calib_command
from edge_retina.commands.eval import eval_command
from edge_retina.commands.options import blanks, read_spec
from edge_retina.commands.plans import plans_command
from edge_retina.commands.plugin import plugin_command
from edge_retina.commands.report import report_command
from edge_retina.commands.run import run_command
from edge_retina.commands.sensitivity import sensitivity_command
from edge_retina.commands.sign import sign_command
from edge_retina.commands.verify import verify_command
from edge_retina.console import Results
from edge_retina.demo import demo_command
from edge_retina.drafts import Draft
from edge_retina.train.cli import train_command

__all__ = ["cli", "main"]

_INTERRUPTED = 130
# Set, to anything, to see where an unexpected error comes from.
_TRACEBACK = "EDGE_RETINA_TRACEBACK"


class _Commands(click.Group):
    """A group that knows a full disk from a reader who has gone; click and rich end with code 1 for both."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as exc:
            if exc.filename is not None:
                raise
            # What is left in the buffer would raise once more when Python exits.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(exc, BrokenPipeError):
                raise errors.OutputError(f"cannot write to stdout: {exc.strerror or exc}; check disk space") from exc


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=__doc__.split("\n\n")[1])
@click.version_option(package_name="edge-retina")
def cli() -> None:
    """A trained RetinaNet from ONNX to detections on a camera stream."""


cli.add_command(build_command)
cli.add_command(run_command)
cli.add_command(batch_command)
cli.add_command(train_command)
cli.add_command(verify_command)
cli.add_command(eval_command)
cli.add_command(calib_command)
cli.add_command(sensitivity_command)
cli.add_command(report_command)
cli.add_command(plans_command)
cli.add_command(bench_command)
cli.add_command(plugin_command)
cli.add_command(sign_command)
cli.add_command(demo_command)


def main() -> None:
    """Run the command line; every error becomes one message on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # click returns the code of ctx.exit() here, and None when a command simply ends.
        code = cli.main(prog_name="edge-retina", standalone_mode=False) or 0
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except errors.EdgeRetinaError as exc:
        click.echo(f"edge-retina: {exc}", err=True)
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("edge-retina: interrupted", err=True)
        code = _INTERRUPTED
    except Exception as exc:
        if _TRACEBACK in os.environ:
            raise
        what = f"{type(exc).__name__}: {exc}"
        click.echo(f"edge-retina: unexpected {what}; set {_TRACEBACK}=1 to see where, and report it", err=True)
        code = errors.EdgeRetinaError.exit_code
    sys.exit(code)


def _terminate(*_: object) -> None:
    """SIGTERM ends a run as Ctrl-C does: sinks closed."""
    raise KeyboardInterrupt


def _talk(text: str) -> None:
    click.echo(text, err=True)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--family", help="Exporter family, when it is not recognised.")
@click.option("--spec", "spec_path", type=click.Path(), help="JSON with DetectorSpec fields to replace.")
@click.option("--write-spec", type=click.Path(path_type=Path), help="Write all that as a file for --spec.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def inspect(file: Path, family: str | None, spec_path: str | None, write_spec: Path | None, as_json: bool) -> None:
    """Show what an ONNX or a bundle is: heads, levels, anchors, thresholds, preprocessing, each with its origin.

    Of a graph that no family knows --write-spec starts a spec: what the graph says is filled in, the rest null.
    """
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
        _talk(f"{write_spec}: spec and heads of {file}, for --spec")
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
