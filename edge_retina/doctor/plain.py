"""The doctor in plain text, by Python alone: for files, pipes, and where click or rich is broken."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from edge_retina.doctor.examine import as_json, examine, summary
from edge_retina.doctor.machine import Finding, Machine

__all__ = ["FAULTS", "MARKS", "grouped", "lines", "main"]

FAULTS = 11  # errors.FaultFound.exit_code
MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL", "none": "-"}
_NAME = 19  # columns
_WIDEST = 120


def grouped(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings by their group, in the order of the groups' first ones."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.group, []).append(finding)
    return groups


def lines(findings: Sequence[Finding], width: int) -> Iterator[str]:
    """A report, a line at a time, none wider than `width` where a word is not; commands are not broken."""
    for group, members in grouped(findings).items():
        yield group
        for finding in members:
            margin = " " * (9 + _NAME)
            head = f"  {MARKS[finding.status]:<5}{finding.name:<{_NAME}}  "
            yield from _wrapped(finding.found, head, margin, width)
            if finding.remedy and finding.status != "ok":
                yield from _wrapped(finding.remedy, f"{margin}-> ", f"{margin}   ", width)
        yield ""
    yield summary(findings)


def _wrapped(text: str, first: str, rest: str, width: int) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def main(arguments: Sequence[str]) -> int:
    """The command without click: its exit code."""
    parser = argparse.ArgumentParser("edge-retina doctor", description="Check this machine; say what to do.")
    parser.add_argument("--json", action="store_true", help="Everything, as one JSON object.")
    parser.add_argument("--camera", metavar="URI", help="Open it and measure it.")
    given = parser.parse_args(arguments)
    findings = examine(Machine(), camera=given.camera)
    if given.json:
        print(as_json(findings))
    else:
        print(*lines(findings, min(shutil.get_terminal_size().columns, _WIDEST)), sep="\n")
    return FAULTS if any(finding.status == "fail" for finding in findings) else 0
