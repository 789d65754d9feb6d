"""The two plots of a benchmark's page: how the calls' times are spread, and the stages they are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_retina.bench.benchmark import Measured
from edge_retina.bench.stages import INSIDE
from edge_retina.bench.text import LABELS
from edge_retina.bench.timing import percentiles
from edge_retina.report.markup import text

__all__ = ["latency_plot", "stage_plot", "ticks"]

_BINS, _HEIGHT = 120, 54
# Beyond this times the largest 99th percentile there is only the odd call, and its number is told.
_ROOM = 1.15


def ticks(end: float) -> list[float]:
    """Some five round numbers from 0 to the end.

    >>> ticks(47.0), ticks(0.9)
    ([0, 10, 20, 30, 40], [0.0, 0.2, 0.4, 0.6, 0.8])
    """
    rough = end / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(step - rough))
    found = [number * step for number in range(int(end / step + 1e-9) + 1)]
    return [round(value) for value in found] if step >= 1 else [round(value, 6) for value in found]


def latency_plot(measured: Sequence[Measured]) -> str:
    """A histogram for each configuration, all on one axis, with lines at the median and the 99th percentile."""
    found = [percentiles(m.timing.latency_ms) for m in measured]
    end = max(each["p99_ms"] for each in found) * _ROOM
    rows = [
        _label(m, f"{each['p50_ms']:.2f} ms, 99 % below {each['p99_ms']:.2f} ms")
        + _histogram(m.timing.latency_ms, each, end)
        for m, each in zip(measured, found, strict=True)
    ]
    beyond = sum(ms > end for m in measured for ms in m.timing.latency_ms)
    note = f" {beyond} slower call{'s are' if beyond > 1 else ' is'} beyond the right edge." if beyond else ""
    legend = (
        '<p class="soft">Every call after the warm-up, heights on a square-root scale. Solid line: the median; dashed: '
        f"the 99th percentile.{note}</p>"
    )
    return f'{legend}<div class="plot">{"".join(rows)}{_axis(end, "milliseconds a call")}</div>'


def _histogram(milliseconds: Sequence[float], found: dict[str, float], end: float) -> str:
    counts, _ = np.histogram(milliseconds, _BINS, (0.0, end))
    # The root lets a single slow call be seen beside a hundred quick ones.
    heights = np.sqrt(counts / max(1, counts.max())) * _HEIGHT
    bars = "".join(
        f"M{i} {_HEIGHT}V{_HEIGHT - height:.1f}h1V{_HEIGHT}z" for i, height in enumerate(heights.tolist()) if height
    )
    lines = "".join(
        f'<line class="{kind}" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{_HEIGHT}"/>'
        for kind, x in (("mark", found["p50_ms"] / end * _BINS), ("mark tail", found["p99_ms"] / end * _BINS))
    )
    return (
        f'<svg viewBox="0 0 {_BINS} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="distribution">'
        f'<path class="bars" d="{bars}"/><line class="base" x1="0" x2="{_BINS}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f"{lines}</svg>"
    )


def stage_plot(measured: Sequence[Measured]) -> str:
    """A bar for each configuration, made of its stages' means; "" where nothing was profiled."""
    stacks = []
    for m in measured:
        if m.profile is not None:
            means = {stage: sum(ms) / len(ms) for stage, ms in m.profile.stages.items()}
            stacks.append((m, means))
    if not stacks:
        return ""
    end = max(sum(means.values()) for _, means in stacks) * 1.02
    used = [stage for stage in INSIDE if any(stage in means for _, means in stacks)]
    rows = [_label(m, f"{sum(means.values()):.2f} ms with the profiler on") + _stack(means, end) for m, means in stacks]
    legend = "".join(
        f'<span><svg class="key" viewBox="0 0 14 14" aria-hidden="true">'
        f'<rect class="s-{stage}" width="14" height="14"/></svg>{LABELS[stage]}</span>'
        for stage in used
    )
    axis = _axis(end, "milliseconds a call, mean")
    return f'<p class="legend">{legend}</p><div class="plot">{"".join(rows)}{axis}</div>'


def _stack(means: dict[str, float], end: float) -> str:
    x, parts = 0.0, []
    for stage in INSIDE:
        if stage in means:
            width = means[stage] / end * 1000
            title = f"{LABELS[stage]}: {means[stage]:.3f} ms, {means[stage] / sum(means.values()):.1%}"
            parts.append(
                f'<rect class="s-{stage}" x="{x:.2f}" y="2" width="{width:.2f}" height="26">'
                f"<title>{title}</title></rect>"
            )
            x += width
    return (
        '<svg class="stack" viewBox="0 0 1000 30" preserveAspectRatio="none" role="img" aria-label="stages">'
        f"{''.join(parts)}</svg>"
    )


def _label(measured: Measured, under: str) -> str:
    timing = measured.timing
    batch = f", batch {timing.batch}" if timing.batch > 1 else ""
    return f'<p class="label">{text(timing.name + batch)}<small>{text(under)}</small></p>'


def _axis(end: float, unit: str) -> str:
    """Not scaled, unlike the plots above it, or its letters would be; so it places them by shares of its width."""
    marks = "".join(
        f'<line class="base" x1="{value / end:.2%}" x2="{value / end:.2%}" y1="0" y2="5"/>'
        f'<text x="{value / end:.2%}" y="18">{value:g}</text>'
        for value in ticks(end)
    )
    return (
        f'<svg class="axis" role="img" aria-label="{unit}"><line class="base" x1="0" x2="100%" y1="0" y2="0"/>{marks}'
        f'<text class="unit" x="100%" y="32">{unit}</text></svg>'
    )
