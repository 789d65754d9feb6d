"""The NumPy reference for a batch, and with every exp rounded once: what NumPy's own is not on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from edge_retina import boxes
from edge_retina.geometry import Geometry
from edge_retina.spec import DetectorSpec

Wanted = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]


class _OnceRounded:
    """NumPy, but for exp."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def exp(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.exp(np.asarray(values, np.float64)).astype(np.float32)


@contextmanager
def rounded_once() -> Iterator[None]:
    with mock.patch.object(boxes, "np", _OnceRounded()):
        yield


def detect(
    logits: Sequence[npt.NDArray[np.float32]],
    deltas: Sequence[npt.NDArray[np.float32]],
    spec: DetectorSpec,
    geometry: Geometry,
) -> Wanted:
    """boxes.detect for each image, in rows as the plugin gives them: boxes, scores, labels, count."""
    batch, rows = len(logits[0]), spec.max_detections
    wanted = (
        np.zeros((batch, rows, 4), np.float32),
        np.zeros((batch, rows), np.float32),
        np.full((batch, rows), -1, np.int32),
        np.zeros(batch, np.int32),
    )
    for image in range(batch):
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            found = boxes.detect([v[image] for v in logits], [v[image] for v in deltas], spec, geometry)
        n = wanted[3][image] = len(found[1])
        for rows_of, values in zip(wanted, found, strict=False):
            rows_of[image, :n] = values
    return wanted
