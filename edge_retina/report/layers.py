"""The convolutions: what each costs, its precision, the range of its input and the noise that INT8 brings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from edge_retina.calibrate.histogram import BINS, Histogram
from edge_retina.report.content import Layer, Report
from edge_retina.report.markup import bar, breakable, text

__all__ = ["clipped_share", "decibels", "float_section", "histogram_figure", "layers_section", "percent", "work"]

# Noise of 1 % of the signal's energy.
WEAK_DB = 20.0
# Where the bars end: INT8 seldom gives more.
FULL_DB = 50.0
_COLUMNS, _HEIGHT = 64, 24
# What is not known sorts behind all that is: on a first click, SQNR goes up, the others down.
_UNKNOWN = 1e9
# Column of the table: its CSS class, its title, and how a first click sorts it ("" for not at all).
_TABLE = (
    ("number", "#", "up"),
    ("name", "Layer", "up"),
    ("share", "Work", "down"),
    ("kind", "Type", "up"),
    ("sqnr", "SQNR", "up"),
    ("value", "Range", "down"),
    ("value", "Largest", "down"),
    ("value", "Clipped", "down"),
    ("histogram", "Values of the input", ""),
    ("value", "Cost", "down"),
)
_LEGEND = (
    "Work: share of the multiply-accumulates of all convolutions. SQNR: signal to quantization noise of the layer "
    f"alone in INT8; red below {WEAK_DB:.0f} dB, where the noise is more than 1 % of the signal's energy. Range: "
    "magnitude of the input that gets code 127; what lies beyond is clipped. Largest: the largest magnitude in the "
    "calibration pictures. Values of the input: their magnitudes from 0 on, counts on a logarithmic scale; the red "
    "line marks the range."
)
_COST = " Cost: disagreement with the float model when this layer, and what shares its weight, alone is in INT8."


def clipped_share(histogram: Histogram, limit: float) -> float:
    """Share of the counted values, 0..1, in the bins beyond the one that `limit` lies in."""
    total = int(histogram.counts.sum())
    return int(histogram.counts[_bin(histogram, limit) + 1 :].sum()) / total if total else 0.0


def _bin(histogram: Histogram, value: float) -> int:
    return min(int(value / histogram.width), BINS - 1)


def histogram_figure(histogram: Histogram, limit: float) -> str:
    """Magnitudes from 0 to the largest, logarithmic counts; a line at `limit`, what lies beyond it in another colour.

    limit: 0.0 for none.
    """
    end = max(histogram.maximum, limit)
    if end <= 0 or not histogram.counts.any():
        return ""
    used = _bin(histogram, end) + 1
    heights = np.log1p(np.bincount(np.arange(used) * _COLUMNS // used, histogram.counts[:used], _COLUMNS))
    # Rounded up, so that a single value shows.
    levels = np.ceil(heights / heights.max() * _HEIGHT).astype(int).tolist()
    x = limit / end * _COLUMNS
    border = math.ceil(x) if limit else _COLUMNS
    line = f'<line class="h-range" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}"/>' if limit else ""
    return (
        f'<svg class="histogram" viewBox="0 0 {_COLUMNS} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f"{_steps(levels[:border], 0, 'h-in')}{_steps(levels[border:], border, 'h-out')}{line}</svg>"
    )


def _steps(levels: Sequence[int], start: int, kind: str) -> str:
    if not any(levels):
        return ""
    steps = "".join(f"V{_HEIGHT - level}h1" for level in levels)
    return f'<path class="{kind}" d="M{start} {_HEIGHT}{steps}V{_HEIGHT}z"/>'


def layers_section(report: Report) -> str:
    """A strip of all layers and a table, a row per layer; "" without layers."""
    layers = report.layers
    if not layers:
        return ""
    total = sum(layer.macs for layer in layers)
    rows = [_cells(number, layer, total) for number, layer in enumerate(layers, 1)]
    # A column that no layer fills is left out.
    kept = [i for i in range(len(_TABLE)) if any(row[i][1] for row in rows)]
    columns = "".join(f'<col class="w-{_TABLE[i][0]}">' for i in kept)
    head = "".join(_head(*_TABLE[i]) for i in kept)
    body = "\n".join(f"<tr>{''.join(_cell(i, *row[i]) for i in kept)}</tr>" for row in rows)
    legend = _LEGEND + (_COST if any(layer.cost is not None for layer in layers) else "")
    return (
        f'{_strip(layers, total)}<p class="soft">{text(legend)}</p>'
        f'<div class="scroll"><table class="layers"><colgroup>{columns}</colgroup>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _head(kind: str, title: str, sort: str) -> str:
    data = f' data-sort="{sort}"' if sort else ""
    return f'<th scope="col" class="{kind}"{data}>{title}</th>'


def _cell(column: int, value: float | None, shown: str) -> str:
    kind, title, _ = _TABLE[column]
    if kind == "name":
        return f'<th scope="row" class="name">{shown}</th>'
    # Finite, for the script reads infinity in another spelling.
    data = "" if value is None else f' data-value="{min(max(value, -_UNKNOWN), _UNKNOWN):.6g}"'
    return f'<td class="{kind}" data-label="{title}"{data}>{shown}</td>'


def _cells(number: int, layer: Layer, total: int) -> list[tuple[float | None, str]]:
    """Of each column of _TABLE: the number to sort by, None where it is the text, and HTML."""
    share = layer.macs / total if total else 0.0
    name = breakable(layer.name) + (f"<small>{text(layer.why)}</small>" if layer.why else "")
    chip = "INT8" if layer.precision == "int8" else text(layer.precision)
    none: tuple[float | None, str] = (-_UNKNOWN, "")
    cost = limit = largest = clipped = figure = none
    sqnr: tuple[float | None, str] = (_UNKNOWN, "")
    if layer.sqnr is not None:
        sqnr = layer.sqnr, decibels(layer.sqnr) + bar(layer.sqnr / FULL_DB, _strength(layer.sqnr))
    if layer.cost is not None:
        cost = layer.cost, f"{layer.cost:.4f}"
    border = layer.range if 0 < layer.range < math.inf else 0.0
    if border:
        limit = border, f"{border:.3g}"
    if layer.histogram is not None:
        largest = layer.histogram.maximum, f"{layer.histogram.maximum:.3g}"
        figure = None, histogram_figure(layer.histogram, border)
        if border:
            beyond = clipped_share(layer.histogram, border)
            clipped = beyond, percent(beyond)
    return [
        (number, str(number)),
        (None, name),
        (share, percent(share)),
        (None, f'<span class="chip {"int8" if layer.precision == "int8" else "float"}">{chip}</span>'),
        sqnr,
        limit,
        largest,
        clipped,
        figure,
        cost,
    ]


def _strength(sqnr: float) -> str:
    return "weak" if sqnr < WEAK_DB else "fair"


def _strip(layers: Sequence[Layer], total: int) -> str:
    """All layers side by side in graph order: width the work, height the SQNR, colour the precision."""
    measured = any(layer.sqnr is not None for layer in layers)
    parts, x = [], 0.0
    for layer in layers:
        width = layer.macs / total * 1000 if total else 0.0
        height, kind, noise = 100.0, "fair", ""
        if layer.sqnr is not None:
            height, noise = min(max(layer.sqnr / FULL_DB, 0.02), 1.0) * 100, f", SQNR {decibels(layer.sqnr)}"
            kind = _strength(layer.sqnr)
        if layer.precision != "int8":
            kind = "float"
        title = text(f"{layer.name}: {layer.precision}, {percent(width / 1000)} of the work{noise}")
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{100 - height:.1f}" width="{width:.1f}" height="{height:.1f}">'
            f"<title>{title}</title></rect>"
        )
        x += width
    scale = '<span class="db20"><i>20 dB</i></span><span class="db40"><i>40 dB</i></span>' if measured else ""
    caption = "All convolutions in the order of the graph. Width: share of the work. " + (
        "Height: SQNR in INT8. Grey: left in float." if measured else "Grey: in float."
    )
    picture = f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    return f'<p class="soft">{caption}</p><div class="strip">{picture}{scale}</div>'


def float_section(report: Report) -> str:
    """What an INT8 build left in float, by reason, the most work first; "" where that is nothing."""
    total = sum(layer.macs for layer in report.layers)
    reasons: dict[str, list[Layer]] = defaultdict(list)
    for layer in report.layers:
        if layer.precision != "int8" and report.precision == "int8":
            reasons[layer.why or "No reason given"].append(layer)
    items = []
    for why, layers in sorted(reasons.items(), key=lambda item: -sum(layer.macs for layer in item[1])):
        share = percent(sum(layer.macs for layer in layers) / total) if total else "0 %"
        count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}, {share} of the work"
        names = ", ".join(f"<code>{breakable(layer.name)}</code>" for layer in layers)
        items.append(f"<li><b>{text(why)}</b> ({count})<br>{names}</li>")
    return f'<ul class="reasons">{"".join(items)}</ul>' if items else ""


def decibels(value: float) -> str:
    """As text; infinite where nothing was lost."""
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"


def percent(share: float) -> str:
    """As text, never 0 for a share that is not, nor 100 for one that is less."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{share * 100:.1f} %".replace(".0 %", " %")


def work(macs: int) -> str:
    """Multiply-accumulates as text."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if macs >= size:
            return f"{macs / size:.3g} {unit}MAC"
    return f"{macs} MAC"
