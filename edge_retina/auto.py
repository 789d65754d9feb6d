"""`--auto`: layers go back to float, the worst first, until the accuracy lost is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_retina.int8 import Int8
from edge_retina.proof import Measured
from edge_retina.sensitivity import Choice, Cost

__all__ = ["give_back"]


def give_back(
    int8: Int8,
    costs: Sequence[Cost],
    measure: Callable[[bytes], Measured],
    refused: Callable[[Measured], bool],
) -> tuple[Int8, bytes, Measured] | None:
    """The INT8 model with the shortest run of `costs` back in float that is not refused; None when there is none.

    costs: the units still in INT8, the worst first; the last one stays. The length of the run grows by half until it is
    enough and is then narrowed down by halves, for each length costs a measurement. Choice.after is 0.0: unknown.
    """

    def tried(count: int) -> tuple[Int8, bytes, Measured]:
        more = [name for cost in costs[:count] for name in cost.unit]
        skip = tuple(dict.fromkeys((*int8.choice.skip, *more)))
        model = int8.quantizer.quantized(skip)
        data = model.SerializeToString(deterministic=True)
        choice = Choice(skip, int8.choice.before, 0.0, tuple(costs), int8.choice.sqnr)
        return replace(int8, model=model, choice=choice), data, measure(data)

    too_few, count, best = 0, 1, None
    while best is None:
        if count > len(costs) - 1:
            return None
        found = tried(count)
        if not refused(found[2]):
            best = found
        elif count == len(costs) - 1:
            return None
        else:
            too_few, count = count, min(count + max(1, count // 2), len(costs) - 1)
    enough = count
    while enough - too_few > 1:
        count = (too_few + enough) // 2
        found = tried(count)
        if refused(found[2]):
            too_few = count
        else:
            best, enough = found, count
    return best
