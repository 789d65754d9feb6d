"""One thread that reads connection after connection."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator

import numpy as np
import pytest

from edge_retina.errors import InputError
from edge_retina.reader import Connection, Reader
from edge_retina.types import Frame

PICTURE = np.zeros((2, 2, 3), np.uint8)


class Source:
    """Gives `count` frames, for ever where it is None, then `error`; notes who reads it and whether it was closed."""

    def __init__(self, count: int | None = 0, error: BaseException | None = None) -> None:
        self.count, self.error, self.closed = count, error, False
        self.reader: threading.Thread | None = None

    def __call__(self, _stop: threading.Event) -> Generator[Frame, None, None]:
        self.reader = threading.current_thread()
        try:
            for index in itertools.islice(itertools.count(), self.count):
                yield Frame(PICTURE, index)
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


class Notes:
    """What a connection tells. enough: has it stop at so many frames."""

    def __init__(self, enough: int | None = None) -> None:
        self.enough, self.indices, self.ends = enough, list[int](), 0

    def put(self, connection: Connection, frame: Frame) -> None:
        connection.count()
        self.indices.append(frame.index)
        if len(self.indices) == self.enough:
            connection.stop.set()

    def finished(self) -> None:
        self.ends += 1

    def of(self, source: Source) -> Connection:
        return Connection(source, self.put, self.finished)


def test_nothing_to_read() -> None:
    reader = Reader("front")
    reader.start()
    assert reader.name == "edge-retina-reader front"
    reader.close()
    reader.join(5)
    assert not reader.is_alive()


def test_a_connection_without_frames() -> None:
    notes, source = Notes(), Source()
    connection = notes.of(source)
    assert not connection.done
    assert not connection.wait(0)
    connection.read()
    assert connection.wait(0)
    assert (connection.done, connection.frames, connection.error, connection.lasted_s) == (True, 0, None, 0)
    assert (notes.indices, notes.ends, source.closed) == ([], 1, True)


@pytest.mark.parametrize("error", [InputError("out"), ValueError("odd"), KeyboardInterrupt()])
def test_what_it_ended_by_is_remembered_and_not_raised(error: BaseException) -> None:
    notes, source = Notes(), Source(2, error)
    connection = notes.of(source)
    connection.read()
    assert connection.error is error
    assert (notes.indices, connection.frames, notes.ends, source.closed) == ([0, 1], 2, 1, True)
    assert connection.silent_s >= 0
    assert connection.lasted_s > 0


def test_a_source_that_cannot_be_opened() -> None:
    def begin(_stop: threading.Event) -> Generator[Frame, None, None]:
        raise InputError("no such camera")

    notes = Notes()
    connection = Connection(begin, notes.put, notes.finished)
    connection.read()
    assert str(connection.error) == "no such camera"
    assert notes.ends == 1


def test_stop_ends_an_endless_one_and_closes_it() -> None:
    notes, source = Notes(enough=3), Source(None)
    notes.of(source).read()
    assert (notes.indices, source.closed) == ([0, 1, 2], True)


def test_one_thread_reads_all_in_order_and_ends_when_closed() -> None:
    notes, sources = Notes(), [Source(1, ValueError("one")), Source(2), Source(3, InputError("three"))]
    connections = [notes.of(source) for source in sources]
    reader = Reader("front")
    reader.start()
    for connection in connections:
        reader.read(connection)
    reader.close()
    reader.join(5)
    assert not reader.is_alive()
    assert notes.indices == [0, 0, 1, 0, 1, 2]
    assert {source.reader for source in sources} == {reader}
    assert [type(connection.error) for connection in connections] == [ValueError, type(None), InputError]


def test_one_that_is_held_ends_once_it_is_let_go() -> None:
    free = threading.Event()

    def begin(_stop: threading.Event) -> Generator[Frame, None, None]:
        free.wait(10)
        yield Frame(PICTURE, 0)

    notes = Notes()
    connection = Connection(begin, notes.put, notes.finished)
    reader = Reader("front")
    reader.start()
    reader.read(connection)
    reader.close()
    assert not connection.wait(0.05)
    assert reader.is_alive()
    free.set()
    assert connection.wait(5)
    reader.join(5)
    assert not reader.is_alive()
