"""The stream: capture, inference and sinks at the same time, each by threads of its own."""

from __future__ import annotations

import dataclasses
import os
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import chain

from edge_retina.capture import Patience
from edge_retina.detector import Detector
from edge_retina.errors import EdgeRetinaError, UsageError
from edge_retina.events import Event
from edge_retina.feeds import Named, gather, open_feeds
from edge_retina.newest import Bell, CameraCounts, Limits
from edge_retina.outs import check_outs
from edge_retina.runtime import cores
from edge_retina.sink import Sink, StopStream
from edge_retina.sinkhost import SinkHost
from edge_retina.sinks import open_sink
from edge_retina.sources import is_live, probe
from edge_retina.types import Detections, Frame

__all__ = ["Named", "Step", "Summary", "frames_at_once", "infer", "infer_batches", "read_ahead", "run"]

Uri = str | int | os.PathLike[str]
Source = Uri | Named

# Each frame being worked on holds its own activations, hundreds of megabytes for a large network.
_MOST_AT_ONCE = 4
_MOST_IN_A_BATCH = 8


def read_ahead(source: Uri, *, max_frames: int | None = None) -> Generator[Frame, None, None]:
    """Frames of a source, read by a thread of their own.

    A file is never ahead by more than a few frames and loses none; of a live source only the newest frame is kept, and
    it is connected again when it stops. The source is given back before this generator is closed. Raises what
    open_source raises; once a live source has given frames, only what no further attempt will mend.
    """
    if max_frames is not None and max_frames < 0:
        raise UsageError(f"max_frames must be 0 or more, found {max_frames}")
    bell, stop = Bell(), threading.Event()
    (feed,) = open_feeds([Named(source)], bell)
    feed.start()
    try:
        for batch in gather([feed], bell, max_frames=max_frames, stop=stop):
            yield from batch
    finally:
        feed.stop()


def frames_at_once(source: Uri) -> int:
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


def infer_batches(
    detector: Detector, batches: Iterable[list[Frame]]
) -> Generator[tuple[Frame, Detections, float], None, None]:
    """As infer does, for frames that are there at the same time; milliseconds: of the batch, for each of its frames."""
    for batch in batches:
        start = time.perf_counter()
        found = [detector(batch[0].image)] if len(batch) == 1 else detector.batch([frame.image for frame in batch])
        milliseconds = (time.perf_counter() - start) * 1000
        for frame, detections in zip(batch, found, strict=True):
            yield frame, detections, milliseconds


# What else happens to the detections of a frame: gets what was found so far, and where to tell events. One that has a
# method `finish` hears of the end by it, with where to tell events.
Step = Callable[[Frame, Detections, Callable[[Event], None]], Detections]


def _last() -> deque[float]:
    return deque(maxlen=10_000)


@dataclass
class Summary:
    """What a run did. seconds: from the start to the last result; latency_ms: inference, of the last 10,000 frames.

    age_ms: from capture to result, of live frames, as many. cameras: the frames of each source, where there are several
    or it is live. lost: results that a sink was too slow for. failures: what ended a sink.
    """

    frames: int = 0
    detections: int = 0
    seconds: float = 0.0
    latency_ms: deque[float] = field(default_factory=_last)
    age_ms: deque[float] = field(default_factory=_last)
    per_name: Counter[str] = field(default_factory=Counter)
    cameras: dict[str, CameraCounts] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    failures: list[EdgeRetinaError] = field(default_factory=list)

    def add(self, frame: Frame, detections: Detections, milliseconds: float, seconds: float) -> None:
        """Count one result."""
        self.frames += 1
        self.detections += len(detections)
        self.latency_ms.append(milliseconds)
        if (age_ms := frame.age_ms()) is not None:
            self.age_ms.append(age_ms)
        self.per_name.update(map(detections.name_of, detections.labels.tolist()))
        self.seconds = seconds

    @property
    def fps(self) -> float:
        """Frames per second, end to end."""
        return self.frames / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """Plain values; median latency, detections by label name."""
        median = statistics.median(self.latency_ms) if self.latency_ms else None
        ages = {"age_ms_p50": round(statistics.median(self.age_ms), 2)} if self.age_ms else {}
        cameras = {name: dataclasses.asdict(counts) for name, counts in self.cameras.items()}
        return {
            "frames": self.frames,
            "detections": self.detections,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "latency_ms_p50": None if median is None else round(median, 2),
            **ages,
            "per_name": dict(self.per_name.most_common()),
            **({"cameras": cameras} if cameras else {}),
            **({"lost": self.lost} if self.lost else {}),
        }


def run(
    detector: Detector,
    source: Source | Sequence[Source],
    outs: Sequence[str | os.PathLike[str]],
    *,
    max_frames: int | None = None,
    min_score: float = 0.0,
    limits: Limits | None = None,
    patience: Patience | None = None,
    batch: int | None = None,
    steps: Sequence[Step] = (),
    on_frame: Callable[[Frame, Detections], None] = lambda *_: None,
    on_event: Callable[[Event], None] = lambda _: None,
    stop: threading.Event | None = None,
    keep_trying: bool = False,
    on_turn: Callable[[], None] = lambda: None,
) -> Summary:
    """Stream one source, or several, through a detector into sinks, until all end, max_frames is reached in all, a
    sink says stop or `stop` is set.

    min_score: what is below it is left out, everywhere but in steps. limits, patience: of live sources. batch: most
    frames of different sources in one call of the detector [8 on a GPU, 1 on a CPU, which keeps frames younger].
    steps: what else happens to the detections of a frame, in order, as tracking; each gets
    the frame, what was found so far, and where to tell events. on_frame: called by this thread, after the sinks got it.
    on_event: called by the threads where things happen, as the sinks are. keep_trying: go on though no live source gave
    a frame at its first attempt. on_turn: called by this thread as long as the loop turns, ten times a second or more.

    Sinks are closed, and what they hold is valid, however the run ends. A live source is connected again for ever once
    it gave a frame; a sink that fails ends a run over files, and a live one only if no other is left. Raises what
    sources, sinks, steps and detector raise.
    """
    given = [source] if isinstance(source, str | int | os.PathLike | Named) else list(source)
    sources = [each if isinstance(each, Named) else Named(each) for each in given]
    if not sources:
        raise UsageError("wanted a source, found none")
    infos = [probe(each.uri) for each in sources]
    check_outs(outs, [path for info in infos for path in info.paths])
    live = any(info.live for info in infos)
    summary, bell, stop = Summary(), Bell(), stop or threading.Event()
    fps = (limits.fps if limits else None) or max(info.fps for info in infos) or 30.0
    frame_size = detector.bundle.manifest.frame_size
    limits = dataclasses.replace(limits or Limits(), frame_size=frame_size)
    if batch is None:
        batch = 1 if detector.runtime.name == "ort" else _MOST_IN_A_BATCH

    def tell(event: Event) -> None:
        host.event(event)
        on_event(event)

    host = SinkHost(_open_outs(outs, fps, tell), live=live, on_event=on_event)
    try:
        feeds = open_feeds(sources, bell, limits=limits, patience=patience, on_event=tell)
        try:
            for feed in feeds:
                feed.start()
            start = time.perf_counter()
            batches = gather(
                feeds, bell, most=batch, max_frames=max_frames, stop=stop, keep_trying=keep_trying, on_turn=on_turn
            )
            one_file = len(feeds) == 1 and not live
            found = infer(detector, chain.from_iterable(batches)) if one_file else infer_batches(detector, batches)
            with closing(batches), closing(found), suppress(StopStream):
                for frame, everything, milliseconds in found:
                    detections = everything
                    for step in steps:
                        detections = step(frame, detections, tell)
                    detections = detections.mask(min_score=min_score)
                    summary.add(frame, detections, milliseconds, time.perf_counter() - start)
                    host.write(frame, detections)
                    on_frame(frame, detections)
        finally:
            for feed in feeds:
                feed.halt()
            for feed in feeds:
                feed.stop()
            if live or len(feeds) > 1:
                summary.cameras = {feed.name: feed.counts for feed in feeds}
            for step in steps:
                if (finish := getattr(step, "finish", None)) is not None:
                    finish(tell)
    except BaseException as exc:
        with suppress(EdgeRetinaError):  # the first error is the one to hear about
            host.close(hurry=stop.is_set() or isinstance(exc, KeyboardInterrupt))
        raise
    host.close(hurry=stop.is_set())
    summary.lost, summary.failures = host.lost, host.failures
    return summary


def _open_outs(
    outs: Sequence[str | os.PathLike[str]], fps: float, tell: Callable[[Event], None]
) -> list[tuple[str | os.PathLike[str], Sink]]:
    """All sinks, or none of them."""
    with ExitStack() as stack:
        sinks = [(out, stack.enter_context(open_sink(out, fps=fps, on_event=tell))) for out in outs]
        stack.pop_all()
    return sinks
