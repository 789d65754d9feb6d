from __future__ import annotations

import socket

import pytest

from edge_retina.errors import OutputError, UsageError
from edge_retina.web.address import Address, listen, parse_address

TOKEN = "canary-0123456789abcdef"


def test_nothing_but_a_host() -> None:
    assert parse_address("http://127.0.0.1", {}) == Address("127.0.0.1", 8080)


def test_everything() -> None:
    uri = f"http://[::1]:81/?token={TOKEN}&host=Robot.Lan&host=b&width=320&quality=50&fps=2.5"
    assert parse_address(uri, {}) == Address("::1", 81, TOKEN, ("robot.lan", "b"), 320, 50, 2.5)


def test_token_of_the_environment() -> None:
    environment = {"EDGE_RETINA_TOKEN": TOKEN}
    assert parse_address("http://127.0.0.1", environment).token == TOKEN
    assert parse_address(f"http://127.0.0.1?token={TOKEN}2", environment).token == f"{TOKEN}2"
    assert parse_address("http://127.0.0.1?token=", environment).token == ""


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http://:8080",
        "http://[::1:8080",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://127.0.0.1/page",
        "http://127.0.0.1#page",
        f"http://user:{TOKEN}@127.0.0.1",
        f"http://{TOKEN}:@127.0.0.1/",
        f"http://127.0.0.1/x?token={TOKEN}",
        f"http://127.0.0.1?tokn={TOKEN}",
        f"http://127.0.0.1?{TOKEN}",
        f"http://127.0.0.1?fps=fast&token={TOKEN}",
        "http://127.0.0.1?fps=nan",
        "http://127.0.0.1?fps=0",
        "http://127.0.0.1?quality=101",
        "http://127.0.0.1?width=1",
        "http://127.0.0.1?width=12.5",
        "http://127.0.0.1?token=short-canary",
        "http://127.0.0.1?token=canary%20with%20spaces",
        "http://127.0.0.1?token=canary-0123456789-%C3%A4",
    ],
)
def test_nonsense(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(uri, {})
    assert "canary-" not in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert "canary" not in repr(parse_address(f"http://127.0.0.1?token={TOKEN}", {}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "127.9.9.9"])
def test_loopback_needs_no_token(host: str) -> None:
    with listen(Address(host, 0)) as server:
        assert server.getsockname()[0].startswith(("127.", "::1"))


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::", "0x7f000001.0"])
def test_others_need_one(host: str) -> None:
    with pytest.raises((UsageError, OutputError), match=r"demands a token; run: export|no such host"):
        listen(Address(host, 8080))


def test_all_addresses_with_a_token() -> None:
    with listen(Address("0.0.0.0", 0, TOKEN)) as server:
        assert server.getsockname()[0] == "0.0.0.0"


def test_port_in_use() -> None:
    with listen(Address("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OutputError, match=rf"cannot serve 127.0.0.1:{port}: .*ss -ltnp.*:{port + 1}"):
            listen(Address("127.0.0.1", port))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 70])
def test_no_such_host(host: str) -> None:
    with pytest.raises(OutputError, match="no such host"):
        listen(Address(host, 8080))


def test_address_of_another_machine() -> None:
    with pytest.raises(OutputError, match=r"cannot serve 192\.0\.2\.1:8080"):
        listen(Address("192.0.2.1", 8080, TOKEN))


def test_port_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: socket.socket, _place: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(OutputError, match=r"below 1024 are for root; use http://127\.0\.0\.1:8080"):
        listen(Address("127.0.0.1", 80))
