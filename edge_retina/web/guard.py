"""Who may see what: the name a browser used, the token, where a request came from; and what browsers may do with it."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_retina.web.address import Address

__all__ = ["Guard", "Key"]

# What may be had without a token: asking for it, and how that looks.
OPEN_PATHS = ("/login", "/page.css")
# Where the token may stand in the address, for an img element and a bookmark cannot send headers.
QUERY_PATHS = ("/", "/stream.mjpg")
MAX_QUERY = 2048
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Key:
    """The token of a server and what stands for it in a cookie; compares in constant time."""

    def __init__(self, token: str, port: int) -> None:
        self._token = token.encode()
        # Cookies know no ports: two servers of one machine must not overwrite each other's.
        self.cookie = f"edge_retina_{port}"
        # Not the token itself; the same after a restart, so that nobody has to enter it again.
        self.session = hmac.new(self._token, b"edge-retina session", hashlib.sha256).hexdigest() if token else ""

    @property
    def is_needed(self) -> bool:
        """Whether there is a token at all."""
        return bool(self._token)

    def is_token(self, text: str) -> bool:
        """Whether `text` is the token."""
        return self.is_needed and hmac.compare_digest(text.encode("utf-8", "replace"), self._token)

    def is_session(self, cookies: str) -> bool:
        """Whether a Cookie header holds the session of this token."""
        try:
            found = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return False
        return self.is_needed and found is not None and hmac.compare_digest(found.value.encode(), self.session.encode())


class Guard:
    """Lets through what may pass, with headers that keep other pages out; answers the rest itself.

    scope["allowed"] of what passes: whether the cookie or the token was right, or no token is needed.
    """

    def __init__(self, app: ASGIApp, address: Address, key: Key) -> None:
        self._app, self._key = app, key
        host = socket.gethostname().lower()
        self._names = {"localhost", host, f"{host}.local", address.host.lower(), *address.names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        query = scope["query_string"][: MAX_QUERY + 1].decode("latin-1")
        explicit = self._shows_token(headers, scope["path"], query)
        allowed = explicit or not self._key.is_needed or self._key.is_session(headers.get("cookie", ""))

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer[name] = value
                # Who embeds a picture with the token in its address may; nobody else.
                answer["Cross-Origin-Resource-Policy"] = "cross-origin" if explicit else "same-origin"
            await send(message)

        refusal = self._refusal(scope, headers, explicit=explicit, allowed=allowed)
        scope["allowed"] = allowed
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers, *, explicit: bool, allowed: bool) -> Response | None:
        if len(scope["query_string"]) > MAX_QUERY:
            return PlainTextResponse("the address is too long\n", 414)
        if not self._knows(headers.getlist("host")):
            # A page elsewhere whose name was made to point here (DNS rebinding) would otherwise read all of this.
            return PlainTextResponse(
                "this server does not go by that name; use its IP address, or add ?host=NAME to the sink's address\n",
                421,
            )
        # Pages elsewhere may lead here, but not load from here.
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
        if not explicit and site in ("cross-site", "same-site") and mode != "navigate":
            return PlainTextResponse("not for pages of other servers\n", 403)
        if not allowed and scope["path"] not in (*OPEN_PATHS, "/"):
            return PlainTextResponse(
                "a token is needed; send it as: Authorization: Bearer TOKEN\n",
                401,
                {"WWW-Authenticate": 'Bearer realm="edge-retina"'},
            )
        return None

    def _shows_token(self, headers: Headers, path: str, query: str) -> bool:
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._key.is_token(text.strip()):
            return True
        if path not in QUERY_PATHS:
            return False
        return any(self._key.is_token(text) for text in parse_qs(query).get("token", [])[:1])

    def _knows(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        host = hosts[0].strip().lower()
        bare, _, port = (host[1:] if host.startswith("[") else host).partition("]" if host.startswith("[") else ":")
        if not re.fullmatch(r":?[0-9]*", port):  # no browser sends that
            return False
        host = bare
        if host.rstrip(".") in self._names:
            return True
        try:  # no name can be made to point elsewhere where none is used
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True
