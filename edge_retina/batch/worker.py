"""What a worker does with a unit: every frame of it through the detector, and the results as parts."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

from edge_retina.batch.listing import SourceFile
from edge_retina.batch.parts import FileError, Model, Part, Row, encode, rows_table, text
from edge_retina.batch.stores import local_copy, read_bytes
from edge_retina.batch.units import Unit
from edge_retina.detector import Detector
from edge_retina.errors import EdgeRetinaError, InputError
from edge_retina.images import decode_image, read_image
from edge_retina.stream import infer_batches, read_ahead
from edge_retina.types import Detections, Frame

__all__ = ["RANGE", "Settings", "work"]

# Frames of a video in one part, and so the most that is done twice when a batch goes on.
RANGE = 512
# Pictures read ahead, by so many threads: a store answers late, and decoding is done while the detector works.
_READERS = 4
_AHEAD = 8

Named = tuple[str, Frame]
# Asked before a file is opened: why it must not be, or None.
Watch = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How units are worked on. min_score: below it detections are left out. batch: most frames in one run."""

    min_score: float
    batch: int = 1


def work(
    detector: Detector,
    unit: Unit,
    settings: Settings,
    *,
    have: int = 0,
    watch: Watch | None = None,
) -> Generator[Part, None, None]:
    """The parts of a unit, in order; a file's error is in its part and ends that file only.

    have: parts that are there already; their frames are decoded, for a video has no other way to what follows, and not
    inferred. watch: asked before each file, by its name; a text is why it must not be opened. Then one file is worked
    on at a time, so that it is known which one a worker dies of.
    """
    manifest = detector.bundle.manifest
    model = Model(manifest.model_digest, detector.bundle.digest)
    rows: list[Row] = []
    errors: list[FileError] = []
    number, start = 0, time.time()

    def part(*, last: bool) -> Part:
        nonlocal number, start
        data = b"" if number < have else encode(rows_table(rows, model), errors)
        found = sum(len(row.detections) for row in rows)
        done = Part(unit.key, number, last, data, len(rows), found, len(errors), start, known=number < have)
        rows.clear()
        errors.clear()
        number, start = number + 1, time.time()
        return done

    results = _results(detector, unit, settings, have * RANGE, watch)
    with closing(results):
        for result in results:
            if len(rows) == RANGE:  # not before the next one is there: the last part knows that it is the last
                yield part(last=False)
            if isinstance(result, FileError):
                errors.append(result)
            else:
                rows.append(result)
    yield part(last=True)


def _results(
    detector: Detector, unit: Unit, settings: Settings, skip: int, watch: Watch | None
) -> Generator[Row | FileError, None, None]:
    if not unit.files[0].is_video:
        most = settings.batch if watch is None else 1
        with closing(_batches(_pictures(unit.files, watch), most)) as batches:
            for batch in batches:
                yield from _detected(detector, batch, settings)
        return
    (file,) = unit.files
    if watch is not None and (reason := watch(file.name)):
        yield FileError(text(file.name), 0, "InputError", reason)
    else:
        yield from _video(detector, file, settings, skip)


def _video(detector: Detector, file: SourceFile, settings: Settings, skip: int) -> Iterator[Row | FileError]:
    """Every frame of a video, decoded once and in order, never more than a few of them in memory."""
    name, given = text(file.name), 0
    try:
        with _local(file) as path, closing(read_ahead(path)) as frames:
            for frames_now in _chunks(frames, skip, settings.batch):
                if frames_now[0].index < skip:
                    rows = [Row(name, f.index, f.timestamp_ns, Detections.empty(f.image.shape[:2])) for f in frames_now]
                else:
                    rows = _inferred(detector, [(name, frame) for frame in frames_now], settings)
                for row in rows:
                    given += 1
                    yield row
    except Exception as exc:  # a bad file, whatever is bad about it, does not stop the others
        yield _error(name, given, exc)


def _local(file: SourceFile) -> AbstractContextManager[str]:
    return local_copy(file.uri, file.path) if file.uri else nullcontext(_plain_file(file.path))


def _plain_file(path: str) -> str:
    """The path; reading a pipe or device might not end. Raises InputError."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: is a folder, pipe or device; wanted a file")
    return path


def _chunks(frames: Iterable[Frame], skip: int, most: int) -> Iterator[list[Frame]]:
    """Frames in lists of at most so many; the first `skip` one by one, so that none is on both sides."""
    chunk: list[Frame] = []
    for frame in frames:
        chunk.append(frame)
        if frame.index < skip or len(chunk) == most:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _pictures(files: Iterable[SourceFile], watch: Watch | None) -> Generator[Named | FileError, None, None]:
    """Each picture or why it cannot be read, in their order, read ahead by threads unless watched."""
    waiting: deque[tuple[str, Future[Frame]]] = deque()
    pool = ThreadPoolExecutor(_READERS, "edge-retina-batch-reader")

    def first() -> Named | FileError:
        name, future = waiting.popleft()
        try:
            return name, future.result()
        except Exception as exc:
            return _error(name, 0, exc)

    try:
        for file in files:
            name = text(file.name)
            if watch is not None and (reason := watch(file.name)):
                yield FileError(name, 0, "InputError", reason)
                continue
            waiting.append((name, pool.submit(_picture, file)))
            if len(waiting) == (_AHEAD if watch is None else 1):
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _picture(file: SourceFile) -> Frame:
    if file.uri:
        return Frame(decode_image(read_bytes(file.uri, file.path), text(file.name)))
    return Frame(read_image(_plain_file(file.path)))


def _batches(
    pictures: Generator[Named | FileError, None, None], most: int
) -> Generator[list[Named | FileError], None, None]:
    batch: list[Named | FileError] = []
    with closing(pictures):
        for picture in pictures:
            batch.append(picture)
            if len(batch) == most:
                yield batch
                batch = []
        if batch:
            yield batch


def _detected(detector: Detector, batch: list[Named | FileError], settings: Settings) -> Iterator[Row | FileError]:
    """Results of some pictures, in their order; those that a run over all of them fails with are run one by one."""
    good = [picture for picture in batch if not isinstance(picture, FileError)]
    results: list[Row | FileError] = []
    try:
        results = list(_inferred(detector, good, settings))
    except Exception:
        for picture in good:
            try:
                results += _inferred(detector, [picture], settings)
            except Exception as exc:
                results.append(_error(picture[0], 0, exc))
    rest = iter(results)
    yield from (picture if isinstance(picture, FileError) else next(rest) for picture in batch)


def _inferred(detector: Detector, named: list[Named], settings: Settings) -> list[Row]:
    """A row for each frame; a row holds no picture, for many are held before they are written."""
    if not named:
        return []
    found = infer_batches(detector, [[frame for _, frame in named]])
    return [
        Row(name, frame.index, frame.timestamp_ns, detections.mask(min_score=settings.min_score))
        for (name, _), (frame, detections, _) in zip(named, found, strict=True)
    ]


def _error(name: str, frames: int, exc: Exception) -> FileError:
    kind = type(exc).__name__
    return FileError(name, frames, kind, text(str(exc)) if isinstance(exc, EdgeRetinaError) else f"{kind}: {exc}")
