"""The stages of a frame, and which of them an operator belongs to, by the names that the rewriting gives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_retina.bench.timing import percentiles

__all__ = ["INSIDE", "STAGES", "LayerTime", "Profile", "stage_of", "voted"]

# In the order a frame passes them. host: Python, checks, and the runtime between its operators.
INSIDE = ("upload", "preprocess", "trunk", "decode", "download", "host")
STAGES = ("capture", *INSIDE, "sinks")
_FRAME = re.compile(r"(^|[\s{+\[:(])frame/")
# The call, the inlined body of it, and its nodes by themselves.
_DECODE = re.compile(r"AnchorDecode|(^|[\s{+\[:(_])(decode|nms)/")


@dataclass(frozen=True)
class LayerTime:
    """One operator as it ran. name: the user's. kind: the runtime's word. stage: of INSIDE. ms: of a call, mean."""

    name: str
    kind: str
    stage: str
    ms: float


@dataclass(frozen=True)
class Profile:
    """A pass of its own with the runtime's profiler on, which slows it.

    stages: milliseconds of every call by stage of INSIDE; what the runtime does not have is missing. call_ms: whole
    calls, their sum. layers: in the order they ran.
    """

    stages: dict[str, tuple[float, ...]]
    call_ms: tuple[float, ...]
    layers: tuple[LayerTime, ...]

    def to_json(self, most: int | None = None) -> dict[str, Any]:
        """Plain values; `most` of the slowest layers, None: all in their order."""
        chosen: Sequence[LayerTime] = self.layers if most is None else self.slowest(most)
        total = float(np.mean(self.call_ms))
        return {
            "calls": len(self.call_ms),
            **percentiles(self.call_ms),
            "stages": {
                stage: {**percentiles(ms), "mean_ms": round(float(np.mean(ms)), 4), "share": self.share(stage)}
                for stage, ms in self.stages.items()
            },
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "stage": layer.stage,
                    "ms": round(layer.ms, 4),
                    "share": round(layer.ms / total, 4),
                }
                for layer in chosen
            ],
        }

    def share(self, stage: str) -> float:
        """Of the calls' time, 0..1."""
        return round(sum(self.stages[stage]) / sum(self.call_ms), 4)

    def slowest(self, most: int) -> tuple[LayerTime, ...]:
        """That many layers, the slowest first."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.ms)[:most])


def stage_of(name: str) -> str | None:
    """The stage of a node by its name, "preprocess", "decode" or "trunk"; None for one fused over several of them.

    >>> stage_of("frame/Resize_176"), stage_of("decode/TopK_11"), stage_of("/model/stem/Conv")
    ('preprocess', 'decode', 'trunk')
    """
    found = {stage for stage, words in (("preprocess", _FRAME), ("decode", _DECODE)) if words.search(name)}
    if not found:
        return "trunk"
    return found.pop() if len(found) == 1 else None


def voted(names: Iterable[str]) -> str:
    """The stage most of the nodes in a fused layer belong to; of equals the one that comes first in a frame."""
    votes = Counter(stage for name in names if (stage := stage_of(name)) is not None)
    return max(votes, key=lambda stage: (votes[stage], -INSIDE.index(stage)), default="trunk")
