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

    Raises InputError when there is a limit and nothing was measured, or FP32's own AP is not above the limit, so that
    no drop could exceed it; without a limit on_note is told that nothing was measured.
    """
    if before.accuracy is None or after.accuracy is None:
        if limit is not None:
            raise InputError(f"{NOTHING_FOUND} Name annotated pictures: --eval ann.json")
        on_note(NOTHING_FOUND)
        return False
    own = before.accuracy.AP
    if limit is not None and limit >= 1:
        raise InputError(f"an allowed drop of {limit:g} lets everything pass; allow less, or leave it out")
    if limit is not None and own <= limit:
        raise InputError(
            f"FP32 itself reaches only AP {max(own, 0.0):.4f}, not more than the allowed drop of "
            f"{limit:g}, so no loss could be too much; is its preprocessing right, are these its labels? "
            "run: edge-retina inspect, or allow a smaller drop"
        )
    drop = own - after.accuracy.AP
    return limit is not None and drop > limit


def lost(what: str, before: Measured, after: Measured, limit: float | None, *, agreement: bool = False) -> str:
    """How much a precision costs, in words. agreement: what was measured is agreement with FP32, not AP."""
    assert before.accuracy is not None
    assert after.accuracy is not None
    was, now = before.accuracy.AP, after.accuracy.AP
    if agreement:
        return f"{what} agrees with FP32 to {now:.4f} only, {was - now:.4f} less than in full; allowed are {limit:g}"
    return f"{what} costs {was - now:.4f} AP ({was:.4f} -> {now:.4f}), allowed are {limit:g}"
