"""Disjoint sets of names, against sets spelled out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_retina.rewrite.groups import Groups


def test_empty():
    groups = Groups()
    assert "a" not in groups
    assert groups.root("a") == "a"
    assert "a" not in groups


def test_by_hand():
    groups = Groups()
    groups.join("a", "b")
    groups.join("c", "d")
    groups.join("b", "d")
    assert [groups.root(name) for name in "abcde"] == ["a", "a", "a", "a", "e"]
    assert [name in groups for name in "ade"] == [True, True, False]


def test_joining_twice_or_with_itself_changes_nothing():
    groups = Groups()
    groups.join("a", "a")
    groups.join("a", "b")
    groups.join("b", "a")
    groups.join("a", "b")
    assert [groups.root(name) for name in "ab"] == ["a", "a"]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=12))
def test_sets(joins):
    groups, sets = Groups(), {name: {name} for name in "abcdefgh"}
    for first, second in joins:
        wanted = groups.root(first)
        groups.join(first, second)
        assert groups.root(second) == wanted
        both = sets[first] | sets[second]
        sets |= dict.fromkeys(both, both)
    for one in "abcdefgh":
        assert {other for other in "abcdefgh" if groups.root(other) == groups.root(one)} == sets[one]
        assert (one in groups) == any(one in join for join in joins)
