"""A benchmark as one page that loads nothing: numbers, plots, stages, layers, machine."""

from __future__ import annotations

from collections.abc import Iterable

from edge_retina.bench.benchmark import LAYERS, Benchmark, Measured
from edge_retina.bench.ends import Ends
from edge_retina.bench.plots import latency_plot, stage_plot
from edge_retina.bench.text import headline, layer_rows, machine_lines, stage_rows, trailer
from edge_retina.bench.timing import percentiles
from edge_retina.report.markup import bar, breakable, text
from edge_retina.report.overview import warnings_note
from edge_retina.report.shell import page

__all__ = ["render_page"]

_STAGES_NOTE = (
    "The stages between capture and sinks are from a pass of its own with the runtime's profiler on, which makes it "
    "slower; end to end, from a frame in memory to its detections, is from the timing without it. Sinks have a thread "
    "of their own when a stream runs."
)
_LAYERS_NOTE = f"The {LAYERS} slowest, by the names of your model; share of the profiled calls."


def render_page(found: Benchmark, ends: Ends) -> bytes:
    """The page, UTF-8."""
    measured = found.measured
    names = " and ".join(dict.fromkeys(m.timing.name for m in measured))
    return page(
        names if len(names) < 80 else f"{len(measured)} configurations",
        f"edge-retina, timing of {found.started}",
        headline(min(measured, key=lambda m: m.timing.mean_ms / m.timing.batch)),
        {
            "Latency": latency_plot(measured),
            "Stages": _stages(measured, ends),
            "Layers": _layers(measured),
            "Facts": _facts(found, ends),
        },
        above=f"{warnings_note(found.warnings)}{_tiles(measured)}",
        styles=("page.css", "timing.css"),
    )


def _tiles(measured: Iterable[Measured]) -> str:
    cells = []
    for m in measured:
        timing = m.timing
        batch = f", batch {timing.batch}" if timing.batch > 1 else ""
        beside = "" if m.ratio is None else f"; {m.ratio.text} the first's speed"
        what = f"{timing.name} on {timing.runtime}{batch}: {timing.fps:.1f} fps{beside}"
        ms = percentiles(timing.latency_ms)["p50_ms"]
        cells.append(
            f'<div class="tile"><b>{ms:.2f} <small>ms</small></b><span class="detail">{text(what)}</span></div>'
        )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _stages(measured: Iterable[Measured], ends: Ends) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("stage", "p50 ms", "p90", "p99", "p99.9", "share"))
    tables = []
    for number, m in enumerate(measured):
        rows = stage_rows(m, *((ends.capture_ms, ends.sinks_ms) if number == 0 else ()))
        body = "".join(
            f'<tr{" class=end" if row is rows[-1] else ""}><th scope="row">{text(row[0])}</th>'
            f"{''.join(f'<td>{text(cell)}</td>' for cell in row[1:])}</tr>"
            for row in rows
        )
        tables.append(
            f'<h3>{text(_name(m))}</h3><div class="scroll"><table class="times"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    return f'{stage_plot(list(measured))}<p class="soft">{text(_STAGES_NOTE)}</p>{"".join(tables)}'


def _layers(measured: Iterable[Measured]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("layer", "kind", "stage", "ms", "share"))
    tables = []
    for m in measured:
        rows = layer_rows(m)
        if not rows:
            continue
        largest = max(float(row[-1].rstrip("%")) for row in rows) or 1.0
        body = "".join(
            f'<tr><th scope="row">{breakable(name)}</th><td>{text(kind)}</td><td>{text(stage)}</td><td>{ms}</td>'
            f"<td>{share}{bar(float(share.rstrip('%')) / largest, 'fair')}</td></tr>"
            for name, kind, stage, ms, share in rows
        )
        tables.append(
            f'<h3>{text(_name(m))}</h3><div class="scroll"><table class="slowest"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    return f'<p class="soft">{text(_LAYERS_NOTE)}</p>{"".join(tables)}' if tables else ""


def _facts(found: Benchmark, ends: Ends) -> str:
    lines = [("source", ends.source), *(("machine", line) for line in machine_lines(found, ends.loop))]
    lines += [(_name(m), line) for m in found.measured for line in trailer(m)]
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(line)}</dd>" for name, line in lines)
    return f"<dl>{rows}</dl>"


def _name(measured: Measured) -> str:
    timing = measured.timing
    return timing.name + (f", batch {timing.batch}" if timing.batch > 1 else "")
