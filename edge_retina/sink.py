"""What every sink is: takes frames with their detections, hears of events, and is closed in every case."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol

from edge_retina.errors import OutputError
from edge_retina.events import Event
from edge_retina.types import Detections, Frame

__all__ = ["Sink", "StopStream", "protect_source"]


class StopStream(Exception):
    """The one who looks on has seen enough: window closed, q or Esc pressed, or the reader of stdout gone. No error."""


class Sink(Protocol):
    """Where results go. As a context manager it closes in every case, so that an interrupted run keeps its results.

    Its methods are called by one thread at a time. main_thread: by the one that runs the stream, as windows need it;
    else by a thread of the sink's own.
    """

    main_thread: ClassVar[bool] = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Take one frame and its detections. Raises OutputError; StopStream where nobody looks on any more."""

    def event(self, event: Event) -> None:
        """Take what happened beside the frames; most sinks need not know. Raises like write."""
        return

    def close(self) -> None:
        """Finish what was written and give it its name; after a failed write, throw it away. Raises OutputError."""

    def abort(self) -> None:
        """Throw away what has no name yet. Never raises."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with contextlib.suppress(OutputError):  # the first error is the one to hear about
                self.close()


def protect_source(frame: Frame, target: Path) -> None:
    """Raise OutputError where writing `target` would replace the image or video that is being read."""
    if frame.path and target.is_file() and os.path.isfile(frame.path) and os.path.samefile(frame.path, target):
        raise OutputError(f"{target} is the source itself and would be lost; write to another folder or name")
