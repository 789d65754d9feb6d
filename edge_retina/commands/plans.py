"""`edge-retina plans`: what the cache of compiled plans holds, and taking things out of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_retina.plans import PlanFacts

__all__ = ["plans_command"]

_DIGITS = 12


@click.group("plans", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON list.")
@click.pass_context
def plans_command(context: click.Context, as_json: bool) -> None:
    """List the compiled plans in the cache, the one used last first.

    They lie in $EDGE_RETINA_CACHE/plans, else in the user's cache folder; what was used longest ago goes when they
    have more than EDGE_RETINA_CACHE_BYTES, 8 GiB unless it is set.
    """
    if context.invoked_subcommand is not None:
        return
    from edge_retina.plans import cache_bytes, folder, list_plans

    plans = list_plans(on_note=lambda note: click.echo(note, err=True))
    if as_json:
        click.echo(json.dumps([_to_json(plan) for plan in plans], indent=1))
        return
    if not plans:
        click.echo(f"no plans in {folder()} yet; build and run make them where there is a GPU", err=True)
        return
    _show(plans)
    size = sum(plan.size for plan in plans)
    click.echo(f"{len(plans)} plans, {_megabytes(size)} of at most {_megabytes(cache_bytes())}, in {folder()}")


@plans_command.command("clear")
@click.option("--older-than", metavar="DAYS", type=click.FloatRange(min=0), help="What was not used for so long.")
@click.option("--bundle", metavar="X", help="Plans of this bundle: a file, or the first digits of a digest.")
@click.option("--all", "everything", is_flag=True, help="Everything, timing caches too.")
def clear_command(older_than: float | None, bundle: str | None, everything: bool) -> None:
    """Remove plans from the cache; they are compiled anew when they are wanted.

    --older-than and --bundle together: what is both.
    """
    from edge_retina.plans import clear_plans

    digest = None if bundle is None else _digest(bundle)
    cleared = clear_plans(older_than=older_than, bundle=digest, everything=everything)
    others = f" and {cleared.others} other files" if cleared.others else ""
    click.echo(f"removed {cleared.plans} plans{others}, {_megabytes(cleared.bytes)}")


def _digest(bundle: str) -> str:
    """The digest that the user means: of a file, or as typed."""
    if Path(bundle).is_file():
        from edge_retina.bundle import read_bundle

        return read_bundle(bundle, verify=False).digest
    return bundle.lower()


def _show(plans: list[PlanFacts]) -> None:
    from rich.table import Table

    from edge_retina.console import Results

    table = Table()
    for title in ("model", "runs on", "frames", "size", "last used"):
        table.add_column(title, overflow="fold")
    for plan in plans:
        key = plan.key
        gpu = " ".join(part for part in (key.gpu, key.compute_capability.replace(",", ", ")) if part)
        model = "\n".join(part for part in (_model(plan), _precision(plan), key.bundle[:_DIGITS]) if part)
        used = datetime.fromtimestamp(plan.used).strftime("%Y-%m-%d %H:%M").replace(" ", "\n")
        place = f"{gpu}\n{key.target} {key.version}"
        table.add_row(model, place, key.profile.replace("..", "\n"), _megabytes(plan.size), used)
    Results().print(table)


def _to_json(plan: PlanFacts) -> dict[str, Any]:
    used = datetime.fromtimestamp(plan.used, timezone.utc).isoformat(timespec="seconds")
    facts = {"size": plan.size, "used": used, "host_code": plan.host_code, "path": str(plan.path)}
    return {**asdict(plan.key), "precision": _precision(plan), **facts, "about": dict(plan.about)}


def _precision(plan: PlanFacts) -> str:
    return _fact(plan, "precision")


def _model(plan: PlanFacts) -> str:
    return _fact(plan, "model")


def _fact(plan: PlanFacts, name: str) -> str:
    """A text that was kept with the plan; "" where there is none to be shown."""
    text = plan.about.get(name)
    return text if isinstance(text, str) and text.isprintable() else ""


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
