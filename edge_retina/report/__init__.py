"""The build's report: one HTML page that says what a bundle is worth, readable without network and scripts."""

from __future__ import annotations

from edge_retina.report.content import Layer, Pair, Report
from edge_retina.report.layers import float_section, layers_section
from edge_retina.report.overview import accuracy_section, facts_section, tiles, warnings_note
from edge_retina.report.pairs import pairs_section
from edge_retina.report.shell import page

__all__ = ["Layer", "Pair", "Report", "render"]

# The longest last. A section that has nothing to say is left out.
_SECTIONS = {
    "Accuracy": accuracy_section,
    "Pictures": pairs_section,
    "Left in float": float_section,
    "Facts": facts_section,
    "Layers": layers_section,
}


def render(report: Report) -> bytes:
    """The page, UTF-8. It loads nothing, and its policy forbids it to; the same report gives the same bytes."""
    return page(
        report.title,
        f"edge-retina, {report.precision.upper()} build",
        report.verdict,
        {title: section(report) for title, section in _SECTIONS.items()},
        above=f"{warnings_note(report.warnings)}{tiles(report)}",
        scripts=("sort.js",),
    )
