"""The accuracy gate of a build: whether a precision costs more than is allowed."""

from __future__ import annotations

from collections.abc import Callable

from edge_retina.errors import InputError
from edge_retina.proof import Measured

__all__ = ["NOTHING_FOUND", "lost", "too_much"]

NOTHING_FOUND = (
    "accuracy is not measured: the FP32 model finds nothing in the calibration pictures; "
    "are they of what it was trained on?"
)


def too_much(before: Measured, after: Measured, limit: float | None, on_note: Callable[[str], None]) -> bool:
    """True when more AP (0..1) is lost than `limit`, None for no limit.

    Raises InputError when there is a limit and nothing was measured; without one on_note is told.
    """
    if before.accuracy is None or after.accuracy is None:
        if limit is not None:
            raise InputError(f"{NOTHING_FOUND} Name annotated pictures: --eval ann.json")
        on_note(NOTHING_FOUND)
        return False
    if limit is not None and before.accuracy.AP <= 0:
        raise InputError(
            "the FP32 model's own AP is 0, so there is nothing to lose and the allowed drop says nothing; are these "
            "pictures and labels of what it was trained on, and is its preprocessing right? run: edge-retina inspect"
        )
    drop = before.accuracy.AP - after.accuracy.AP
    return limit is not None and drop > limit


def lost(what: str, before: Measured, after: Measured, limit: float | None) -> str:
    """How much a precision costs, in words."""
    assert before.accuracy is not None
    assert after.accuracy is not None
    was, now = before.accuracy.AP, after.accuracy.AP
    return f"{what} costs {was - now:.4f} AP ({was:.4f} -> {now:.4f}), allowed are {limit:g}"
