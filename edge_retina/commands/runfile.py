"""Options of a command from a file, so that what is secret stands on no command line, where `ps` shows it to all.

    bundle = "model.edge"
    source = ["front=rtsp://user:password@10.0.0.5/1", "yard=/dev/video-yard"]
    out = "detections.jsonl?rotate=100MB&keep=10"
    min-score = 0.4
    track = true

Keys are the command's options without their dashes, and its argument; a list is an option given several times. What is
typed beside --config wins. Tables ([service]) are for others and are passed over. Paths are those of the command line:
seen from where the command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from edge_retina.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["config_option", "read_config"]


def read_config(path: Path) -> dict[str, Any]:
    """All of a TOML file. Raises UsageError; of what stands in the file the message says nothing, it may be secret."""
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise UsageError(f"{path}: no such file; docs/device.md shows one") from exc
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise UsageError(f"{path}: wanted TOML such as 'source = \"/dev/video0\"', found: {exc}") from exc
    return found


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config FILE.toml; the command itself does not get it."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=_take,
        help="These options from a file, which is no line in ps: source = [...], out = [...], min-score = 0.3.",
    )(command)


def _take(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make what the file says the defaults of the command's options."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **_defaults(context.command, path, read_config(path))}


def _defaults(command: click.Command, path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Values by parameter. Raises UsageError for unknown keys and for values of the wrong kind."""
    parameters = {name: parameter for parameter in command.params for name in _names(parameter)}
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            continue
        parameter = parameters.get(key.replace("_", "-"))
        if parameter is None or parameter.name is None:
            raise UsageError(f"{path}: unknown key {key!r}; known: {', '.join(sorted(parameters))}")
        found[parameter.name] = _value(f"{path}: {key}", parameter, value)
    return found


def _names(parameter: click.Parameter) -> list[str]:
    """What a parameter is called in a file."""
    if isinstance(parameter, click.Argument):
        return [parameter.name or ""]
    if not isinstance(parameter, click.Option) or parameter.name == "config":
        return []
    return [name.removeprefix("--") for name in parameter.opts if name.startswith("--")]


def _value(what: str, parameter: click.Parameter, value: Any) -> Any:
    """The value as click wants it: a bool for a flag, a list of texts where several may be given, else a text."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{what} wants true or false, found {type(value).__name__}")
        return value
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
        raise UsageError(f"{what} wants text or a number, or a list of those")
    texts = [str(one) for one in values]
    if parameter.multiple:
        return texts
    if len(texts) != 1:
        raise UsageError(f"{what} wants one value, found {len(texts)}")
    return texts[0]
