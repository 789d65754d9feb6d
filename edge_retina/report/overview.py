"""What a bundle is worth at a glance: warnings, tiles, accuracy and facts."""

from __future__ import annotations

from collections.abc import Sequence

from edge_retina.accuracy import class_comparison, comparison
from edge_retina.report.content import Report
from edge_retina.report.layers import decibels, percent, work
from edge_retina.report.markup import bar, breakable, text
from edge_retina.report.pairs import differs, marks

__all__ = ["accuracy_section", "facts_section", "tiles", "warnings_note"]

# Classes shown before one asks for more.
_CLASSES = 10
_FIGURES = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "below 32 &times; 32 pixels",
    "APm": "below 96 &times; 96 pixels",
    "APl": "larger objects",
    "AR100": "recall",
}
# What agreement with FP32 is shown by, lest it be taken for AP.
_AGREEMENT = {
    "Agreement": "mean over IoU 0.50 to 0.95",
    "Loosely": "at IoU 0.50",
    "Closely": "at IoU 0.75",
    "Small": "below 32 &times; 32 pixels",
    "Medium": "below 96 &times; 96 pixels",
    "Large": "larger objects",
    "Found again": "share of FP32's detections",
}
# Facts that one may want to copy, or compare letter by letter.
_LITERAL = ("command", "digest", "sha256")


def warnings_note(warnings: Sequence[str]) -> str:
    """A box with a line for each."""
    items = "".join(f"<li>{text(warning)}</li>" for warning in warnings)
    return f'<div class="warnings" role="note"><ul>{items}</ul></div>' if items else ""


def tiles(report: Report) -> str:
    """The figures that one looks for first."""
    found: list[tuple[str, str, str]] = []  # figure, what it is (both HTML), bar
    if report.accuracies and report.agreement:
        name, accuracy = report.accuracies[-1]
        found.append((f"{accuracy.AP:.4f}", f"agreement of {text(name)} with FP32, 1 in full", ""))
    elif report.accuracies:
        _, (_, first, *others) = comparison(report.accuracies)[:2]
        (reference, _), (name, _) = report.accuracies[0], report.accuracies[-1]
        if others:
            found.append((f"{others[-2]} {_change(others[-1])}", f"AP of {text(name)}; {text(reference)}: {first}", ""))
        else:
            found.append((first, f"AP of {text(name)}", ""))
    total = sum(layer.macs for layer in report.layers)
    quantized = [layer for layer in report.layers if layer.precision == "int8"]
    if quantized and total:
        share = sum(layer.macs for layer in quantized) / total
        counted = f"of {work(total)} in INT8: {len(quantized)} of {len(report.layers)} convolutions"
        found.append((percent(share), counted, bar(share, "fair")))
    noise = [(layer.sqnr, layer.name) for layer in quantized if layer.sqnr is not None]
    if noise:
        lowest, name = min(noise)
        found.append((decibels(lowest), f"lowest SQNR of an INT8 layer: {breakable(name)}", ""))
    if report.pairs:
        differing = sum(differs(marks(pair.wanted, pair.found)) for pair in report.pairs)
        found.append((f"{differing} of {len(report.pairs)}", "pictures with a detection lost, added or moved", ""))
    cells = "".join(f'<div class="tile"><b>{figure}</b><span>{what}</span>{rail}</div>' for figure, what, rail in found)
    return f'<div class="tiles">{cells}</div>' if cells else ""


def accuracy_section(report: Report) -> str:
    """All figures and all classes, side by side; "" where nothing was measured."""
    shown = report.accuracies[1:] if report.agreement else report.accuracies
    if not shown:
        return ""
    accuracy = shown[-1][1]
    figure, figures = "AP", _FIGURES
    if report.agreement:
        figure, figures = "Agreement", _AGREEMENT
        shown = [(f"{name} with FP32", values) for name, values in shown]
    header, *rows = comparison(shown)
    rows = [(name, *cells) for name, (_, *cells) in zip(figures, rows, strict=True)]
    parts = [f"<div><h3>All classes</h3>{_table([header, *rows], tuple(figures.values()))}</div>"]
    head, *classes = class_comparison(shown)
    if classes:
        rest = classes[_CLASSES:]
        more = f"<details><summary>{len(rest)} more</summary>{_table([head, *rest])}</details>" if rest else ""
        order = "what fell most first" if len(shown) > 1 else "the lowest first"
        parts.append(f"<div><h3>{figure} by class, {order}</h3>{_table([head, *classes[:_CLASSES]])}{more}</div>")
    how = f"{report.measured[:1].upper()}{report.measured[1:]}".rstrip(". ") or f"{accuracy.images:,} pictures"
    lead = f'<p class="soft">{text(how)}; {accuracy.objects:,} objects.</p>'
    return f'{lead}<div class="accuracies">{"".join(parts)}</div>'


def _table(rows: Sequence[Sequence[str]], glosses: Sequence[str] = ()) -> str:
    """Rows of accuracy.comparison as a table where a value and its change share a cell. glosses: HTML, a row each."""
    (_, *names), *body = rows
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in [names[0], *names[1::2]])
    lines = []
    for number, (name, first, *others) in enumerate(body):
        gloss = f"<small>{glosses[number]}</small>" if glosses else ""
        pairs = zip(others[::2], others[1::2], strict=True)
        cells = [_value(first), *(f"{_value(value)} {_change(change)}" for value, change in pairs)]
        lines.append(f'<tr><th scope="row">{text(name)}{gloss}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>')
    return (
        f'<div class="scroll"><table class="accuracy"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _value(cell: str) -> str:
    return "&ndash;" if cell == "-" else cell


def _change(cell: str) -> str:
    """A cell like "-0.0021", coloured; "-" where there is none to tell."""
    if cell == "-":
        return "<small></small>"
    if not cell.strip("+-0."):
        return "<small>±0</small>"
    return f'<small class="{"down" if cell[0] == "-" else "up"}">{cell.replace("-", "&minus;")}</small>'


def facts_section(report: Report) -> str:
    """Names and values in groups; "" without facts."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for name, value in report.facts:
        if value:
            shown = f"<code>{text(value)}</code>" if name.lower().endswith(_LITERAL) else text(value)
            groups[-1][1].append(f"<dt>{text(name)}</dt><dd>{shown}</dd>")
        else:
            groups.append((name, []))
    parts = [
        f"<div>{f'<h3>{text(title)}</h3>' if title else ''}<dl>{''.join(rows)}</dl></div>"
        for title, rows in groups
        if rows
    ]
    return f'<div class="facts">{"".join(parts)}</div>' if parts else ""
