"""What the report is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_retina.accuracy import Accuracy
from edge_retina.calibrate.histogram import Histogram
from edge_retina.types import U8, Detections

__all__ = ["MAX_PAIRS", "Layer", "Pair", "Report"]

MAX_PAIRS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One convolution. name: that of its output. macs: multiply-accumulates per frame. precision: "int8" or "float".

    range: the input's magnitude that gets code 127, 0.0 where there is none. histogram: of the input's magnitudes,
    None where it was not observed. sqnr: of this layer alone in INT8, decibels. cost: disagreement with the float model
    when this layer, and what shares its weight, alone is in INT8. why: the reason for its precision, if there is one.
    """

    name: str
    macs: int
    precision: str
    range: float = 0.0
    histogram: Histogram | None = None
    sqnr: float | None = None
    cost: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One picture, uint8 (H, W, 3) BGR, and what two models see in it. wanted: FP32's. found: this bundle's."""

    name: str
    image: U8
    wanted: Detections
    found: Detections


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the page shows. precision: "fp32", "fp16", "int8". verdict: the result in one sentence.

    accuracies: by name, FP32 first, this bundle last. measured: how, and on how many pictures. layers: in graph
    order. pairs: of them the MAX_PAIRS most different are shown. facts: name and value; one without a value is the
    title of those that follow. Any of the sequences may be empty. agreement: accuracies are agreement with FP32's own
    detections, not AP; FP32's, which is 1 by definition, is not shown.
    """

    title: str
    precision: str
    verdict: str
    accuracies: Sequence[tuple[str, Accuracy]] = ()
    measured: str = ""
    layers: Sequence[Layer] = ()
    pairs: Sequence[Pair] = ()
    facts: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    agreement: bool = False
