"""The stdout of commands that print tables."""

from __future__ import annotations

from rich.console import Console

__all__ = ["Results"]


class Results(Console):
    """stdout for tables: a label in [brackets] is no markup, and a reader who has gone is an error like others."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Raise what a plain print would; rich itself would end the process with exit code 1."""
        raise BrokenPipeError
