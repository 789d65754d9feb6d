from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from edge_retina.sinks import open_sink
from edge_retina.web.address import TOKEN_VARIABLE
from edge_retina.web.sink import WebSink

Serve = Callable[..., WebSink]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Opens sinks, on loopback and a free port unless told otherwise, and closes them."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with ExitStack() as stack:

        def opened(uri: str = "http://127.0.0.1:0") -> WebSink:
            sink = stack.enter_context(open_sink(uri))
            assert isinstance(sink, WebSink)
            return sink

        yield opened


@pytest.fixture
def sink(serve: Serve) -> WebSink:
    return serve()
