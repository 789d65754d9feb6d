"""Readings of a few frames, kept in a file until they are wanted again: in memory they would be most of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np

from edge_retina.calibrate.probes import Reading
from edge_retina.errors import OutputError
from edge_retina.types import U8

__all__ = ["Kept"]


class Kept:
    """Readings by the number of their frame, in a temporary file that is gone when this is closed.

    read: frame and its number to its readings, Probes.read. turns: the numbers of the frames to keep, in their order.
    """

    def __init__(self, read: Callable[[U8, int], Mapping[str, Reading]], turns: Sequence[int]) -> None:
        self._read, self._turns = read, turns
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 closed by __exit__
        self._places: dict[int, tuple[int, tuple[str, ...]]] = {}

    def keep(self, frame: U8, index: int) -> Mapping[str, Reading]:
        """Read the frame turns[index] and keep that. Raises OutputError for a full disk."""
        readings = self._read(frame, turn := self._turns[index])
        try:
            place = self._file.seek(0, 2)
            for reading in readings.values():
                for values in (reading.peak, reading.mean, reading.sample):
                    np.save(self._file, values)
        except OSError as exc:
            folder = tempfile.gettempdir()
            raise OutputError(
                f"cannot keep what calibration read in {folder}: {exc.strerror or exc}; make room there, or name "
                "another folder in TMPDIR"
            ) from exc
        self._places[turn] = (place, tuple(readings))
        return readings

    def read(self, frame: U8, turn: int) -> Mapping[str, Reading]:
        """What was kept of frame `turn`, else what is read now."""
        if turn not in self._places:
            return self._read(frame, turn)
        place, names = self._places[turn]
        self._file.seek(place)
        return {name: Reading(*(np.load(self._file) for _ in range(3))) for name in names}

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
