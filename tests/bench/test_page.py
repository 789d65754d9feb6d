"""The page of a benchmark: whole, quiet, and the plots by hand."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from edge_retina.bench.benchmark import Benchmark, Case, Measured
from edge_retina.bench.ends import Ends
from edge_retina.bench.machine import Machine, Memory
from edge_retina.bench.page import render_page
from edge_retina.bench.plots import latency_plot, stage_plot, ticks
from edge_retina.bench.ratio import Ratio
from edge_retina.bench.stages import LayerTime, Profile
from edge_retina.bench.timing import Subject, Timing

EVIL = '<script>alert("x")</script>'


def measured(name: str = "m.edge", *, profile: bool = True, ratio: Ratio | None = None, batch: int = 1) -> Measured:
    timing = Timing(name, "ort", (10.0, 12.0, 11.0, 40.0), (11.0, 25.5), (90.0,), batch)
    inside = Profile(
        {"preprocess": (1.0, 1.0), "trunk": (8.0, 10.0), "host": (1.0, 1.0)},
        (10.0, 12.0),
        (LayerTime(f"{name}/conv", "Conv", "trunk", 9.0),),
    )
    case = Case(Subject(name, "ort", print, batch), facts={"load_ms": 5.0, "first_ms": 20.0}, memory_mib=12.5)
    return Measured(case, timing, inside if profile else None, ratio)


def page(*found: Measured, governor: str = "") -> str:
    machine = Machine("EPYC", ("avx2",), 2, 2, governor, 1000, "Linux", "3.11", {"numpy": "2.0"})
    result = Benchmark(found, machine, Memory(100.0, 200.0), 0.5, "2026-01-01T00:00:00Z")
    return render_page(result, Ends("video.mp4", (1.0, 2.0), (0.5,), None)).decode()


class Tags(HTMLParser):
    """Every tag is closed, and by its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr", "rect", "line", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "path"):
            assert self.open.pop() == tag


def test_nothing_was_profiled() -> None:
    text = page(measured(profile=False))
    assert 'id="layers"' not in text
    assert stage_plot([measured(profile=False)]) == ""
    assert 'id="latency"' in text


def test_the_page_is_whole_and_loads_nothing() -> None:
    text = page(measured(), measured("other.edge", ratio=Ratio(1.5, 1.4, 1.6), batch=4), governor="powersave")
    tags = Tags(text)
    assert tags.open == []
    assert not [attrs for _, attrs in tags.seen if "style" in attrs or "src" in attrs or "onclick" in attrs]
    assert "http" not in re.sub("http-equiv", "", text)
    assert "script-src 'none'" in text
    for word in ("1.50 x (1.40 to 1.60)", "other.edge, batch 4", "governor powersave", "others took 50%", "EPYC"):
        assert word in text


def test_names_are_shown_as_they_are() -> None:
    text = page(measured(EVIL))
    assert EVIL not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("end", "wanted"),
    [(47.0, [0, 10, 20, 30, 40]), (0.9, [0, 0.2, 0.4, 0.6, 0.8]), (5.0, [0, 1, 2, 3, 4, 5]), (1200, [0, 200, 400])],
)
def test_ticks_are_round(end: float, wanted: list[float]) -> None:
    assert ticks(end)[: len(wanted)] == pytest.approx(wanted)
    assert ticks(end)[-1] <= end


def test_widths_of_a_stack_are_the_means() -> None:
    widths = [
        float(w) for w in re.findall(r'class="s-\w+" x="[\d.]+" y="2" width="([\d.]+)"', stage_plot([measured()]))
    ]
    assert sum(widths) == pytest.approx(1000 / 1.02, abs=0.1)
    assert widths[1] / widths[0] == pytest.approx(9, abs=0.01)


def test_the_median_is_where_its_line_is() -> None:
    plot = latency_plot([measured()])
    x = float(re.findall(r'<line class="mark" x1="([\d.]+)"', plot)[0])
    p99 = 12 + (40 - 12) * 0.97
    assert x == pytest.approx(120 * 11.5 / (p99 * 1.15), abs=0.01)
    assert "1 slower call is beyond" in latency_plot([Measured(measured().case, odd(), None, None)])


def odd() -> Timing:
    """One call of many that was far slower than the 99th percentile."""
    return Timing("m", "ort", (*[10.0] * 300, 500.0), (10.0,))
