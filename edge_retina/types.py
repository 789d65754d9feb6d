"""The two values that travel through every pipeline: a Frame in, its Detections out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import supervision

__all__ = ["Detection", "Detections", "Frame"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

# The arrays of Detections: name, type, shape of a row.
_ARRAYS = (
    ("xyxy", np.float32, (4,)),
    ("scores", np.float32, ()),
    ("labels", np.int32, ()),
    ("track_ids", np.int32, ()),
)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture from a source.

    image: uint8 (H, W, 3), BGR, C-contiguous. index: 0-based position in its source.
    timestamp_ns: for live sources the monotonic clock at capture, for files the position in the file.
    source: the URI it came from, passwords removed. name: file name of a still image, else "".
    live: True for a camera or network stream. path: the still image or video file it was read from, else "".
    camera: in a run with several sources the name of this one. stale: its camera has given no newer frame since, and
    longer than a camera should take.
    """

    image: U8
    index: int = 0
    timestamp_ns: int = 0
    source: str = ""
    name: str = ""
    live: bool = False
    path: str = ""
    camera: str = ""
    stale: bool = False

    def age_ms(self, now_ns: int | None = None) -> float | None:
        """Milliseconds from its capture to now_ns of the monotonic clock [now]; None for a frame of a file."""
        if not self.live:
            return None
        return ((time.monotonic_ns() if now_ns is None else now_ns) - self.timestamp_ns) / 1_000_000


@dataclass(frozen=True, slots=True)
class Detection:
    """One row of Detections: xyxy in pixels of the source frame, score 0..1, label index and name.

    track_id: the same for one object through all frames; None where nothing tracks, -1 where this row is not tracked.
    """

    xyxy: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    track_id: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector found in one frame, best first. Owns its arrays; they are read-only.

    xyxy: float32 (N, 4), x1 y1 x2 y2 in pixels of the source frame, 0 <= x <= W, 0 <= y <= H.
    scores: float32 (N,), 0..1, descending. labels: int32 (N,), index into `names`.
    names: label names of the model. shape: (H, W) of the source frame.
    track_ids: int32 (N,), the same for one object through all frames, -1 where not tracked; None where nothing tracks.

    >>> empty = Detections.empty((480, 640))
    >>> len(empty), list(empty)
    (0, [])
    """

    xyxy: F32
    scores: F32
    labels: I32
    names: tuple[str, ...] = field(default=(), repr=False)
    shape: tuple[int, int] = (0, 0)
    track_ids: I32 | None = None

    def __post_init__(self) -> None:
        # Copies, so that a runtime may reuse its output buffers, and a caller cannot change a result.
        for attribute, dtype, tail in _ARRAYS:
            given = getattr(self, attribute)
            if given is None and attribute == "track_ids":
                continue
            array = np.array(given, dtype=dtype, copy=True, order="C")
            if array.ndim != 1 + len(tail) or array.shape[1:] != tail:
                wanted = "(N, 4)" if tail else "(N,)"
                raise ValueError(f"{attribute} must have shape {wanted}, found {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, attribute, array)
        if not len(self.xyxy) == len(self.scores) == len(self.labels):
            raise ValueError(
                "xyxy, scores and labels must have equal length, "
                f"found {len(self.xyxy)}, {len(self.scores)}, {len(self.labels)}"
            )
        if self.track_ids is not None and len(self.track_ids) != len(self.labels):
            raise ValueError(f"wanted a track id for each of {len(self.labels)} rows, found {len(self.track_ids)}")

    @classmethod
    def empty(cls, shape: tuple[int, int], names: Sequence[str] = ()) -> Detections:
        """No detections, for a frame of `shape` (H, W)."""
        none = np.zeros(0, np.float32)
        return cls(none.reshape(0, 4), none, none.astype(np.int32), tuple(names), shape)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        ids = itertools.repeat(None) if self.track_ids is None else self.track_ids.tolist()
        for ((x1, y1, x2, y2), score, label), track_id in zip(rows, ids, strict=False):
            yield Detection((x1, y1, x2, y2), score, label, self.name_of(label), track_id)

    def __getitem__(self, key: Any) -> Detections:
        """Rows chosen by a boolean mask, an index array, a slice or one integer (which keeps its row axis)."""
        if isinstance(key, int | np.integer):
            key = [key]
        ids = None if self.track_ids is None else self.track_ids[key]
        return Detections(self.xyxy[key], self.scores[key], self.labels[key], self.names, self.shape, ids)

    def mask(self, *, min_score: float = 0.0, names: Sequence[str] | None = None) -> Detections:
        """Rows with score >= min_score and, where given, one of the label names."""
        keep = self.scores >= np.float32(min_score)
        if names is not None:
            unknown = sorted(set(names) - set(self.names))
            if unknown:
                raise ValueError(f"unknown names {unknown}; this model has {list(self.names)}")
            keep &= np.isin(self.labels, [self.names.index(name) for name in names])
        return self[keep]

    def name_of(self, label: int) -> str:
        """Name of a label index; its number as text where the model has no name for it."""
        return self.names[label] if 0 <= label < len(self.names) else str(label)

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO result rows: bbox is x y w h in source pixels; category_ids maps label index to category id."""
        return [
            {
                "image_id": image_id,
                "category_id": d.label if category_ids is None else category_ids[d.label],
                "bbox": [d.xyxy[0], d.xyxy[1], d.xyxy[2] - d.xyxy[0], d.xyxy[3] - d.xyxy[1]],
                "score": d.score,
            }
            for d in self
        ]

    def to_json(self) -> list[dict[str, Any]]:
        """Rows for JSONL: box x1 y1 x2 y2 to 1/100 pixel, score to 1e-4, label index and name, id where tracked."""
        return [
            {
                "box": [round(v, 2) for v in d.xyxy],
                "score": round(d.score, 4),
                "label": d.label,
                "name": d.name,
                **({} if d.track_id is None or d.track_id < 0 else {"id": d.track_id}),
            }
            for d in self
        ]

    def to_supervision(self) -> supervision.Detections:
        """The same detections as a `supervision.Detections`. Raises MissingPackage without supervision."""
        try:
            import supervision
        except ImportError as exc:
            from edge_retina.errors import MissingPackage

            raise MissingPackage("to_supervision() needs supervision; run: pip install supervision") from exc
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array([self.name_of(label) for label in self.labels.tolist()], dtype=str)},
        )
