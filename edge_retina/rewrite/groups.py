"""Disjoint sets of tensor names."""

from __future__ import annotations

__all__ = ["Groups"]


class Groups:
    """Names that were joined, directly or through others, have one root: the first name of the first join."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        """True for a name that was ever joined with something."""
        return name in self._parent

    def root(self, name: str) -> str:
        """Of a name; itself if it was never joined."""
        while (up := self._parent.get(name, name)) != name:
            name = up
        return name

    def join(self, first: str, second: str) -> None:
        """Put both, and all that is joined with them, into one set with the root of `first`."""
        self._parent.setdefault(first, first)
        self._parent.setdefault(second, second)
        self._parent[self.root(second)] = self.root(first)
