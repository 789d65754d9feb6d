"""Text and bars as HTML."""

from __future__ import annotations

import html
import re

__all__ = ["bar", "breakable", "text"]

# Not allowed in HTML, or, surrogates that stand for odd bytes of a file name, in UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def text(value: str) -> str:
    """Any string as HTML that shows it, in an element or a quoted attribute."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", value))


def breakable(name: str) -> str:
    """A layer's name as HTML; lines may break behind its dots and slashes."""
    return re.sub(r"(?<=\w)([./])(?=\w)", r"\1<wbr>", text(name))


def bar(share: float, kind: str) -> str:
    """A bar filled to a share, 0..1, of its width. kind: its CSS class."""
    width = f"{min(max(share, 0.0), 1.0) * 100:.1f}"
    return (
        f'<svg class="bar {kind}" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="6"/><rect class="fill" width="{width}" height="6"/></svg>'
    )
