"""The server's thread: uvicorn on a socket that is open already, ended within two seconds whoever still looks."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_retina.errors import OutputError
from edge_retina.web.address import Address
from edge_retina.web.app import make_app
from edge_retina.web.board import Board
from edge_retina.web.feeds import Feeds
from edge_retina.web.guard import Key
from edge_retina.web.metrics import Metrics

__all__ = ["ServerThread"]

_START_S = 10.0
# Streams that nobody takes from are cut off after the first, and whoever still lingers after the second is left behind.
_CUT_OFF_S = 0.3
_CLOSE_S = 1.8
# A connection that asks for nothing, or not to the end, is closed after one to two of these.
_IDLE_S = 5.0
_MAX_HEAD = 16 * 1024
_MAX_CONNECTIONS = 256
# Beyond, not even a 503 is sent: open connections are file descriptors, which cameras and files need too.
_MOST_OPEN = 320
# Garbage from the network is no news for the log; without any handler Python would print it.
logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())


class _Protocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for a request to come in."""

    _was_idle = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch = self.loop.call_later(_IDLE_S, self._look)
        if len(self.connections) > _MOST_OPEN:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._was_idle:
            self.transport.abort()
            return
        self._was_idle = idle
        self._watch = self.loop.call_later(_IDLE_S, self._look)


class _Server(uvicorn.Server):
    """uvicorn that tells when it has started."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


class ServerThread:
    """Serves the board on a listening socket until close(). Raises OutputError where it does not start."""

    def __init__(self, listener: socket.socket, address: Address, board: Board, metrics: Metrics) -> None:
        self._board = board
        self._listener = listener
        self.port = int(listener.getsockname()[1])
        self._feeds = Feeds(board, metrics, address.width, address.quality, address.fps)
        app = make_app(address, Key(address.token, self.port), board, metrics, self._feeds)
        ready = threading.Event()
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,  # tokens may stand in addresses
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=_MAX_HEAD,
        )
        self._server = _Server(config, ready)
        self._thread = threading.Thread(target=self._run, name="edge-retina-web", daemon=True)
        self._waking = False
        self._thread.start()
        if not ready.wait(_START_S):
            self.close()
            raise OutputError(f"the server on port {self.port} did not start within {_START_S:g} s; try again")

    def close(self) -> None:
        """End every stream and the thread. Returns within two seconds."""
        self._board.on_change = lambda: None
        if self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stop)
            except (AttributeError, RuntimeError):  # not begun, or over in this moment
                self._server.should_exit = True
            self._thread.join(_CLOSE_S)
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._board.on_change = self._wake
        ticking = self._loop.create_task(self._feeds.tick())
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            ticking.cancel()
            self._cut_off()

    def _wake(self) -> None:
        """Called by the run's thread for each result: tells the loop, unless it has been told and not looked yet."""
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._changed)
            except RuntimeError:  # over in this moment
                self._board.on_change = lambda: None

    def _changed(self) -> None:
        self._waking = False
        self._feeds.changed()

    def _stop(self) -> None:
        self._feeds.close()
        self._server.should_exit = True
        self._loop.call_later(_CUT_OFF_S, self._cut_off)

    def _cut_off(self) -> None:
        for connection in list(self._server.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
