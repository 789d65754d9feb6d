"""`edge-retina doctor`: what is wrong with this machine, and what to do."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from edge_retina.commands.completion import complete_source
from edge_retina.errors import FaultFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edge_retina.doctor.machine import Finding

__all__ = ["doctor_command", "show"]

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "none": "dim"}
_SYMBOLS = {"ok": "✔", "warn": "!", "fail": "✘", "none": "·"}
_PLAIN_WIDTH = 120


@click.command("doctor")
@click.option("--camera", metavar="URI", shell_complete=complete_source, help="Open it and measure it: 0, rtsp://...")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def doctor_command(camera: str | None, as_json: bool) -> None:
    """Check this machine: each finding is ok, a warning or a fault, with what to do about it.

    Looks at Python and its packages, OpenCV, cameras, the GPU, TensorRT and its plugin, a Jetson's settings, memory,
    disk and display. What may crash is tried in processes of their own. Ends with exit code 11 when there is a fault.
    """
    from edge_retina.doctor import plain
    from edge_retina.doctor.examine import as_json as to_json
    from edge_retina.doctor.examine import examine
    from edge_retina.doctor.machine import Machine

    findings = examine(Machine(), camera=camera)
    if as_json:
        click.echo(to_json(findings))
    elif console := _coloured():
        show(console, findings)
    else:
        click.echo("\n".join(plain.lines(findings, min(shutil.get_terminal_size().columns, _PLAIN_WIDTH))))
    if faults := [finding.name for finding in findings if finding.status == "fail"]:
        raise FaultFound(f"faults found: {', '.join(faults)}")


def _coloured() -> Console | None:
    """A terminal that shows colours; None where there is none, or rich, which the doctor looks at too, is broken."""
    try:
        from edge_retina.console import Results

        console = Results()
    except Exception:
        return None
    return console if console.is_terminal and console.color_system else None


def show(console: Console, findings: Sequence[Finding]) -> None:
    """The report in colours, with symbols where the terminal's encoding has them."""
    from rich.table import Table
    from rich.text import Text

    from edge_retina.doctor.examine import summary
    from edge_retina.doctor.plain import MARKS, grouped

    symbols = _SYMBOLS if console.encoding.startswith("utf") else MARKS
    for group, members in grouped(findings).items():
        console.print(Text(group, style="bold"))
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=max(map(len, symbols.values())) + 1, justify="right")
        table.add_column(min_width=18, overflow="fold")
        table.add_column(overflow="fold")
        for finding in members:
            style = _STYLES[finding.status]
            found = Text(finding.found, style="dim" if finding.status == "none" else "")
            if finding.remedy and finding.status != "ok":
                found.append(f"\n→ {finding.remedy}" if symbols is _SYMBOLS else f"\n-> {finding.remedy}", style="cyan")
            table.add_row(Text(symbols[finding.status], style=style), Text(finding.name, style=style), found)
        console.print(table)
    worst = next(
        status for status in ("fail", "warn", "ok") if status == "ok" or any(f.status == status for f in findings)
    )
    console.print(Text(f"\n{summary(findings)}", style=_STYLES[worst]))
