"""A run to look at in a browser, and for programs to read: one HTTP server, fed by frames and events.

`/` is the page: pictures with boxes, rates, latencies, states, counts. `/stream.mjpg?camera=NAME` is a picture that
moves, for an img element, VLC or OpenCV. `/detections` and `/status` are server-sent events, `/metrics` is for
Prometheus, `/healthz` for whoever restarts things. `/pictures` carries all cameras in one stream, for the page.

board.py takes what the run writes; pictures.py encodes what somebody looks at; feeds.py, metrics.py and app.py show it;
guard.py decides who may see it; server.py is the thread all that runs in.
"""

from __future__ import annotations

import os

from edge_retina.errors import MissingPackage
from edge_retina.sink import Sink
from edge_retina.web.address import parse_address

__all__ = ["open_web"]


def open_web(uri: str) -> Sink:
    """The sink that serves `uri`, such as http://127.0.0.1:8080; see address.py for what may stand in it.

    Raises UsageError for an address that makes no sense or is open to others without a token, OutputError where it
    cannot be served, MissingPackage without the extra `web`.
    """
    address = parse_address(uri, os.environ)
    try:
        from edge_retina.web.sink import WebSink
    except ImportError as exc:
        raise MissingPackage(
            "an http:// sink needs starlette, uvicorn and prometheus_client; run: pip install 'edge-retina[web]'"
        ) from exc
    return WebSink(address)
