from __future__ import annotations

import pytest

from edge_retina.errors import UsageError
from edge_retina.query import read_query

EXAMPLE = "out.x?size=1&keep=2"


def read(query: str) -> dict[str, str]:
    return read_query(query, ("size", "keep"), example=EXAMPLE)


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("", {}),
        ("size=100MB", {"size": "100MB"}),
        ("keep=2&size=1", {"size": "1", "keep": "2"}),
        ("size=a%20b+c", {"size": "a b c"}),
        ("size=a=b", {"size": "a=b"}),
    ],
)
def test_options_by_name(query: str, options: dict[str, str]) -> None:
    assert read(query) == options


@pytest.mark.parametrize("query", ["Size=1", "other=1", "size", "size=", "size=1&other="])
def test_what_is_not_known_or_has_no_value(query: str) -> None:
    with pytest.raises(UsageError, match=r"wanted size= and keep= behind the \?, found .*out\.x\?size=1&keep=2"):
        read(query)


def test_given_twice() -> None:
    with pytest.raises(UsageError, match="size= is given twice"):
        read("size=1&keep=2&size=1")
