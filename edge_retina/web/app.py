"""The paths of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from importlib.resources import files
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edge_retina.web.address import Address
from edge_retina.web.board import Board
from edge_retina.web.feeds import BOUNDARY, Feeds
from edge_retina.web.guard import Guard, Key
from edge_retina.web.metrics import Metrics

__all__ = ["make_app"]

MAX_VIEWERS = 64
_MAX_FORM = 4096
_FORM_S = 5.0
_FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "plot.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_MJPEG = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
_EVENTS = "text/event-stream"


class _Stream(StreamingResponse):
    """Pieces until the viewer goes; counted while it lasts."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], kind: str, feeds: Feeds) -> None:
        # Proxies that gather an answer before they pass it on would show nothing.
        super().__init__(pieces, media_type=kind, headers={"X-Accel-Buffering": "no"})
        self._pieces, self._feeds = pieces, feeds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until one side has had enough."""
        self._feeds.enter()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feeds.leave()
            await self._pieces.aclose()


def make_app(address: Address, key: Key, board: Board, metrics: Metrics, feeds: Feeds) -> Starlette:
    """The application, behind its guard."""
    page, login = _read("page.html"), _read("login.html")

    async def index(request: Request) -> Response:
        if not request.scope["allowed"]:
            return Response(login, 401, {"WWW-Authenticate": 'Bearer realm="edge-retina"'}, "text/html")
        if "token" in request.query_params:  # out of the address bar and its history
            return _with_cookie(RedirectResponse("/", 303), key)
        return Response(page, media_type="text/html")

    async def enter(request: Request) -> Response:
        form = await _form(request)
        if form is None:
            return PlainTextResponse("the form is too long, or did not come\n", 413, {"Connection": "close"})
        if key.is_needed and not key.is_token(form):
            return Response(login.replace(b"<!--wrong-->", b"That is not the token."), 401, media_type="text/html")
        return _with_cookie(RedirectResponse("/", 303), key)

    async def stream(request: Request) -> Response:
        return _stream(request, feeds, feeds.stream(_cameras(request), one=True), _MJPEG, board)

    async def pictures(request: Request) -> Response:
        return _stream(request, feeds, feeds.stream(_cameras(request), one=False), _MJPEG, board)

    async def detections(request: Request) -> Response:
        return _stream(request, feeds, feeds.results(_cameras(request)), _EVENTS, board)

    async def status(request: Request) -> Response:
        return _stream(request, feeds, feeds.status(), _EVENTS, board)

    async def read_metrics(_request: Request) -> Response:
        text = await asyncio.to_thread(metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def health(_request: Request) -> Response:
        states = {name: state for name, (_, state) in board.ages_and_states().items()}
        live = list(states.values()).count("live")
        verdict = "ok" if live and live == len(states) else "degraded" if live else "no frames"
        return JSONResponse({"status": verdict, "cameras": states}, 200 if live else 503)

    gets = {
        "/": index,
        "/stream.mjpg": stream,
        "/pictures": pictures,
        "/detections": detections,
        "/status": status,
        "/metrics": read_metrics,
        "/healthz": health,
    }
    routes = [Route(path, endpoint) for path, endpoint in gets.items()]
    routes.append(Route("/login", enter, methods=["POST"]))
    routes.extend(Route(f"/{name}", _file(name, kind)) for name, kind in _FILES.items())
    return Starlette(routes=routes, middleware=[Middleware(Guard, address=address, key=key)])


def _read(name: str) -> bytes:
    return files("edge_retina.web").joinpath(name).read_bytes()


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = _read(name)

    async def endpoint(_request: Request) -> Response:
        return Response(content, media_type=kind)

    return endpoint


def _cameras(request: Request) -> list[str]:
    return request.query_params.getlist("camera")


def _stream(request: Request, feeds: Feeds, pieces: AsyncGenerator[bytes, None], kind: str, board: Board) -> Response:
    unknown = sorted(set(_cameras(request)) - set(board.cameras()))
    if unknown:
        return PlainTextResponse(f"no such camera; there are {board.cameras()}\n", 404)
    if feeds.viewers >= MAX_VIEWERS:
        return PlainTextResponse(f"{MAX_VIEWERS} streams are open, the most there may be\n", 503, {"Retry-After": "5"})
    if request.method == "HEAD":
        return Response(media_type=kind)

    return _Stream(pieces, kind, feeds)


def _with_cookie(response: Response, key: Key) -> Response:
    if key.is_needed:
        response.set_cookie(key.cookie, key.session, max_age=30 * 24 * 3600, httponly=True, samesite="lax")
    return response


async def _form(request: Request) -> str | None:
    """The token of a posted form, "" where it has none; None where the form is long or does not come."""
    body = b""

    async def read() -> bytes | None:
        nonlocal body
        async for piece in request.stream():
            body += piece
            if len(body) > _MAX_FORM:
                return None
        return body

    try:
        whole = await asyncio.wait_for(read(), _FORM_S)
    except (asyncio.TimeoutError, ClientDisconnect):
        return None
    return None if whole is None else parse_qs(whole.decode("utf-8", "replace")).get("token", [""])[0].strip()
