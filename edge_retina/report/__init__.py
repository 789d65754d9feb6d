"""The build's report: one HTML page that says what a bundle is worth, readable without network and scripts."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from edge_retina.report.content import Layer, Pair, Report
from edge_retina.report.layers import float_section, layers_section
from edge_retina.report.markup import text
from edge_retina.report.overview import accuracy_section, facts_section, tiles, warnings_note
from edge_retina.report.pairs import pairs_section

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
    style, script = _part("page.css"), _part("sort.js")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_digest(style)}; script-src {_digest(script)}"
    )
    bodies = {title: section(report) for title, section in _SECTIONS.items()}
    shown = {title: body for title, body in bodies.items() if body}
    links = "".join(f'<a href="#{_key(title)}">{title}</a>' for title in shown)
    sections = "".join(f'<section id="{_key(t)}"><h2>{t}</h2>{body}</section>\n' for t, body in shown.items())
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(report.title)}</title>
<style>{style}</style>
</head>
<body><main>
<header>
<p class="kicker">edge-retina, {text(report.precision.upper())} build</p>
<h1>{text(report.title)}</h1>
<p class="verdict">{text(report.verdict)}</p>
<nav>{links}</nav>
</header>
{warnings_note(report.warnings)}{tiles(report)}
{sections}</main>
<script>{script}</script>
</body>
</html>
"""
    return page.encode("utf-8")


def _part(name: str) -> str:
    return resources.files("edge_retina.report").joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """What a policy calls an inline style or script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"


def _key(title: str) -> str:
    return title.lower().replace(" ", "-")
