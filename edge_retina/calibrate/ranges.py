"""ranges.json: what calibration found, and what it is true of."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.calibrate.histogram import BINS, Histogram
from edge_retina.calibrate.statistics import TensorStatistics
from edge_retina.errors import InputError
from edge_retina.types import F32

__all__ = ["Binding", "Ranges"]

_FORMAT = 1
# A histogram of BINS counts; what decompresses to more was not written by us.
_HISTOGRAM_BYTES = 8 * BINS
# Far beyond what any calibration counts, and histograms of one scale can still be added up in int64.
_MOST_COUNTED = 1 << 52
# Of float32, above 0.
_LEAST, _MOST = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Binding:
    """What ranges belong to, as sha256 in hex.

    model: the ONNX that was given. preprocessing: all that stands between a frame and the network, the frame's size
    included. pictures: of the calibration set; None for a camera, whose pictures do not come back. count: how many.
    """

    model: str
    preprocessing: str
    pictures: str | None
    count: int

    def differs(self, other: Binding) -> str:
        """What of another binding is not the same, for a message; "" when ranges of one are good for the other."""
        if self.pictures is None or other.pictures is None:
            return "pictures of a camera, which do not come back"
        return ", ".join(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))


@dataclass(frozen=True, eq=False)
class Ranges:
    """Statistics by tensor of the equalised graph, the equalisation's factors, and what both belong to.

    warnings: what was wrong with the pictures.
    """

    binding: Binding
    factors: Mapping[str, F32]
    statistics: Mapping[str, TensorStatistics]
    warnings: tuple[str, ...] = ()

    def maxima(self) -> dict[str, float]:
        """Largest magnitude of each tensor."""
        return {name: found.maximum for name, found in self.statistics.items()}

    def to_json(self, used: Mapping[str, float]) -> bytes:
        """As a file. used: the range that was chosen for each tensor, for whoever reads it."""
        tensors = {
            name: {
                "range": used.get(name),
                "maximum": found.maximum,
                "histogram": _pack(zlib.compress(found.histogram.counts.astype("<i8").tobytes(), 6)),
                **{key: _pack_floats(getattr(found, key)) for key in ("mean", "energy", "peak")},
            }
            for name, found in self.statistics.items()
        }
        factors = {name: _pack_floats(values) for name, values in self.factors.items()}
        data: dict[str, Any] = {"format": _FORMAT, "binding": asdict(self.binding), "warnings": self.warnings}
        data |= {"factors": factors, "tensors": tensors}
        return (json.dumps(data, sort_keys=True, allow_nan=False, separators=(",", ":")) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes, source: str = "ranges.json") -> Ranges:
        """Read what to_json wrote. Raises InputError for anything else."""
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise InputError(f"{source}: has format {data['format']}, wanted {_FORMAT}; calibrate anew")
            factors = {name: _factors(value) for name, value in data["factors"].items()}
            statistics = {name: _statistics(value) for name, value in data["tensors"].items()}
            return cls(Binding(**data["binding"]), factors, statistics, tuple(map(str, data["warnings"])))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, zlib.error) as exc:
            raise InputError(f"{source}: wanted calibrated ranges, found {exc!r:.200}; calibrate anew") from exc


def _statistics(value: Mapping[str, Any]) -> TensorStatistics:
    histogram = _histogram(value["histogram"], float(value["maximum"]))
    mean, energy, peak = (_floats(value[key]).astype(np.float64) for key in ("mean", "energy", "peak"))
    if not len(mean) == len(energy) == len(peak) > 0:
        raise ValueError(f"means, energies and peaks of {len(mean)}, {len(energy)} and {len(peak)} channels")
    if energy.min() < 0 or peak.min() < 0:
        raise ValueError("a negative energy or peak")
    return TensorStatistics(histogram, mean, energy, peak)


def _histogram(text: str, maximum: float) -> Histogram:
    inflate = zlib.decompressobj()
    counts = np.frombuffer(inflate.decompress(base64.b64decode(text), _HISTOGRAM_BYTES + 1), "<i8").astype(np.int64)
    if counts.shape != (BINS,) or not inflate.eof or counts.min() < 0 or counts.max() > _MOST_COUNTED // BINS:
        raise ValueError(f"a histogram that does not hold {BINS} counts")
    if not (maximum == 0 or _LEAST <= maximum <= _MOST):
        raise ValueError(f"a histogram up to {maximum}")
    if not counts.any():
        raise ValueError("a histogram of nothing")
    return Histogram(counts, maximum)


def _pack(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _pack_floats(values: npt.NDArray[np.floating]) -> str:
    # Squares of large activations are larger.
    return _pack(np.clip(values, -_MOST, _MOST).astype("<f4").tobytes())


def _factors(text: str) -> F32:
    values = _floats(text)
    if not len(values) or values.min() <= 0:
        raise ValueError("a factor that is not above 0")
    return values


def _floats(text: str) -> F32:
    values = np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    return values
