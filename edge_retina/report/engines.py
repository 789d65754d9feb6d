"""The plans that were compiled of a bundle, layer by layer: a section for a page that its build made before them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge_retina.report.markup import breakable, text

__all__ = ["add_engines", "engines_section"]

_END = b"</main>"


def engines_section(plans: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """HTML of a section: each plan's title, the precision of its convolutions, and its layers with their types.

    plans: title and what a plan's `about` holds: shares, seconds, layers as dataclasses.asdict gives them. "" for none.
    """
    bodies = [_engine(title, about) for title, about in plans]
    return f'<section id="engines"><h2>Engines</h2>{"".join(bodies)}</section>\n' if bodies else ""


def add_engines(page: bytes, plans: Iterable[tuple[str, Mapping[str, Any]]]) -> bytes:
    """The page with that section at its end; unchanged where there is no plan or it is no page of ours."""
    section = engines_section(plans).encode("utf-8")
    head, end, tail = page.rpartition(_END)
    return head + section + end + tail if section and end else page


def _engine(title: str, about: Mapping[str, Any]) -> str:
    shares = [f"{kind} {share:.1%}" for kind, share in about.get("shares", {}).items() if share >= 0.0005]
    told = [f"work of the convolutions: {', '.join(shares)}"] if shares else []
    if "seconds" in about:
        told.append(f"compiled in {about['seconds']} s")
    rows = "".join(_row(layer) for layer in about.get("layers", ()))
    table = (
        f'<details><summary>{len(about["layers"])} layers</summary><div class="scroll"><table><thead><tr><th>layer</th>'
        f"<th>kind</th><th>reads</th><th>writes</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
        if rows
        else "<p>Its layers were not shown by this TensorRT.</p>"
    )
    return f"<h3>{text(title)}</h3><p>{text('; '.join(told))}</p>{table}"


def _row(layer: Mapping[str, Any]) -> str:
    cells = (text(layer["type"]), _kinds(layer["inputs"]), _kinds(layer["outputs"]))
    return f'<tr><th scope="row">{breakable(layer["name"])}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _kinds(tensors: Sequence[Sequence[str]]) -> str:
    """The data types of some tensors, each once."""
    return text(", ".join(dict.fromkeys(kind for _, kind in tensors)))
