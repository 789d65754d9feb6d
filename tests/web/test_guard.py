from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest
from web.made import TOKEN, Viewer, dog, frame

from edge_retina.web.app import MAX_VIEWERS
from edge_retina.web.guard import Key
from edge_retina.web.sink import WebSink

Serve = Callable[..., WebSink]
PATHS = ("/", "/stream.mjpg", "/pictures", "/detections", "/status", "/metrics", "/healthz", "/page.js", "/nothing")


@pytest.fixture
def locked(serve: Serve) -> WebSink:
    sink = serve(f"http://127.0.0.1:0?token={TOKEN}")
    sink.write(frame(), dog())
    return sink


# ---- the token


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer " + TOKEN[:-1]},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \xe4\xf6"},
        {"Cookie": f"edge_retina_0={TOKEN}"},
        {"Cookie": f"token={TOKEN}"},
        {"Cookie": ";;=;\x01"},
        {"X-Token": TOKEN},
    ],
    ids=str,
)
def test_without_the_token(locked: WebSink, path: str, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    try:
        answer = httpx.get(locked.url + path, headers=raw)
    except httpx.LocalProtocolError:
        pytest.skip("the client does not send that")
    assert answer.status_code in (400, 401)
    assert "door" not in answer.text
    assert TOKEN not in answer.text + str(answer.headers)


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/page.js"])
def test_with_the_token(locked: WebSink, path: str) -> None:
    assert httpx.get(locked.url + path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_picture_stream_takes_it_in_the_address(locked: WebSink) -> None:
    with Viewer(locked.url, f"/stream.mjpg?token={TOKEN}") as viewer:
        assert viewer.part()[0]["X-Camera"] == "door"
        # Who has the token may show the picture in a page of their own.
        assert viewer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert httpx.get(f"{locked.url}/stream.mjpg?token={TOKEN}1").status_code == 401
    assert httpx.get(f"{locked.url}/stream.mjpg?token=wrong&token={TOKEN}").status_code == 401
    assert httpx.get(f"{locked.url}/metrics?token={TOKEN}").status_code == 401


@pytest.mark.parametrize("way", ["address", "form"])
def test_a_browser_keeps_a_cookie(locked: WebSink, way: str) -> None:
    with httpx.Client(base_url=locked.url) as browser:
        asked = browser.get("/")
        assert asked.status_code == 401
        assert 'action="/login"' in asked.text
        assert browser.get("/page.css").status_code == 200
        if way == "address":
            answer = browser.get(f"/?token={TOKEN}")
        else:
            answer = browser.post("/login", data={"token": f" {TOKEN} "})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")  # the token leaves the address
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert TOKEN not in cookie
        assert "<title>edge-retina</title>" in browser.get("/").text
        assert browser.get("/healthz").status_code == 200


def test_the_wrong_token_in_the_form(locked: WebSink) -> None:
    answer = httpx.post(f"{locked.url}/login", data={"token": "canary-canary-canary"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "That is not the token" in answer.text
    assert "canary" not in answer.text


@pytest.mark.parametrize("body", [b"", b"token", b"token=&token=x", b"\xff\xfe=\x00", b"{}"])
def test_nonsense_in_the_form(locked: WebSink, body: bytes) -> None:
    assert httpx.post(f"{locked.url}/login", content=body).status_code == 401


def test_a_long_form(locked: WebSink) -> None:
    assert httpx.post(f"{locked.url}/login", content=b"token=" + b"x" * 10_000).status_code == 413


def test_the_cookie_outlives_a_restart_and_knows_its_port() -> None:
    first = Key(TOKEN, 8080)
    assert Key(TOKEN, 8080).is_session(f"{first.cookie}={first.session}")
    assert not Key(TOKEN, 8081).is_session(f"{first.cookie}={first.session}")
    assert not Key(TOKEN + "2", 8080).is_session(f"{first.cookie}={first.session}")
    assert not Key("", 8080).is_session(f"{first.cookie}=")
    assert not Key("", 8080).is_token("")


# ---- the name


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:1", "[::1]:8080", "10.0.0.7:80", socket.gethostname()],
)
def test_names_it_goes_by(sink: WebSink, host: str) -> None:
    assert httpx.get(sink.url, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8080",
        "",
        "[",
        "1.2.3",
        "[::1].evil.example",
        "localhost:80@evil.example",
    ],
)
def test_names_of_others(sink: WebSink, host: str) -> None:
    answer = httpx.get(f"{sink.url}/healthz", headers={"Host": host})
    assert answer.status_code == 421
    assert "evil" not in answer.text


def test_names_given(serve: Serve) -> None:
    sink = serve("http://127.0.0.1:0?host=robot.lan&host=Other")
    for host, status in (("robot.lan:80", 200), ("other", 200), ("third", 421)):
        assert httpx.get(sink.url, headers={"Host": host}).status_code == status


# ---- other pages, in a browser


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_elsewhere_load_nothing(sink: WebSink, site: str) -> None:
    for mode in ("no-cors", "cors", "same-origin"):
        answer = httpx.get(f"{sink.url}/healthz", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})
        assert answer.status_code == 403
    assert httpx.get(sink.url, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("path", PATHS[4:])
def test_headers_of_every_answer(sink: WebSink, path: str) -> None:
    with httpx.stream("GET", sink.url + path, headers={"Origin": "http://evil.example"}) as answer:
        headers = answer.headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers


# ---- limits


@pytest.mark.parametrize("path", ["/", "/stream.mjpg", "/detections", "/metrics", "/page.js"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_reading(sink: WebSink, path: str, method: str) -> None:
    assert httpx.request(method, sink.url + path).status_code == 405


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/..%2f..%2fetc/passwd", "/web/", "/page.py", "/static", "//etc/passwd"]
)
def test_no_files_but_the_pages_own(sink: WebSink, path: str) -> None:
    with Viewer(sink.url, path) as viewer:
        assert viewer.status == 404


@pytest.mark.parametrize("path", ["/stream.mjpg", "/pictures", "/detections", "/status", "/metrics", "/"])
def test_head_ends(sink: WebSink, path: str) -> None:
    answer = httpx.head(sink.url + path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_long_address(sink: WebSink) -> None:
    assert httpx.get(f"{sink.url}/healthz?{'x' * 3000}").status_code == 414


def test_unknown_camera(sink: WebSink) -> None:
    for path in ("stream.mjpg", "pictures", "detections"):
        assert httpx.get(f"{sink.url}/{path}?camera=no").status_code == 404


def test_as_many_viewers_as_may_be(sink: WebSink) -> None:
    with ExitStack() as stack:
        viewers = [stack.enter_context(Viewer(sink.url, "/status")) for _ in range(MAX_VIEWERS)]
        assert {viewer.status for viewer in viewers} == {200}
        with Viewer(sink.url, "/stream.mjpg") as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert httpx.get(f"{sink.url}/metrics").status_code == 200  # for who watches over it, there is room
