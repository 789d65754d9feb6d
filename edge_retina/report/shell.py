"""The page around the sections: header, style, script and the policy that forbids it to load anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from edge_retina.report.markup import text

__all__ = ["page"]


def page(
    title: str,
    kicker: str,
    verdict: str,
    sections: Mapping[str, str],
    *,
    above: str = "",
    styles: Sequence[str] = ("page.css",),
    scripts: Sequence[str] = (),
) -> bytes:
    """The page, UTF-8; it loads nothing. The same arguments give the same bytes.

    title, kicker, verdict: plain text. sections: title to HTML, in order; one with "" is left out. above: HTML between
    header and sections. styles, scripts: files of this package.
    """
    style = "\n".join(map(_part, styles))
    script = "\n".join(map(_part, scripts))
    allowed = _digest(script) if script else "'none'"
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_digest(style)}; script-src {allowed}"
    )
    shown = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_key(title)}">{title}</a>' for title in shown)
    bodies = "".join(f'<section id="{_key(t)}"><h2>{t}</h2>{body}</section>\n' for t, body in shown.items())
    code = f"<script>{script}</script>\n" if script else ""
    whole = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body><main>
<header>
<p class="kicker">{text(kicker)}</p>
<h1>{text(title)}</h1>
<p class="verdict">{text(verdict)}</p>
<nav>{links}</nav>
</header>
{above}
{bodies}</main>
{code}</body>
</html>
"""
    return whole.encode("utf-8")


def _part(name: str) -> str:
    return resources.files("edge_retina.report").joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """What a policy calls an inline style or script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode('utf-8')).digest()).decode('ascii')}'"


def _key(title: str) -> str:
    return title.lower().replace(" ", "-")
