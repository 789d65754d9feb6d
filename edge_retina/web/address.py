"""Where the page is served and who may see it: http://HOST[:PORT][?option=value&...], and a token.

Options: token=SECRET, better set as EDGE_RETINA_TOKEN, where other users of the machine cannot see it; host=NAME, a
further name that browsers may call this machine by, repeatable; width=PIXELS of the pictures at most [1280];
quality=1..100 of their JPEG [80]; fps=RATE of pictures at most [30].
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from edge_retina.errors import OutputError, UsageError

__all__ = ["Address", "listen", "parse_address"]

TOKEN_VARIABLE = "EDGE_RETINA_TOKEN"
DEFAULT_PORT = 8080
LEAST_TOKEN = 16  # characters; of hexadecimal digits that is 64 bits
NEW_TOKEN = f"export {TOKEN_VARIABLE}=$(openssl rand -hex 16)"
# What the kernel keeps for one viewer: a slow one then sees pictures that are at most this much old. Linux doubles it.
_SEND_BUFFER = 256 * 1024
# One that takes nothing for this long is cut off, so that a phone that left the room holds nothing.
_GIVE_UP_MS = 20_000


@dataclass(frozen=True, slots=True)
class Address:
    """What a http:// sink was asked for. width: pixels; quality: of JPEG; fps: of pictures; each at most."""

    host: str
    port: int = DEFAULT_PORT
    token: str = field(default="", repr=False)
    names: tuple[str, ...] = ()
    width: int = 1280
    quality: int = 80
    fps: float = 30.0


def parse_address(uri: str, environment: Mapping[str, str]) -> Address:
    """The Address in a URI, its token from the environment where the URI has none. Raises UsageError."""
    # No message quotes the URI, for a token may stand in any place of it.
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise UsageError(f"not an address to serve a page at; use http://127.0.0.1:{DEFAULT_PORT}") from exc
    if not host or parts.username is not None or parts.path.strip("/") or parts.fragment:
        raise UsageError(f"a page wants http://HOST:PORT and no user or path, such as http://127.0.0.1:{DEFAULT_PORT}")
    values: dict[str, Any] = {"token": environment.get(TOKEN_VARIABLE, "")}
    names = []
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key == "host":
            names.append(text.lower())
        elif key in _OPTIONS:
            values[key] = _OPTIONS[key](key, text)
        else:
            found = repr(key) if text else "an option without a value"
            raise UsageError(f"a page has no option {found}; use one of {sorted([*_OPTIONS, 'host'])}")
    token = values["token"]
    if token and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(
            f"a token wants {LEAST_TOKEN} or more letters and digits, found {len(token)} characters; run: {NEW_TOKEN}"
        )
    return Address(host, DEFAULT_PORT if port is None else port, names=tuple(names), **values)


def listen(address: Address) -> socket.socket:
    """A socket that takes connections on the address: on loopback, or with a token on any other.

    Raises UsageError without that token, OutputError where the address or its port cannot be had.
    """
    where = f"{address.host}:{address.port}"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as exc:
        raise OutputError(f"no such host {address.host}; use 127.0.0.1, or an address of: ip -br address") from exc
    # Judged by the number, for a name may be anything.
    if not address.token and not ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback:
        raise UsageError(
            f"{where} lets others in and so demands a token; run: {NEW_TOKEN}, or use http://127.0.0.1:{address.port}"
        )
    server = socket.socket(family, kind, protocol)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart would wait for old connections
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # handed on to each connection
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GIVE_UP_MS)
        server.bind(place)
        server.listen(64)
    except OSError as exc:
        server.close()
        raise OutputError(f"cannot serve {where}: {exc.strerror}; {_remedy(exc, address)}") from exc
    return server


def _remedy(exc: OSError, address: Address) -> str:
    if isinstance(exc, PermissionError):
        return f"ports below 1024 are for root; use http://{address.host}:{DEFAULT_PORT}"
    other = address.port + 1 if address.port < 65535 else DEFAULT_PORT
    return f"is it in use? Find by whom: ss -ltnp 'sport = :{address.port}', or use http://{address.host}:{other}"


def _text(_key: str, text: str) -> str:
    return text


def _between(least: float, most: float, kind: type[int] | type[float]) -> Callable[[str, str], float]:
    def read(key: str, text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise UsageError(f"{key} wants {least:g}..{most:g}, found {text!r}")
        return value

    return read


_OPTIONS: dict[str, Callable[[str, str], str | float]] = {
    "fps": _between(0.1, 120, float),
    "quality": _between(1, 100, int),
    "token": _text,
    "width": _between(16, 8192, int),
}
