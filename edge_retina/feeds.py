"""Where the frames of a run come from: cameras, of which the newest counts, and files, of which every one does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge_retina.capture import Patience
from edge_retina.errors import EdgeRetinaError, UsageError
from edge_retina.events import Event
from edge_retina.live import Camera
from edge_retina.newest import Bell, CameraCounts, Limits
from edge_retina.sources import is_live, open_source, redact
from edge_retina.types import Frame

__all__ = ["Feed", "FileFeed", "Named", "gather", "named", "open_feeds"]

_FRAMES_AHEAD = 4
_LOOK_S = 0.1

Uri = str | int | os.PathLike[str]


class Feed(Protocol):
    """One source of a run. name: of its frames and events. live: only the newest frame counts.

    error: what ended it and no attempt will mend. hopeless: that, or why a camera's first attempt gave no frame.
    take: the next frame, if one is there and due. due_s: seconds until it is. halt: end, without waiting for it.
    """

    name: str
    live: bool

    @property
    def counts(self) -> CameraCounts: ...  # noqa: D102
    @property
    def exhausted(self) -> bool: ...  # noqa: D102
    @property
    def error(self) -> EdgeRetinaError | None: ...  # noqa: D102
    @property
    def hopeless(self) -> EdgeRetinaError | None: ...  # noqa: D102
    def start(self) -> None: ...  # noqa: D102
    def take(self, now_ns: int | None = None) -> Frame | None: ...  # noqa: D102
    def due_s(self, now_ns: int) -> float | None: ...  # noqa: D102
    def halt(self) -> None: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102


class FileFeed:
    """A source of which no frame is left out: read a few frames ahead, then whoever reads waits."""

    live = False

    def __init__(self, uri: Uri, name: str, bell: Bell, fps: float | None = None) -> None:
        self._uri, self.name, self._bell = uri, name, bell
        self._interval_ns = 0 if fps is None else round(1_000_000_000 / fps)
        self._room = threading.Condition(bell.lock)
        self._ahead: deque[Frame] = deque()
        self._stopping = threading.Event()
        self._captured = self._processed = self._dropped = self._due_ns = 0
        self._failure: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="edge-retina-reader", daemon=True)

    @property
    def counts(self) -> CameraCounts:
        """The counts of this moment; dropped: only what was read when the run ended."""
        with self._bell.lock:
            return CameraCounts(self._captured, self._processed, self._dropped, len(self._ahead))

    @property
    def exhausted(self) -> bool:
        """True when every frame was taken."""
        with self._bell.lock:
            return self._ended and not self._ahead

    @property
    def error(self) -> EdgeRetinaError | None:
        """What ended it before its end, once the frames before that are taken."""
        with self._bell.lock:
            if self._failure is None or self._ahead:
                return None
            if isinstance(self._failure, EdgeRetinaError):
                return self._failure
        raise self._failure

    @property
    def hopeless(self) -> EdgeRetinaError | None:
        """The same: a file is not read again."""
        return self.error

    def start(self) -> None:
        """Read ahead, in the background."""
        self._thread.start()

    def take(self, now_ns: int | None = None) -> Frame | None:
        """The next frame, if it has been read and is due. Never waits."""
        with self._bell.lock:
            now = time.monotonic_ns() if now_ns is None else now_ns
            if not self._ahead or now < self._due_ns:
                return None
            self._due_ns = max(self._due_ns + self._interval_ns, now) if self._interval_ns else 0
            self._processed += 1
            self._room.notify_all()
            return self._ahead.popleft()

    def due_s(self, now_ns: int) -> float | None:
        """Seconds until the next frame may be taken; None where none is there."""
        with self._bell.lock:
            return None if not self._ahead else max(0.0, (self._due_ns - now_ns) / 1_000_000_000)

    def halt(self) -> None:
        """Tell it to end, and do not wait."""
        self._stopping.set()
        with self._bell.lock:
            self._room.notify_all()

    def stop(self) -> None:
        """Give the source back; the thread has ended when this returns. Twice does no harm."""
        self.halt()
        if self._thread.ident is not None:
            self._thread.join()
        with self._bell.lock:
            self._dropped += len(self._ahead)
            self._ahead.clear()

    def _read(self) -> None:
        failure: BaseException | None = None
        try:
            with contextlib.closing(open_source(self._uri, stop=self._stopping)) as frames:
                for frame in frames:
                    if not self._put(dataclasses.replace(frame, camera=self.name) if self.name else frame):
                        break
        except BaseException as exc:  # carried to the one who takes
            failure = exc
        with self._bell.lock:
            self._failure, self._ended = failure, True
            self._bell.rung.notify_all()

    def _put(self, frame: Frame) -> bool:
        with self._bell.lock:
            while len(self._ahead) >= _FRAMES_AHEAD and not self._stopping.is_set():
                self._room.wait()
            if self._stopping.is_set():
                return False
            self._captured += 1
            self._ahead.append(frame)
            self._bell.rung.notify_all()
        return True


@dataclass(frozen=True, slots=True)
class Named:
    """A source and the name that the user gave it, "" for none."""

    uri: Uri = field(repr=False)
    name: str = ""


def named(text: str) -> Named:
    """`front=rtsp://...` is a source called front; so is `front=1.mp4`, unless there is a file of that whole name."""
    found = re.fullmatch(r"(?s)([A-Za-z][\w .-]{0,31})=(.+)", text)
    return Named(text) if found is None or os.path.exists(text) else Named(found[2], found[1])


def open_feeds(
    sources: Sequence[Named],
    bell: Bell,
    *,
    limits: Limits | None = None,
    patience: Patience | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
) -> list[Feed]:
    """A feed for each source, none of them started; where there are several, each has a name of its own.

    Raises UsageError.
    """
    if sum(str(source.uri).lower().startswith("stdin:") for source in sources) > 1:
        raise UsageError("stdin:// is given twice, but there is one standard input; leave one out")
    feeds: list[Feed] = []
    names: set[str] = set()
    limits = limits or Limits()
    for source in sources:
        wanted = source.name or redact(source.uri)
        number, name = 2, wanted
        while name in names:
            name, number = f"{wanted} ({number})", number + 1
        names.add(name)
        if is_live(source.uri):
            camera = Camera(source.uri, name, on_event=on_event, bell=bell, limits=limits, patience=patience)
            feeds.append(camera)
        else:
            feeds.append(FileFeed(source.uri, name if len(sources) > 1 or source.name else "", bell, limits.fps))
    return feeds


def gather(
    feeds: Sequence[Feed],
    bell: Bell,
    *,
    most: int = 1,
    max_frames: int | None = None,
    stop: threading.Event,
    keep_trying: bool = False,
    on_turn: Callable[[], None] = lambda: None,
) -> Generator[list[Frame], None, None]:
    """Frames of all feeds as they come: at most one of each and `most` at once, those first that waited longest.

    Never waits for one feed while another has a frame. Ends when all have, after max_frames, or when stop is set.
    Raises what ended a file, what no attempt at a camera will mend, and the first failure where no camera gave a frame,
    unless keep_trying. on_turn: called with every batch and, while there is none, ten times a second: never while
    somebody works on the last one.
    """
    order = list(feeds)
    rest = max_frames
    while (rest is None or rest > 0) and not stop.is_set():
        with bell.rung:
            while not (batch := _take(order, most if rest is None else min(most, rest))):
                _raise_errors(feeds, keep_trying)
                on_turn()
                if stop.is_set() or all(feed.exhausted for feed in feeds):
                    return
                now_ns = time.monotonic_ns()
                due = [seconds for feed in feeds if (seconds := feed.due_s(now_ns)) is not None]
                bell.rung.wait(min([_LOOK_S, *due]))
        on_turn()
        yield batch  # though stop was set meanwhile: what is taken counts as worked on
        rest = None if rest is None else rest - len(batch)


def _take(order: list[Feed], most: int) -> list[Frame]:
    """Take from the feeds in order, and put those that gave a frame at the end of it."""
    now_ns = time.monotonic_ns()
    frames: list[Frame] = []
    for feed in list(order):
        if len(frames) < most and (frame := feed.take(now_ns)) is not None:
            frames.append(frame)
            order.remove(feed)
            order.append(feed)
    return frames


def _raise_errors(feeds: Sequence[Feed], keep_trying: bool) -> None:
    for feed in feeds:
        if feed.error is not None:
            raise feed.error
    hopeless = [feed.hopeless for feed in feeds]
    if not keep_trying and hopeless and all(error is not None for error in hopeless) and hopeless[0] is not None:
        raise hopeless[0]
