from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from edge_retina.accuracy import Accuracy
from edge_retina.calibrate.histogram import BINS, Histogram
from edge_retina.evaluate import REFERENCE_SCORE
from edge_retina.report import Layer, Pair, Report, render
from edge_retina.report.content import MAX_PAIRS
from edge_retina.report.layers import clipped_share, histogram_figure, percent, work
from edge_retina.report.markup import breakable, text
from edge_retina.report.pairs import COUNTED_SCORE, differs, marks
from edge_retina.types import U8, Detections

EMPTY = Report("digits.edge", "fp32", "FP32: not measured.")
EVIL = '</title></script><script>alert("1")</script>&\'\x00\udcff'
NAMES = ("cat", "dog")
# Elements without an end tag.
VOID = {"meta", "br", "wbr", "col"}

Row = tuple[float, float, float, float, float, int]  # x1 y1 x2 y2 score label


class Page(HTMLParser):
    """Checks that tags are balanced; keeps elements and the text in them."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str]]:
        return [at for name, at in self.elements if name == tag and kind in (None, at.get("class"))]


def detections(*rows: Row, shape: tuple[int, int] = (100, 100), names: Sequence[str] = NAMES) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32), tuple(names), shape)


def accuracy(ap: float, **per_class: float) -> Accuracy:
    return Accuracy(ap, 0.9, 0.8, -1.0, 0.7, 0.6, 0.1, 0.2, 0.75, per_class, 12, 34)


def histogram(*values: float) -> Histogram:
    result = Histogram()
    result.add(np.array(values, np.float32))
    return result


def grey(height: int = 100, width: int = 100) -> U8:
    return np.full((height, width, 3), 128, np.uint8)


CAT = (10.0, 10.0, 50.0, 50.0, 0.9, 0)
# The left 32 of CAT's 40 columns: IoU 0.8.
MOVED = (10.0, 10.0, 42.0, 50.0, 0.9, 0)
DOG = (60.0, 60.0, 90.0, 90.0, 0.8, 1)


def test_nothing_known_gives_title_and_verdict() -> None:
    page = Page(render(EMPTY))
    assert "digits.edge" in page.text
    assert "FP32: not measured." in page.text
    assert page.all("section") == page.all("table") == page.all("svg") == []


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render(EMPTY) == render(EMPTY)


def full(name: str = "plain") -> Report:
    cat = detections(CAT, names=(name, name))
    return Report(
        title=name,
        precision="int8",
        verdict=name,
        accuracies=[("FP32", accuracy(0.75, **{name: 0.5})), (name, accuracy(0.74, **{name: 0.4}))],
        measured=name,
        layers=[
            Layer(name, 900, "int8", 2.0, histogram(1, 3), 33.3, 0.0123),
            Layer(name, 100, "float", why=name),
        ],
        pairs=[Pair(name, grey(), cat, detections(names=(name, name)))],
        facts=[(name, ""), (name, name), ("Command", name)],
        warnings=[name],
    )


def test_whatever_comes_from_outside_is_escaped() -> None:
    # Where a plain name makes so many elements, one full of markup makes as many.
    plain, evil = Page(render(full())), Page(render(full(EVIL)))
    assert [tag for tag, _ in evil.elements if tag != "wbr"] == [tag for tag, _ in plain.elements if tag != "wbr"]
    assert len(evil.all("script")) == 1
    page = render(full(EVIL))
    assert b"alert(&quot;" in page
    assert b"<script>alert" not in page
    assert b"\x00" not in page


def test_text() -> None:
    assert text("a<b>\"'&") == "a&lt;b&gt;&quot;&#x27;&amp;"
    assert text("a\x00b\udcff\tc") == "a\ufffdb\ufffd\tc"
    assert breakable("/model/p.7<") == "/model/<wbr>p.<wbr>7&lt;"


def test_the_page_loads_nothing() -> None:
    page = Page(render(full()))
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "style"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    assert b"http:" not in render(full())
    assert b"https:" not in render(full())
    assert b"@import" not in render(full())
    assert b"url(" not in render(full())


def test_the_policy_allows_the_page_its_own_style_and_script_only() -> None:
    source = render(full()).decode()
    policy = next(at["content"] for at in Page(source.encode()).all("meta") if "http-equiv" in at)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_link_leads_to_a_section() -> None:
    page = Page(render(full()))
    targets = [at["href"] for at in page.all("a")]
    assert targets == [f"#{at['id']}" for at in page.all("section")]
    assert targets == ["#accuracy", "#pictures", "#left-in-float", "#facts", "#layers"]


def test_precisions_stand_side_by_side() -> None:
    both = [("FP32", accuracy(0.75)), ("FP16", accuracy(0.75)), ("INT8", accuracy(0.748))]
    source = render(Report("m", "int8", "v", accuracies=both, measured="by labels")).decode()
    page = Page(source.encode())
    assert [t for t in page.text if t in ("FP32", "FP16", "INT8")] == ["FP32", "FP16", "INT8"]
    assert (
        '<td>0.7500</td><td>0.7500 <small>±0</small></td><td>0.7480 <small class="down">&minus;0.0020</small>' in source
    )
    # No small objects: nothing to tell, neither a value nor a change.
    assert "<td>&ndash;</td><td>&ndash; <small></small></td>" in source
    assert "By labels; 34 objects." in page.text


def test_one_accuracy_alone() -> None:
    page = Page(render(Report("m", "fp32", "v", accuracies=[("FP32", accuracy(0.75, cat=0.7))])))
    assert "AP of FP32" in page.text
    assert "12 pictures; 34 objects." in page.text
    assert "AP by class, the lowest first" in page.text


def test_agreement_is_not_called_ap() -> None:
    both = [("FP32", accuracy(1.0, Small=1.0)), ("INT8", accuracy(0.9964, Small=0.99))]
    source = render(Report("m", "int8", "v", accuracies=both, measured="how", agreement=True)).decode()
    page = Page(source.encode())
    assert not [t for t in page.text if re.search(r"\bAP|1\.0000", t) and "{" not in t]
    assert "agreement of INT8 with FP32, 1 in full" in page.text
    assert page.text.count("INT8 with FP32") == 2
    assert "FP32" not in page.text
    assert page.text.count("0.9964") == 2  # tile and table
    assert "Agreement by class, the lowest first" in page.text
    # FP32 alone: nothing to agree with, nothing to tell.
    alone = Page(render(Report("m", "fp32", "v", accuracies=both[:1], agreement=True)))
    assert not alone.all("table")


def test_many_classes_are_folded() -> None:
    values = {f"class {i}": i / 100 for i in range(12)}
    page = Page(render(Report("m", "fp32", "v", accuracies=[("FP32", accuracy(0.5, **values))])))
    assert "2 more" in page.text
    assert set(values) <= set(page.text)


def test_clipped_share() -> None:
    # Bins of 4 / 4096: of 1, 2, 2.5 and 3 two lie beyond 2; 2 itself is in the bin of the range.
    assert clipped_share(histogram(1, 2, 2.5, 3), 2.0) == 0.5
    assert clipped_share(histogram(1, 3), 3.0) == 0
    assert clipped_share(Histogram(), 1.0) == 0


def test_histogram_figure() -> None:
    assert histogram_figure(Histogram(), 1.0) == ""
    # 0..4, a column is 1/16: 1 is in column 16, 4 in the last one, the range of 2 in the middle.
    figure = histogram_figure(histogram(1, 3.9999), 2.0)
    assert re.findall(r'class="(h-\w+)"', figure) == ["h-in", "h-out", "h-range"]
    assert 'x1="32.0"' in figure
    inside = re.search(r'd="M0 24(\S+)z"', figure)
    assert inside is not None
    steps = re.findall(r"V(\d+)h1", inside[1])
    assert [i for i, step in enumerate(steps) if step == "0"] == [16]
    # A range beyond the largest value: nothing is clipped, the line stands at the end.
    figure = histogram_figure(histogram(1, 2), 4.0)
    assert "h-out" not in figure
    assert 'x1="64.0"' in figure
    assert "h-range" not in histogram_figure(histogram(1, 2), 0.0)


def test_a_layer_without_measurements() -> None:
    page = Page(render(Report("m", "int8", "v", layers=[Layer("conv", 0, "float")])))
    assert [at["class"] for at in page.all("td")] == ["number", "share", "kind"]
    assert "No reason given" in page.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_range_that_is_none(value: float) -> None:
    page = Page(render(Report("m", "int8", "v", layers=[Layer("conv", 1, "int8", value, histogram(1))])))
    assert "Range" not in page.text
    assert not page.all("line", "h-range")


def test_layers_say_what_each_is() -> None:
    layers = [
        Layer("stem", 750, "int8", 2.0, histogram(1, 3), 12.3),
        Layer("body", 200, "int8", 4.0, histogram(1, 4), float("inf")),
        Layer("head", 50, "float", why="last convolution"),
    ]
    source = render(Report("m", "int8", "v", layers=layers)).decode()
    page = Page(source.encode())
    shown = " ".join(page.text)
    assert "95 %" in page.text
    assert "of 1 kMAC in INT8: 2 of 3 convolutions" in page.text
    assert "last convolution" in page.text
    assert " (1 layer, 5 % of the work)" in page.text
    assert "12.3 dB" in page.text
    assert "exact" in shown
    assert [at["class"] for at in page.all("rect") if at.get("height") == "24.6"] == ["weak"]
    assert "Cost" not in page.text
    assert len(page.all("svg", "histogram")) == 2
    # Range 2, values 1 and 3.
    assert '<td class="value" data-label="Clipped" data-value="0.5">50 %</td>' in source


def test_an_fp16_build_has_nothing_left_in_float() -> None:
    page = Page(render(Report("m", "fp16", "v", layers=[Layer("conv", 10, "float")])))
    assert [at["id"] for at in page.all("section")] == ["layers"]


def test_numbers_as_text() -> None:
    assert [percent(x) for x in (0, 0.0004, 0.5, 0.123, 0.9999, 1)] == [
        "0 %",
        "< 0.1 %",
        "50 %",
        "12.3 %",
        "> 99.9 %",
        "100 %",
    ]
    assert [work(x) for x in (0, 999, 1500, 2_500_000, 4 * 10**9)] == [
        "0 MAC",
        "999 MAC",
        "1.5 kMAC",
        "2.5 MMAC",
        "4 GMAC",
    ]


def test_what_counts_is_what_agreement_counts() -> None:
    assert COUNTED_SCORE == REFERENCE_SCORE


def test_marks_of_nothing() -> None:
    seen = marks(detections(), detections())
    assert (seen.pairs, seen.missing, seen.extra, seen.difference) == ((), (), (), 0)
    assert not differs(seen)


def test_marks_by_hand() -> None:
    bird = (60.0, 10.0, 80.0, 30.0, 0.7, 0)
    seen = marks(detections(CAT, DOG), detections(MOVED, bird))
    assert [(i, j, round(overlap, 6)) for i, j, overlap in seen.pairs] == [(0, 0, 0.8)]
    assert (seen.shifted, seen.missing, seen.extra) == (1, (1,), (1,))
    # DOG's score, bird's score, 1 - IoU.
    assert seen.difference == pytest.approx(0.8 + 0.7 + 0.2)


def test_marks_know_labels() -> None:
    seen = marks(detections(CAT), detections((*CAT[:5], 1)))
    assert (seen.pairs, seen.missing, seen.extra) == ((), (0,), (0,))


def test_the_closest_are_partners() -> None:
    # The better score overlaps by 0.8, the exact one comes second.
    seen = marks(detections(CAT), detections(MOVED, (*CAT[:4], 0.5, 0)))
    assert seen.pairs == ((0, 1, 1.0),)
    assert seen.extra == (0,)


def test_a_score_that_crosses_the_line_is_no_difference() -> None:
    low = (*CAT[:4], 0.1, 0)
    assert not differs(marks(detections(CAT), detections(low)))
    assert not differs(marks(detections(low), detections()))
    assert marks(detections(low), detections(low)).pairs == ()


def test_boxes_without_area_are_left_out() -> None:
    assert not differs(marks(detections((5, 5, 5, 20, 0.9, 0)), detections()))


def test_differing_boxes_are_marked_in_the_picture_they_are_in() -> None:
    pair = Pair("a.jpg", grey(), detections(CAT, DOG), detections(MOVED))
    source = render(Report("m", "int8", "v", pairs=[pair])).decode()
    left, right = re.findall(r'<svg class="picture".*?</svg>', source)
    assert re.findall(r'<g class="(\w+)">', left) == ["shifted", "missing"]
    assert re.findall(r'<g class="(\w+)">', right) == ["shifted"]
    # 100 pixels are drawn 640 wide.
    assert '<rect x="384.0" y="384.0" width="192.0" height="192.0"/>' in left
    assert re.findall(r"<text [^>]*>(.*?)</text>", left) == ["IoU 0.80", "dog 0.80"]
    assert re.findall(r"<text [^>]*>(.*?)</text>", right) == ["IoU 0.80"]
    assert "0 the same, 1 moved, 1 only in FP32, 0 only in INT8" in source
    assert "pictures with a detection lost, added or moved" in source


def test_the_most_different_pictures_come_first() -> None:
    cat, none = detections(CAT), detections()
    pairs = [
        Pair("same", grey(), cat, cat),
        Pair("moved", grey(), cat, detections(MOVED)),
        Pair("lost", grey(), cat, none),
    ]
    assert re.findall(r"<h3>(\w+)</h3>", render(Report("m", "int8", "v", pairs=pairs)).decode()) == ["lost", "moved"]
    many = render(Report("m", "int8", "v", pairs=pairs[2:] * 20)).decode()
    assert len(Page(many.encode()).all("image")) == MAX_PAIRS
    assert "The 8 most different are shown." in many


def test_pictures_are_scaled_and_the_page_stays_small() -> None:
    # Noise is what compresses worst.
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    pairs = [Pair(str(i), noise, detections(CAT, shape=(720, 1280)), detections()) for i in range(MAX_PAIRS)]
    page = render(Report("m", "int8", "v", pairs=pairs))
    assert len(page) < 1_500_000
    uri = Page(page).all("image")[0]["href"].removeprefix("data:image/jpeg;base64,")
    image = cv2.imdecode(np.frombuffer(base64.b64decode(uri), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (360, 640, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (300, 100)])
def test_pictures_of_any_shape(shape: tuple[int, int]) -> None:
    none = detections(shape=shape)
    assert len(Page(render(Report("m", "int8", "v", pairs=[Pair("x", grey(*shape), none, none)]))).all("image")) == 1


def test_a_hundred_layers_fit() -> None:
    values = np.random.default_rng(0).exponential(1, 10_000)
    layer = Layer("/backbone/layer1/layer1.0/conv1/Conv_output_0", 10**8, "int8", 4.0, histogram(*values), 30.0)
    assert BINS == 4096
    assert len(render(Report("m", "int8", "v", layers=[layer] * 100))) < 200_000
