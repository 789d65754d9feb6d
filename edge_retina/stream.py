"""Reading frames while earlier ones are still being worked on."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import cast

from edge_retina.sources import is_live, open_source
from edge_retina.types import Frame

__all__ = ["read_ahead"]

_FILE_FRAMES_AHEAD = 4


class _End:
    """Marks the end of a source: without an error, or with the one it ended by."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(
    source: str | int | os.PathLike[str], *, max_frames: int | None = None
) -> Generator[Frame, None, None]:
    """Frames of a source, read by a thread of their own.

    A file is never ahead by more than a few frames and loses none; of a live source only the newest frame is kept. The
    thread has ended and the source is given back before this generator is closed. Raises what open_source raises.
    """
    live = is_live(source)
    waiting: queue.Queue[Frame | _End] = queue.Queue(1 if live else _FILE_FRAMES_AHEAD)
    stop = threading.Event()
    reader = threading.Thread(
        target=_read, args=(source, max_frames, live, waiting, stop), name="edge-retina-reader", daemon=True
    )
    reader.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        reader.join()


def _read(
    source: str | int | os.PathLike[str],
    max_frames: int | None,
    live: bool,
    waiting: queue.Queue[Frame | _End],
    stop: threading.Event,
) -> None:
    error: BaseException | None = None
    try:
        frames = cast("Generator[Frame, None, None]", open_source(source, max_frames=max_frames))
        with closing(frames):
            _pass_on(frames, live, waiting, stop)
    except BaseException as exc:  # carried to the consumer's thread
        error = exc
    _put(waiting, _End(error), stop)


def _pass_on(
    frames: Iterator[Frame], live: bool, waiting: queue.Queue[Frame | _End], stop: threading.Event
) -> None:
    for frame in frames:
        if live:
            try:
                waiting.get_nowait()  # the older frame gives way
            except queue.Empty:
                pass
        if not _put(waiting, frame, stop):
            return


def _put(waiting: queue.Queue[Frame | _End], item: Frame | _End, stop: threading.Event) -> bool:
    """Put the item unless the consumer has gone away; wakes a few times a second to look."""
    while not stop.is_set():
        try:
            waiting.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
