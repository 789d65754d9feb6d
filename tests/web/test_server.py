from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import cv2
import httpx
import numpy as np
import pytest
from web.made import TOKEN, Viewer, dog, frame, none, place

from edge_retina.errors import MissingPackage, OutputError, UsageError
from edge_retina.events import Event
from edge_retina.sinks import open_sink
from edge_retina.types import Detections, Frame
from edge_retina.web import feeds, server
from edge_retina.web.sink import WebSink

Serve = Callable[..., WebSink]


@contextmanager
def writing(sink: WebSink, shape: tuple[int, int] = (48, 64), fps: float = 50) -> Iterator[list[float]]:
    """A run that writes at a fixed rate; the seconds that each write took."""
    took: list[float] = []
    stop = threading.Event()
    detections = dog(shape)
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)

    def run() -> None:
        start, index = time.perf_counter(), 0
        while not stop.is_set():
            now = time.perf_counter()
            sink.write(Frame(image, index, time.monotonic_ns(), live=True, camera="door"), detections)
            took.append(time.perf_counter() - now)
            index += 1
            stop.wait(max(0.0, start + index / fps - time.perf_counter()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


# ---- what it shows


def test_before_the_first_frame(sink: WebSink) -> None:
    answer = httpx.get(f"{sink.url}/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "no frames", "cameras": {}})
    assert "<title>edge-retina</title>" in httpx.get(sink.url).text
    with Viewer(sink.url, "/status") as viewer:
        assert viewer.event("status")["cameras"] == []
        assert viewer.event("history")["classes"] == []


def test_health(sink: WebSink) -> None:
    def health() -> tuple[int, str]:
        answer = httpx.get(f"{sink.url}/healthz")
        return answer.status_code, answer.json()["status"]

    sink.write(frame(camera="a"), none())
    sink.write(frame(camera="b"), none())
    assert health() == (200, "ok")
    sink.event(Event("down", "a"))
    assert health() == (200, "degraded")
    sink.event(Event("stale", "b"))
    assert health() == (503, "no frames")
    assert httpx.get(f"{sink.url}/healthz").json()["cameras"] == {"a": "down", "b": "stale"}


def test_picture_stream(sink: WebSink) -> None:
    sink.write(frame(7), dog())
    with Viewer(sink.url, "/stream.mjpg") as viewer:
        assert viewer.headers["content-type"] == "multipart/x-mixed-replace; boundary=edge-retina-frame"
        head, jpeg = viewer.part()
        assert (head["X-Camera"], head["X-Frame"], head["Content-Type"]) == ("door", "7", "image/jpeg")
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (48, 64, 3)
        assert np.ptp(image[30, 1].astype(int)) > 60  # the coloured edge of the box on grey
        sink.write(frame(8), none())
        assert viewer.part()[0]["X-Frame"] == "8"


def test_opencv_reads_the_picture_stream(sink: WebSink) -> None:
    with writing(sink, (120, 160)):
        capture = cv2.VideoCapture(f"{sink.url}/stream.mjpg", cv2.CAP_FFMPEG)
        shapes = [image.shape for ok, image in (capture.read() for _ in range(3)) if ok]
        capture.release()
    assert shapes == [(120, 160, 3)] * 3


def test_pictures_of_one_camera_and_of_all(sink: WebSink) -> None:
    with Viewer(sink.url, "/pictures") as everything:
        for index, camera in enumerate(("front door", "käse/b")):
            sink.write(frame(index, camera), none())
        with Viewer(sink.url, "/stream.mjpg?camera=k%C3%A4se/b") as one, Viewer(sink.url, "/stream.mjpg") as first:
            assert one.part()[0]["X-Frame"] == "1"
            assert first.part()[0]["X-Frame"] == "0"
        assert {everything.part()[0]["X-Camera"] for _ in range(2)} == {"front%20door", "k%C3%A4se%2Fb"}


def test_detections(sink: WebSink) -> None:
    sink.write(frame(3), dog())
    with Viewer(sink.url, "/detections") as viewer, Viewer(sink.url, "/detections?camera=door") as one:
        assert viewer.headers["content-type"].startswith("text/event-stream")
        row = viewer.event("detections")
        assert (row["camera"], row["frame"], row["detections"][0]["name"]) == ("door", 3, "dog")
        for index in range(4, 60):  # at once, and yet all of them come
            sink.write(frame(index), none())
        assert [viewer.event("detections")["frame"] for _ in range(56)] == list(range(4, 60))
        sink.write(frame(0, "gate"), none())
        sink.event(Event("down", "door", reason="why"))
        assert viewer.event("detections")["camera"] == "gate"
        assert viewer.event("event")["reason"] == "why"
        assert {one.event("detections")["camera"] for _ in range(57)} == {"door"}
        assert one.event("event")["camera"] == "door"


def test_heartbeats(sink: WebSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(feeds, "TICK_S", 0.1)
    with Viewer(sink.url, "/detections") as viewer:
        lines = [viewer.answer.readline() for _ in range(4)]
    assert lines == [b"retry: 2000\n", b"\n", b": still here\n", b"\n"]


def test_status_comes_each_second(sink: WebSink) -> None:
    sink.write(frame(), dog())
    sink.event(Event("live", "door"))
    with Viewer(sink.url, "/status") as viewer:
        first = viewer.event("status")
        history = viewer.event("history")
        second = viewer.event("status")
    assert first["cameras"][0]["counts"] == {"dog": 1}
    assert second["viewers"] == 1
    assert 0 < second["time"] - first["time"] < 3
    assert history["events"][0]["event"] == "live"


# ---- viewers


def test_nobody_looks_and_nothing_is_encoded(sink: WebSink) -> None:
    for index in range(20):
        sink.write(frame(index), dog())
    with Viewer(sink.url, "/status") as viewer:
        viewer.event("status")
    assert "edge_retina_pictures_encoded_total 0.0" in httpx.get(f"{sink.url}/metrics").text


def test_twenty_viewers(sink: WebSink) -> None:
    """All see pictures, each made once, and those who write do not notice."""
    with ExitStack() as stack:
        took = stack.enter_context(writing(sink, (240, 320)))
        viewers = [stack.enter_context(Viewer(sink.url, "/stream.mjpg")) for _ in range(20)]
        parts = [[viewer.part() for _ in range(5)] for viewer in viewers]
    frames = [[int(head["X-Frame"]) for head, _ in of_one] for of_one in parts]
    assert all(numbers == sorted(set(numbers)) for numbers in frames)
    text = httpx.get(f"{sink.url}/metrics").text
    encoded = float(text.split("\nedge_retina_pictures_encoded_total ")[1].split()[0])
    assert encoded <= len(took)
    assert np.median(took) < 0.005


def test_a_viewer_who_does_not_read(sink: WebSink) -> None:
    """Others go on seeing; when it reads again, what comes soon is new."""
    with ExitStack() as stack:
        took = stack.enter_context(writing(sink, (720, 1280)))
        slow = stack.enter_context(Viewer(sink.url, "/stream.mjpg"))
        quick = stack.enter_context(Viewer(sink.url, "/stream.mjpg"))
        end = time.monotonic() + 2
        seen = 0
        while time.monotonic() < end:
            quick.part()
            seen += 1
        before = len(took)
        stale = 0
        while int(slow.part()[0]["X-Frame"]) < before - 1:
            stale += 1
    assert seen >= 5
    # What lay in the kernel's buffers, the sender's and the reader's own, of pictures of more than 1 MB.
    assert stale <= 8
    assert np.median(took) < 0.005


def test_viewers_who_go_are_forgotten(sink: WebSink) -> None:
    sink.write(frame(), dog())
    for path in ("/stream.mjpg", "/pictures", "/detections", "/status"):
        with Viewer(sink.url, path) as viewer:
            assert viewer.answer.readline()
    deadline = time.monotonic() + 10
    while "edge_retina_viewers 0.0" not in httpx.get(f"{sink.url}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- its end, and others


def test_close_with_viewers(serve: Serve) -> None:
    sink = serve()
    threads = threading.active_count()
    with ExitStack() as stack:
        viewers = [stack.enter_context(Viewer(sink.url, path)) for path in ("/detections", "/status")]
        took = stack.enter_context(writing(sink, (720, 1280)))
        stuck = [stack.enter_context(Viewer(sink.url, path)) for path in ("/stream.mjpg", "/pictures")]
        idle = stack.enter_context(socket.create_connection(place(sink.url)))
        while len(took) < 20:  # the buffers of those who do not read are full
            time.sleep(0.01)
        time.sleep(0.3)
        start = time.monotonic()
        sink.close()
        assert time.monotonic() - start < 2
        for viewer in viewers:
            viewer.rest()  # ends, and in good order
        assert idle.recv(1) == b""
        assert [viewer.status for viewer in stuck] == [200, 200]
    assert not any(thread.name == "edge-retina-web" for thread in threading.enumerate())
    assert threading.active_count() <= threads
    with pytest.raises(httpx.ConnectError):
        httpx.get(sink.url)
    sink.write(frame(), none())  # harmless
    sink.event(Event("down", "door"))
    sink.close()
    sink.abort()


def test_restart_on_the_same_port(serve: Serve) -> None:
    port = place(serve().url)[1]
    with pytest.raises(OutputError, match="is it in use"):
        open_sink(f"http://127.0.0.1:{port}")
    first = serve("http://127.0.0.1:0")
    for _ in range(3):
        port = place(first.url)[1]
        with Viewer(first.url, "/status") as viewer:
            viewer.event("status")
            first.close()
        first = serve(f"http://127.0.0.1:{port}")
        assert httpx.get(f"{first.url}/healthz").status_code == 503


def test_two_sinks(serve: Serve) -> None:
    first, second = serve(), serve()
    first.write(frame(camera="a"), dog())
    second.write(frame(camera="b"), none())
    assert httpx.get(f"{first.url}/healthz").json()["cameras"] == {"a": "live"}
    assert httpx.get(f"{second.url}/healthz").json()["cameras"] == {"b": "live"}
    assert 'camera="b"' not in httpx.get(f"{first.url}/metrics").text
    first.close()
    assert httpx.get(f"{second.url}/healthz").status_code == 200


def test_no_descriptor_is_left(serve: Serve) -> None:
    def cycle() -> None:
        with open_sink("http://127.0.0.1:0") as sink:
            assert isinstance(sink, WebSink)
            sink.write(frame(), dog())
            with Viewer(sink.url, "/stream.mjpg") as viewer:
                viewer.part()

    cycle()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        cycle()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_open_to_others_without_a_token(serve: Serve) -> None:
    with pytest.raises(UsageError, match="demands a token; run: export EDGE_RETINA_TOKEN="):
        open_sink("http://0.0.0.0:8080")
    sink = serve(f"http://0.0.0.0:0?token={TOKEN}")
    answer = httpx.get(f"http://127.0.0.1:{place(sink.url)[1]}/healthz", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 503


def test_without_the_extra() -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from edge_retina.sinks import open_sink\n"
        "from edge_retina.errors import MissingPackage\n"
        "try: open_sink('http://127.0.0.1:0')\n"
        "except MissingPackage as exc: print(exc)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.endswith("run: pip install 'edge-retina[web]'\n")
    assert MissingPackage.exit_code == 8


# ---- rubbish


GARBAGE = [
    b"",
    b"\r\n\r\n",
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /%ff%fe?camera=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /stream.mjpg?camera=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    bytes(range(256)) * 300,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage(sink: WebSink, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(place(sink.url), 10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        assert b"Traceback" not in answer
        assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert httpx.get(f"{sink.url}/healthz").status_code == 503
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_random_bytes(sink: WebSink) -> None:
    random = np.random.default_rng(7)
    for size in random.integers(1, 3000, 40):
        with socket.create_connection(place(sink.url), 10) as connection:
            connection.sendall(random.bytes(int(size)))
    assert httpx.get(f"{sink.url}/healthz").status_code == 503


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HTTP/1.1\r\nHost: local", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"]
)
def test_a_request_that_does_not_come(serve: Serve, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(server, "_IDLE_S", 0.1)
    sink = serve()
    with socket.create_connection(place(sink.url), 10) as connection:
        connection.sendall(begun)
        start = time.monotonic()
        with suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
        assert time.monotonic() - start < 5


def test_half_open_connections_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_OPEN", 4)
    sink = serve()
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(place(sink.url), 10)) for _ in range(4)]
        with socket.create_connection(place(sink.url), 10) as beyond, suppress(ConnectionResetError):
            assert beyond.recv(1) == b""
        held[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert held[0].recv(65536).startswith(b"HTTP/1.1 503")


def test_a_form_that_does_not_come(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_retina.web.app._FORM_S", 0.1)
    sink = serve(f"http://127.0.0.1:0?token={TOKEN}")
    with socket.create_connection(place(sink.url), 10) as connection:
        connection.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken=")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


# ---- passwords


def test_nothing_shows_a_password(
    serve: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary-0123456789"
    uri = f"rtsp://admin:{canary}@10.0.0.7/cam?token={canary}"
    sink = serve(f"http://127.0.0.1:0?token={canary}")
    key = {"Authorization": f"Bearer {canary}"}
    for camera in ("", uri):
        sink.write(Frame(np.zeros((48, 64, 3), np.uint8), 0, 0, uri, live=True, camera=camera), none())
    for kind in ("connecting", "live", "stale", "down", "sink"):
        sink.event(Event(kind, uri, reason=f"no video from {uri} within 10 s", data={"uri": uri}))
    seen = [repr(sink), str(vars(sink)), sink.url]
    for path in (
        "/",
        "/healthz",
        "/metrics",
        "/nothing",
        f"/?token={canary}",
        "/stream.mjpg?camera=no",
        "/stream.mjpg",
    ):
        with Viewer(sink.url, path, key) as viewer:
            seen += [str(viewer.headers.items()), viewer.answer.read(300).decode("latin-1")]
    with Viewer(sink.url, "/detections", key) as viewer:
        seen.append(json.dumps(viewer.event("detections")))
        sink.event(Event("down", uri, reason=uri))
        seen.append(json.dumps(viewer.event("event")))
    with Viewer(sink.url, "/status", key) as viewer:
        seen += [json.dumps(viewer.event("status")), json.dumps(viewer.event("history"))]
    with pytest.raises(OutputError) as caught:
        open_sink(f"http://127.0.0.1:{place(sink.url)[1]}?token={canary}")
    seen += [str(caught.value), caplog.text, *capfd.readouterr()]
    assert not [text for text in seen if canary in text]


def test_embedded_without_a_run() -> None:
    """A program of one's own: frames in, page out, no event ever."""
    with open_sink("http://localhost:0") as sink:
        assert isinstance(sink, WebSink)
        sink.write(Frame(np.zeros((4, 4, 3), np.uint8)), Detections.empty((4, 4)))
        assert httpx.get(f"{sink.url}/healthz").json() == {"status": "ok", "cameras": {"camera": "live"}}
