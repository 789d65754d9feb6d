"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from edge_retina.errors import SpecError

__all__ = ["as_one", "blanks", "frame_size", "min_score_option", "read_spec"]

min_score_option = click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Leave out detections below this score; 0 keeps all that the bundle gives.",
)


def as_one(
    command: Callable[..., Any], name: str, kind: type[Any], options: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    """The command with these options, which it gets as one argument: `kind`, a dataclass with a field for each.

    A field whose option is not among them keeps its default.
    """
    names = [field.name for field in fields(kind)]

    @functools.wraps(command)
    def collected(**arguments: Any) -> Any:
        given = {field: arguments.pop(field) for field in names if field in arguments}
        return command(**arguments, **{name: kind(**given)})

    for option in reversed(options):
        collected = option(collected)
    return collected


def frame_size(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT as (H, W)."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"wants WIDTHxHEIGHT, such as 640x480, found {value!r}", param=option)
    return int(parts[1]), int(parts[0])


def read_spec(path: str | None) -> dict[str, Any]:
    """Fields of a spec file, or of the spec in what `inspect --json` wrote.

    Raises SpecError, also for fields that were started as null and not filled in.
    """
    if path is None:
        return {}
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise SpecError(f"{path}: wanted a spec as JSON, found: {exc}") from exc
    if isinstance(data, dict) and "spec" in data:
        data = data["spec"]
    if not isinstance(data, dict):
        raise SpecError(f"{path}: wanted a JSON object of spec fields, found {type(data).__name__}")
    if empty := blanks(data):
        raise SpecError(
            f"{path}: still to be filled in, for the graph does not say: {', '.join(empty)} (null now; what each means "
            "stands in edge_retina/spec.py, for heads in edge_retina/importer/imported.py)"
        )
    return data


def blanks(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Which fields of a spec file are null, those of its heads as heads.NAME; shortest_side may be."""
    heads = data.get("heads")
    inner = heads.items() if isinstance(heads, Mapping) else ()
    outer = [name for name, value in data.items() if value is None and name not in ("shortest_side", "heads")]
    return (*outer, *(f"heads.{name}" for name, value in inner if value is None))
