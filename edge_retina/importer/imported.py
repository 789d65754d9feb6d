"""What every importer returns."""

from __future__ import annotations

from dataclasses import dataclass

from edge_retina.spec import DetectorSpec

__all__ = ["Imported"]


@dataclass(frozen=True)
class Imported:
    """What an importer found in a graph.

    trunk_input: the tensor that holds the normalised network input, float32 [B, 3, H, W]; everything
    before it is cut off. logits, deltas: per level, the tensors [B, A * K, H, W] (channel a * K + k, before
    the sigmoid) and [B, A * 4, H, W]; everything after them is cut off.
    """

    spec: DetectorSpec
    trunk_input: str
    logits: tuple[str, ...]
    deltas: tuple[str, ...]
