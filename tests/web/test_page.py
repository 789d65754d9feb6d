"""The page's files against what browsers and eyes ask of them."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

HERE = files("edge_retina.web")
NAMES = ("page.html", "login.html", "page.css", "page.js", "plot.js", "icon.svg")
NAMESPACE = "http://www.w3.org/2000/svg"
# Text colours and what they stand on.
PAIRS = [(ink, back) for ink in ("ink", "soft", "accent", "bad") for back in ("page", "card")]
PAIRS += [("good", "good-back"), ("bad", "bad-back"), ("note", "note-back")]
LINES = [(f"s{number}", "card") for number in range(7)]


def text(name: str) -> str:
    return HERE.joinpath(name).read_text(encoding="utf-8")


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", text("page.css"), re.S)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark if scheme == "dark" else light))


def contrast(first: str, second: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_hand() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_from_elsewhere(name: str) -> None:
    assert "//" not in re.sub(r"^\s*//.*$|// .*$", "", text(name).replace(NAMESPACE, ""), flags=re.M)


@pytest.mark.parametrize("name", ["page.html", "login.html"])
def test_nothing_that_the_policy_forbids(name: str) -> None:
    html = text(name)
    assert not re.search(r"<style|style=|<script>|\son\w+=|javascript:", html)
    assert '<html lang="en">' in html
    assert "width=device-width" in html


@pytest.mark.parametrize("name", ["page.js", "plot.js"])
def test_names_of_models_and_cameras_stay_text(name: str) -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|setAttribute\(.style", text(name)
    )


def test_what_the_script_looks_for_is_there() -> None:
    ids = set(re.findall(r'\bid="([\w-]+)"', text("page.html")))
    assert set(re.findall(r'find\("([\w-]+)"\)', text("page.js"))) <= ids
    assert set(re.findall(r'labelledby="([\w-]+)"', text("page.html"))) <= ids


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(scheme: str) -> None:
    palette = colours(scheme)
    assert set(re.findall(r"var\(--([\w-]+)\)", text("page.css"))) == set(palette)
    for ink, back in PAIRS:
        assert contrast(palette[ink], palette[back]) >= 4.5, (ink, back)
    for line, back in LINES:
        assert contrast(palette[line], palette[back]) >= 3, line
