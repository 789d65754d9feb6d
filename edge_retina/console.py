"""The stdout of commands that print tables."""

from __future__ import annotations

import os

from rich.console import Console

__all__ = ["Results"]


class Results(Console):
    """stdout for tables: a label in [brackets] is no markup, and a reader who has gone is an error like others.

    With NO_COLOR not even bold and dim, which rich would keep.
    """

    def __init__(self) -> None:
        plain = bool(os.environ.get("NO_COLOR"))
        super().__init__(highlight=False, markup=False, emoji=False, color_system=None if plain else "auto")

    def on_broken_pipe(self) -> None:
        """Raise what a plain print would; rich itself would end the process with exit code 1."""
        raise BrokenPipeError
