"""The options behind a ? in the URI of a sink."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

from edge_retina.errors import UsageError

__all__ = ["read_query"]


def read_query(query: str, known: Sequence[str], *, example: str) -> dict[str, str]:
    """Options by name from `a=1&b=2`. Raises UsageError for one that is not known, given twice or without a value."""
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known or not value:
            # Not its value, which may be a password.
            raise UsageError(f"wanted {' and '.join(f'{k}=' for k in known)} behind the ?, found {name}=; {example}")
        if name in options:
            raise UsageError(f"{name}= is given twice; leave one out")
        options[name] = value
    return options
