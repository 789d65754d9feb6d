"""The http:// sink: what the run writes, on the board of a server."""

from __future__ import annotations

from edge_retina.events import Event
from edge_retina.sink import Sink
from edge_retina.types import Detections, Frame
from edge_retina.web.address import Address, listen
from edge_retina.web.board import Board
from edge_retina.web.metrics import Metrics
from edge_retina.web.server import ServerThread

__all__ = ["WebSink"]


class WebSink(Sink):
    """Serves until it is closed. write() and event() note what they are given and never wait for a viewer.

    url: of the page. Raises UsageError for an address open to others without a token, OutputError where it cannot be
    served.
    """

    def __init__(self, address: Address) -> None:
        listener = listen(address)
        metrics = Metrics()
        self._board = Board(metrics)
        try:
            self._server: ServerThread | None = ServerThread(listener, address, self._board, metrics)
        except BaseException:
            listener.close()
            raise
        host = f"[{address.host}]" if ":" in address.host else address.host
        self.url = f"http://{host}:{self._server.port}"

    def write(self, frame: Frame, detections: Detections) -> None:
        """Show a frame and its detections; one written after close() is nobody's."""
        self._board.write(frame, detections)

    def event(self, event: Event) -> None:
        """Show that something happened."""
        self._board.event(event)

    def close(self) -> None:
        """End the server and every stream, within two seconds; the port is free then."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def abort(self) -> None:
        """As close(), for nothing is kept here that could be half done."""
        self.close()
