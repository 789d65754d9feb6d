"""The stream: frames read ahead while earlier ones are worked on, detections handed to sinks."""

from __future__ import annotations

import os
import queue
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote

from edge_retina.detector import Detector
from edge_retina.errors import OutputError, UsageError
from edge_retina.images import IMAGE_SUFFIXES
from edge_retina.runtime import cores
from edge_retina.sinks import StopStream, open_sink
from edge_retina.sources import is_live, open_source, probe
from edge_retina.types import Detections, Frame

__all__ = ["Summary", "frames_at_once", "infer", "read_ahead", "run"]

_FILE_FRAMES_AHEAD = 4
# Each frame being worked on holds its own activations, hundreds of megabytes for a large network.
_MOST_AT_ONCE = 4


class _End:
    """Marks the end of a source: without an error, or with the one it ended by."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(source: str | int | os.PathLike[str], *, max_frames: int | None = None) -> Generator[Frame, None, None]:
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
        with closing(open_source(source, max_frames=max_frames)) as frames:
            _pass_on(frames, live, waiting, stop)
    except BaseException as exc:  # carried to the consumer's thread
        error = exc
    _put(waiting, _End(error), stop)


def _pass_on(frames: Iterator[Frame], live: bool, waiting: queue.Queue[Frame | _End], stop: threading.Event) -> None:
    for frame in frames:
        if live:
            with suppress(queue.Empty):
                waiting.get_nowait()  # the older frame gives way
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


def frames_at_once(source: str | int | os.PathLike[str]) -> int:
    """How many frames to work on at once: 1 of a live source, where age counts, else one per core, at most 4."""
    return 1 if is_live(source) else min(cores(), _MOST_AT_ONCE)


def infer(detector: Detector, frames: Iterable[Frame]) -> Generator[tuple[Frame, Detections, float], None, None]:
    """Each frame with its detections and the milliseconds that took, in the order of the frames.

    As many frames are worked on at once as the detector's runtime takes. Raises what the detector and `frames` raise.
    """

    def timed(frame: Frame) -> tuple[Frame, Detections, float]:
        start = time.perf_counter()
        detections = detector(frame.image)
        return frame, detections, (time.perf_counter() - start) * 1000

    parallel = detector.runtime.parallel
    if parallel == 1:
        yield from map(timed, frames)
        return
    pool = ThreadPoolExecutor(parallel, "edge-retina-infer")
    flying: deque[Future[tuple[Frame, Detections, float]]] = deque()
    failure: Exception | None = None
    try:
        source = iter(frames)
        while failure is None:
            try:
                flying.append(pool.submit(timed, next(source)))
            except StopIteration:
                break
            except Exception as exc:  # after the results of the frames before it
                failure = exc
            # One more than can run, so that no worker waits while a result is written.
            if len(flying) > parallel:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class Summary:
    """What a run did. seconds: from the start to the last result; latency_ms: inference, of the last 10,000 frames."""

    frames: int = 0
    detections: int = 0
    seconds: float = 0.0
    latency_ms: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    per_name: Counter[str] = field(default_factory=Counter)

    @property
    def fps(self) -> float:
        """Frames per second, end to end."""
        return self.frames / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """Plain values; median latency, detections by label name."""
        median = statistics.median(self.latency_ms) if self.latency_ms else None
        return {
            "frames": self.frames,
            "detections": self.detections,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "latency_ms_p50": None if median is None else round(median, 2),
            "per_name": dict(self.per_name.most_common()),
        }


def _check_outs(outs: Sequence[str | os.PathLike[str]], sources: Sequence[str]) -> None:
    """Raise UsageError for two outs in one place, OutputError for one that would replace a file yet to be read.

    A folder counts when a picture of the source lies in it, for results bear the names of their pictures.
    """
    read = {os.path.realpath(path) for path in sources}
    pictures = [path for path in sources if path.lower().endswith(IMAGE_SUFFIXES)]
    # The folder where a link lies, and the one it leads to.
    read |= {os.path.realpath(os.path.dirname(path)) for path in pictures}
    read |= {os.path.dirname(os.path.realpath(path)) for path in pictures}
    places = set()
    for out in outs:
        text = os.fspath(out)
        scheme, separator, location = text.partition("://")
        is_file = scheme == "file" if separator else text != "-"
        place = os.path.realpath(unquote(location) if separator else text) if is_file else text
        if place in places:
            raise UsageError(f"{out}: two outs would write to the same place; leave one out, or give it another name")
        if is_file and place in read:
            raise OutputError(f"{out} is or holds the source itself, which would be lost; use another folder or name")
        places.add(place)


def run(
    detector: Detector,
    source: str | int | os.PathLike[str],
    outs: Sequence[str | os.PathLike[str]],
    *,
    max_frames: int | None = None,
    min_score: float = 0.0,
    on_frame: Callable[[Frame, Detections], None] = lambda *_: None,
) -> Summary:
    """Stream a source through a detector into sinks, until it ends, max_frames is reached or a sink says stop.

    min_score: detections below it are left out everywhere. Sinks are closed, and what they hold is valid, however the
    run ends. Raises what sources, sinks and detector raise.
    """
    summary = Summary()
    info = probe(source)
    _check_outs(outs, info.paths)
    with ExitStack() as stack:
        sinks = [stack.enter_context(open_sink(out, fps=info.fps or 30.0)) for out in outs]
        frames = stack.enter_context(closing(read_ahead(source, max_frames=max_frames)))
        results = stack.enter_context(closing(infer(detector, frames)))
        start = time.perf_counter()
        for frame, everything, milliseconds in results:
            detections = everything.mask(min_score=min_score)
            summary.latency_ms.append(milliseconds)
            summary.frames += 1
            summary.detections += len(detections)
            summary.per_name.update(map(detections.name_of, detections.labels.tolist()))
            try:
                for sink in sinks:
                    sink.write(frame, detections)
            except StopStream:
                break
            finally:
                summary.seconds = time.perf_counter() - start
            on_frame(frame, detections)
    return summary
