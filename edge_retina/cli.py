"""The `edge-retina` command: results on stdout, talk on stderr, each error one message and its exit code.

Exit codes: 0 done, 1 other error, 2 usage, 3 input, 4 model, 5 bundle, 6 output, 7 runtime, 8 package missing,
9 accuracy lost, 10 detections differ, 11 the doctor found a fault, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import os
import signal
import sys
from typing import Any

import click

from edge_retina import errors
from edge_retina.commands.examples import EXAMPLES
from edge_retina.logs import Talk, talking
from edge_retina.redaction import redact, redact_text

__all__ = ["cli", "main"]

_INTERRUPTED = 130
# Set, to anything, to see where an unexpected error comes from.
_TRACEBACK = "EDGE_RETINA_TRACEBACK"

# By task: each command, where it is, and the line of it that is shown. Imported when it is typed, so that one command's
# broken package is no other's.
_COMMANDS = {
    "Build": {
        "build": ("edge_retina.commands.build:build_command", "Turn an ONNX into a bundle and, on a GPU, a plan."),
        "calib": ("edge_retina.commands.calib:calib_command", "Pick pictures to calibrate INT8 on."),
        "sensitivity": ("edge_retina.commands.sensitivity:sensitivity_command", "Rank layers by what INT8 costs."),
        "train": ("edge_retina.train.cli:train_command", "Train a RetinaNet and export it as ONNX."),
    },
    "Run": {
        "run": ("edge_retina.commands.run:run_command", "Detect on cameras, streams, videos or pictures."),
        "batch": ("edge_retina.commands.batch:batch_command", "Detect in a great many files, on one machine or many."),
        "bench": ("edge_retina.commands.bench:bench_command", "Time a frame, stage by stage."),
    },
    "Prove": {
        "verify": ("edge_retina.commands.verify:verify_command", "Compare with the trainer's own detections."),
        "eval": ("edge_retina.commands.eval:eval_command", "Measure the accuracy of models side by side."),
    },
    "Look": {
        "inspect": ("edge_retina.commands.inspect:inspect_command", "Show what an ONNX or a bundle is."),
        "report": ("edge_retina.commands.report:report_command", "Take the report out of a bundle, for a browser."),
        "demo": ("edge_retina.demo:demo_command", "Build and run the shipped digits model."),
        "doctor": ("edge_retina.commands.doctor:doctor_command", "Check this machine; say what to do."),
    },
    "Deploy": {
        "plans": ("edge_retina.commands.plans:plans_command", "List the compiled plans in the cache."),
        "plugin": ("edge_retina.commands.plugin:plugin_command", "Build TensorRT's plugin for this machine."),
        "export": ("edge_retina.commands.export:export_command", "Write a bundle for Triton or DeepStream."),
        "sign": ("edge_retina.commands.sign:sign_command", "Sign a bundle or a plan."),
        "service": ("edge_retina.commands.service:service_command", "Start at boot; upgrade with a way back."),
        "completion": ("edge_retina.commands.completion:completion_command", "Complete commands in your shell."),
    },
}

_FIRST_STEPS = """\
A trained RetinaNet from ONNX to detections on a camera stream.

  edge-retina inspect model.onnx           what the model is
  edge-retina build model.onnx             writes model.edge
  edge-retina run model.edge --camera 0    detections, live
  edge-retina doctor                       when something does not work
"""


class _Commands(click.Group):
    """Loads each command when it is typed, and lists them by task.

    Knows a full disk from a reader who has gone; click and rich end with code 1 for both.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*(name for commands in _COMMANDS.values() for name in commands), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        for commands in _COMMANDS.values():
            if cmd_name in commands:
                module, name = commands[cmd_name][0].split(":")
                found = getattr(importlib.import_module(module), name)
        return found and _with_manners(found, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=2)
            ctx.fail(f"no command {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        more = [(name, self.commands[name].get_short_help_str()) for name in sorted(self.commands)]
        width = max(map(len, self.list_commands(ctx)))
        for title, rows in (*_listed(), *([("More", more)] if more else [])):
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in rows])

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


def _listed() -> list[tuple[str, list[tuple[str, str]]]]:
    return [(title, [(name, line) for name, (_, line) in rows.items()]) for title, rows in _COMMANDS.items()]


def _set(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    talk = ctx.find_object(Talk)
    if value and talk is not None:
        talk.set(**{str(option.name): value})


def _talk_options(*, hidden: bool) -> list[click.Option]:
    """Those of what is said on stderr: they may stand before the command or after it."""
    common: dict[str, Any] = {"callback": _set, "expose_value": False, "is_eager": True, "hidden": hidden}
    return [
        click.Option(["-v", "--verbose"], count=True, help="Say more on stderr; -vv, -vvv: still more.", **common),
        click.Option(["-q", "--quiet"], is_flag=True, help="Say nothing on stderr but errors.", **common),
        click.Option(["--log-json"], is_flag=True, help="stderr as JSON lines, no passwords.", **common),
    ]


def _with_manners(command: click.Command, path: str) -> click.Command:
    """A command with the options that all have, and with its examples."""
    taken = {name for param in command.params for name in (*param.opts, str(param.name))}
    for option in _talk_options(hidden=True):
        if not taken & {*option.opts, str(option.name)}:
            command.params.append(option)
    if path in EXAMPLES and not command.epilog:
        command.epilog = "\b\nExamples:\n" + "\n".join(EXAMPLES[path])
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _with_manners(inner, f"{path} {name}")
    return command


@click.group(
    cls=_Commands,
    params=_talk_options(hidden=False),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=__doc__.split("\n\n")[1],
)
@click.option("--version", is_flag=True, help="Show the versions of edge-retina and its parts; --json.")
@click.option("--json", "as_json", is_flag=True, hidden=True)
@click.pass_context
def cli(ctx: click.Context, version: bool, as_json: bool) -> None:
    """A trained RetinaNet from ONNX to detections on a camera stream.

    Options for stderr may stand before the command or after it. NO_COLOR and FORCE_COLOR are respected.
    """
    if version:
        _show_versions(as_json)
        ctx.exit()
    if as_json:
        raise errors.UsageError("--json goes with --version here, or behind a command: edge-retina plans --json")
    if ctx.invoked_subcommand is None:
        click.echo(_FIRST_STEPS, err=True)
        for title, rows in _listed():
            click.echo(f"  {title:<8}{', '.join(name for name, _ in rows)}", err=True)
        click.echo("\nedge-retina --help says more, edge-retina COMMAND --help all of one.", err=True)
        ctx.exit(errors.UsageError.exit_code)


def _show_versions(as_json: bool) -> None:
    from edge_retina.doctor.versions import versions

    found = versions()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"edge-retina, version {found.pop('edge-retina') or 'unknown: not installed'}")
    for name, version in found.items():
        if version is not None:
            click.echo(f"{name} {version}")


def main() -> None:
    """Run the command line; every error becomes one message on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    with talking() as talk:
        code = _run(talk)
    sys.exit(code)


def _run(talk: Talk) -> int:
    """The command, and its exit code."""
    try:
        # click returns the code of ctx.exit() here, and None when a command simply ends.
        return cli.main(prog_name="edge-retina", standalone_mode=False, obj=talk) or 0
    except click.ClickException as exc:
        # A mistake before it stood in the way of its being read.
        talk.set(log_json="--log-json" in sys.argv[1:])
        context = exc.ctx if isinstance(exc, click.UsageError) else None
        usage = f"{context.get_usage()}\n\n" if context else ""
        more = f"\n{context.command_path} --help says more." if context else ""
        talk.error(f"{usage}Error: {_without_secrets(exc.format_message())}{more}", exc.exit_code)
        return exc.exit_code
    except errors.EdgeRetinaError as exc:
        talk.error(f"edge-retina: {_without_secrets(str(exc))}", exc.exit_code)
        return exc.exit_code
    except ImportError as exc:
        if _TRACEBACK in os.environ:
            raise
        code = errors.MissingPackage.exit_code
        talk.error(f"edge-retina: a package cannot be imported: {exc}; run: edge-retina doctor", code)
        return code
    except (click.Abort, KeyboardInterrupt):
        talk.error("edge-retina: interrupted", _INTERRUPTED)
        return _INTERRUPTED
    except Exception as exc:
        if _TRACEBACK in os.environ:
            raise
        what = f"{type(exc).__name__}: {_without_secrets(str(exc))}"
        code = errors.EdgeRetinaError.exit_code
        talk.error(f"edge-retina: unexpected {what}; set {_TRACEBACK}=1 to see where, and report it", code)
        return code


def _without_secrets(message: str) -> str:
    """A message without passwords, also where it quotes what was typed in a wrong place."""
    for typed in sys.argv[1:]:
        for seen in {typed, repr(typed)[1:-1], os.path.normpath(typed)}:  # as it is, quoted, as a Path
            if (shown := redact(seen)) != seen:
                message = message.replace(seen, shown)
    return redact_text(message)


def _terminate(*_: object) -> None:
    """SIGTERM ends a run as Ctrl-C does: sinks closed."""
    raise KeyboardInterrupt
