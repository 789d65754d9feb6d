"""Numbers of a graph as a person would have typed them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["agreed", "short"]


def short(value: Any) -> float:
    """The shortest decimal that is the same float32: 0.485, not 0.48500001430511475."""
    return float(str(np.float32(value)))


def agreed(values: Iterable[npt.NDArray[Any] | None]) -> float | None:
    """The one number that all the known values are; None where there is none or they differ."""
    distinct = {short(value.reshape(-1)[0]) for value in values if value is not None and value.size == 1}
    return distinct.pop() if len(distinct) == 1 else None
