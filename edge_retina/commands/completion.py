"""`edge-retina completion`: what the Tab key needs to know; and what it completes in URIs."""

from __future__ import annotations

import glob
import importlib

import click
from click.shell_completion import CompletionItem, get_completion_class

__all__ = ["complete_sink", "complete_source", "completion_command"]

_VARIABLE = "_EDGE_RETINA_COMPLETE"
_SOURCES = ("csi://", "file://", "http://", "https://", "rtmp://", "rtsp://", "stdin://", "test://", "v4l2://")
_SINKS = ("display://", "http://", "https://")


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion_command(shell: str) -> None:
    """Print what makes a shell complete commands, options, files and cameras.

    bash: source the file in ~/.bashrc, or put it into ~/.local/share/bash-completion/completions under the name
    edge-retina. zsh: name its folder in ~/.zshrc, before compinit: fpath+=~/.zfunc. fish needs no more than the file.
    """
    cli = importlib.import_module("edge_retina.cli").cli  # which is above this file and imports it
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this click has no completion for {shell}; run: pip install -U click")
    # Not source(), which runs bash to see that it is 4.4 or later and complains of others on stderr.
    maker = kind(cli, {}, "edge-retina", _VARIABLE)
    click.echo(maker.source_template % maker.source_vars())


def complete_source(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Cameras that are there, the schemes of sources, else files."""
    return _complete((*sorted(glob.glob("/dev/video*")), *_SOURCES), incomplete)


def complete_sink(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The schemes of sinks, else files."""
    return _complete(_SINKS, incomplete)


def _complete(known: tuple[str, ...], incomplete: str) -> list[CompletionItem]:
    found = [CompletionItem(word) for word in known if word.startswith(incomplete)]
    # The shell's own files, beside words where nothing is typed yet.
    return [*found, CompletionItem(incomplete, type="file")] if not found or not incomplete else found
