"""Posting to a real server on loopback that takes, refuses, stalls, breaks off, goes away and comes back."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from edge_retina import posting
from edge_retina.errors import OutputError, UsageError
from edge_retina.events import Event
from edge_retina.posting import PostCounts, PostLines
from edge_retina.sinks import open_sink
from edge_retina.types import Detections, Frame

IMAGE = np.zeros((4, 6, 3), np.uint8)
CANARY = "hunter2"


class Server:
    """One behaviour at a time: a status to answer, or "stall", "break off", "endless", "drip"."""

    def __init__(self, behaviour: int | str = 200, port: int = 0) -> None:
        self.behaviour, self.rows, self.requests = behaviour, [], []
        self.attempts = 0
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.attempts += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.answer(self, [json.loads(line) for line in body.splitlines()])

            def log_message(self, *_: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None: ...

        self._server = Quiet(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, rows: list[dict]) -> None:
        behaviour = self.behaviour
        if behaviour == "break off":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        if behaviour == "stall":
            self.released.wait(30)
            return
        if behaviour == "drip":
            while not self.released.wait(0.05):
                handler.wfile.write(b"H")
            return
        self.requests.append((handler.path, handler.headers))
        if behaviour == 200:
            self.rows += rows
        handler.send_response(200 if behaviour == "endless" else behaviour)
        if behaviour == "endless":
            self.rows += rows
            handler.end_headers()
            with contextlib.suppress(OSError):
                while not self.released.is_set():
                    handler.wfile.write(bytes(10_000))
            handler.close_connection = True
            return
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def frames(self) -> list[int]:
        return [row["frame"] for row in self.rows if "frame" in row]


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(posting, "_LONGEST_PAUSE_S", 0.05)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "edge-retina-post"])


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def open_post(port: int, events: list[Event] | None = None, path: str = "/in") -> PostLines:
    heard = [] if events is None else events
    sink = open_sink(f"post+http://127.0.0.1:{port}{path}", on_event=heard.append)
    assert isinstance(sink, PostLines)
    return sink


def write(sink: PostLines, *indices: int, live: bool = True) -> None:
    for index in indices:
        sink.write(Frame(IMAGE, index, time.monotonic_ns(), live=live), Detections.empty((4, 6)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nothing_to_post_makes_no_request(server):
    with open_post(server.port) as sink:
        assert sink.counts == PostCounts()
    assert server.attempts == 0


def test_lines_arrive_in_order_as_jsonl(server):
    with open_post(server.port, path="/in/camera?robot=7") as sink:
        write(sink, 0, 1)
        sink.event(Event("down", "front", reason="unplugged"))
        write(sink, 2)
    assert [row.get("event", row.get("frame")) for row in server.rows] == [0, 1, "down", 2]
    assert server.rows[0]["detections"] == []
    assert server.rows[0]["width"] == 6
    assert {path for path, _ in server.requests} == {"/in/camera?robot=7"}
    assert {headers["Content-Type"] for _, headers in server.requests} == {"application/x-ndjson"}
    assert sink.counts == PostCounts(posted=4)


def test_lines_that_wait_go_together(server):
    server.behaviour = 503
    sink = open_post(server.port)
    write(sink, *range(200))
    server.behaviour = 200
    wait_for(lambda: sink.counts.waiting == 0)
    taken = sum(1 for _, _ in server.requests) - sink.counts.failures
    assert taken < 10
    assert server.frames == list(range(200))
    sink.close()


@pytest.mark.parametrize("behaviour", [500, 503, 429, 408, "break off"])
def test_a_server_that_fails_gets_everything_later(server, behaviour):
    events: list[Event] = []
    server.behaviour = behaviour
    with open_post(server.port, events) as sink:
        write(sink, 0)
        wait_for(lambda: server.attempts >= 3)
        write(sink, 1)
        assert server.frames == []
        server.behaviour = 200
        wait_for(lambda: sink.counts.posted == 2)
    assert server.frames == [0, 1]
    # Each outage is told once when it begins and once when it ends, however many attempts it took.
    assert [event.kind for event in events] == ["sink", "sink"]
    assert (str(behaviour) if behaviour != "break off" else "RemoteDisconnected") in events[0].reason
    assert "takes lines again, 0 dropped" in events[1].reason


def test_a_server_that_is_not_there_yet():
    port = free_port()
    sink = open_post(port)
    write(sink, 0)
    wait_for(lambda: sink.counts.failures >= 2)
    server = Server(port=port)
    try:
        wait_for(lambda: sink.counts.posted == 1)
        assert server.frames == [0]
    finally:
        sink.close()
        server.stop()


def test_a_server_that_goes_and_comes_back():
    server = Server()
    sink = open_post(server.port)
    write(sink, 0)
    wait_for(lambda: sink.counts.posted == 1)
    server.behaviour = "break off"
    write(sink, 1)
    wait_for(lambda: sink.counts.failures >= 1)
    server.stop()
    write(sink, 2, 3)
    wait_for(lambda: sink.counts.failures >= 4)
    again = Server(port=server.port)
    try:
        wait_for(lambda: sink.counts.posted == 4)
        assert (server.frames, again.frames) == ([0], [1, 2, 3])
    finally:
        sink.close()
        again.stop()


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 413])
def test_lines_that_are_refused_are_counted_and_not_sent_again(server, status):
    events: list[Event] = []
    server.behaviour = status
    sink = open_post(server.port, events)
    write(sink, 0)
    wait_for(lambda: sink.counts.refused == 1)
    server.behaviour = 200
    write(sink, 1)
    wait_for(lambda: sink.counts.posted == 1)
    assert server.frames == [1]
    assert f"answered {status}" in events[0].reason
    with pytest.raises(OutputError, match=rf"1 of 2 lines did not arrive: the server answered {status}"):
        sink.close()
    sink.close()  # told once


def test_a_full_queue_drops_the_oldest_counts_them_and_tells(server, monkeypatch):
    monkeypatch.setattr(posting, "_MOST_WAITING", 10)
    monkeypatch.setattr(posting, "_MOST_AT_ONCE", 4)
    events: list[Event] = []
    server.behaviour = 503
    sink = open_post(server.port, events)
    write(sink, 0)
    wait_for(lambda: server.attempts)
    write(sink, *range(1, 31))
    # 0 is being sent, 1 to 20 gave way to 21 to 30.
    counts = sink.counts
    assert (counts.posted, counts.dropped, counts.waiting) == (0, 20, 11)
    server.behaviour = 200
    wait_for(lambda: sink.counts.waiting == 0)
    assert server.frames == [0, *range(21, 31)]
    (told,) = (row for row in server.rows if row.get("event") == "sink")
    assert told["dropped"] == 20
    assert "20 dropped meanwhile" in events[-1].reason
    with pytest.raises(OutputError, match="20 of 32 lines did not arrive"):
        sink.close()


@pytest.mark.parametrize("behaviour", ["stall", "drip"])
def test_a_server_that_stalls_holds_up_nothing(server, behaviour):
    server.behaviour = behaviour
    sink = open_post(server.port)
    write(sink, 0)
    wait_for(lambda: server.attempts)
    begin = time.monotonic()
    write(sink, *range(1, 3000))
    assert time.monotonic() - begin < 1.0
    begin = time.monotonic()
    with pytest.raises(OutputError, match="3000 of 3000 lines did not arrive"):
        sink.close()
    assert time.monotonic() - begin < 2.0
    counts = sink.counts
    assert (counts.posted, counts.dropped, counts.waiting) == (0, 3000, 0)


def test_a_stall_ends_by_the_time_limit(server, monkeypatch):
    monkeypatch.setattr(posting, "_TIMEOUT_S", 0.1)
    server.behaviour = "stall"
    with open_post(server.port) as sink:
        write(sink, 0)
        wait_for(lambda: sink.counts.failures >= 1)
        server.behaviour = 200
        wait_for(lambda: sink.counts.posted == 1)
    assert server.frames == [0]


def test_an_answer_that_comes_in_drops_ends_by_a_time_limit_of_its_own(server, monkeypatch):
    monkeypatch.setattr(posting, "_ANSWER_S", 0.2)
    server.behaviour = "drip"
    events: list[Event] = []
    with open_post(server.port, events) as sink:
        write(sink, 0)
        wait_for(lambda: write(sink, 1) or sink.counts.failures >= 1)
        server.behaviour = 200
        wait_for(lambda: write(sink, 1) or sink.counts.posted >= 2)
    assert "no answer" in events[0].reason
    assert server.frames[0] == 0


def test_an_endless_answer_is_not_read_to_its_end(server):
    server.behaviour = "endless"
    with open_post(server.port) as sink:
        write(sink, 0)
        wait_for(lambda: sink.counts.posted == 1)
        server.behaviour = 200
        write(sink, 1)
        wait_for(lambda: sink.counts.posted == 2)


def test_no_server_at_the_end():
    sink = open_post(free_port())
    write(sink, *range(500))
    begin = time.monotonic()
    with pytest.raises(OutputError, match="500 of 500 lines did not arrive: ConnectionRefusedError"):
        sink.close()
    assert time.monotonic() - begin < 2.0


def test_a_host_that_swallows_packets_is_left_behind_in_time():
    # A listener whose queue is full answers no SYN.
    with socket.socket() as full, contextlib.ExitStack() as others:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        sink = open_post(full.getsockname()[1])
        write(sink, 0)
        time.sleep(0.1)
        begin = time.monotonic()
        with pytest.raises(OutputError, match="1 of 1 lines did not arrive"):
            sink.close()
        assert time.monotonic() - begin < 2.0
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "edge-retina-post"], 10)


def test_frames_of_a_file_wait_for_room(server, monkeypatch):
    monkeypatch.setattr(posting, "_MOST_WAITING", 5)
    monkeypatch.setattr(posting, "_MOST_AT_ONCE", 2)
    with open_post(server.port) as sink:
        write(sink, *range(300), live=False)
    assert server.frames == list(range(300))
    assert sink.counts == PostCounts(posted=300)


def test_frames_of_a_file_do_not_wait_for_a_server_that_is_away(monkeypatch):
    monkeypatch.setattr(posting, "_MOST_WAITING", 5)
    sink = open_post(free_port())
    begin = time.monotonic()
    write(sink, *range(100), live=False)
    assert time.monotonic() - begin < 2.0
    with pytest.raises(OutputError, match="100 of 100"):
        sink.close()


def test_abort_and_close_in_any_order(server):
    sink = open_post(server.port)
    sink.abort()
    sink.abort()
    sink.close()
    write(sink, 0)
    assert sink.counts.dropped == 1
    assert server.attempts == 0


def test_user_and_password_are_sent_and_never_shown(server):
    events: list[Event] = []
    server.behaviour = 401
    uri = f"post+http://me:{CANARY}%21@127.0.0.1:{server.port}/in?token={CANARY}"
    sink = open_sink(uri, on_event=events.append)
    write(sink, 0)
    wait_for(lambda: sink.counts.refused == 1)
    (path, headers) = server.requests[0]
    assert path == f"/in?token={CANARY}"
    assert base64.b64decode(headers["Authorization"].split()[1]) == f"me:{CANARY}!".encode()
    with pytest.raises(OutputError) as refused:
        sink.close()
    told = " ".join([str(refused.value), *(str(event.to_json()) for event in events)])
    assert CANARY not in told
    assert "me:***@127.0.0.1" in told


@pytest.mark.parametrize("behaviour", [500, "stall", "break off", "gone"])
def test_no_secret_in_any_failure(server, behaviour, caplog, capfd, monkeypatch):
    monkeypatch.setattr(posting, "_TIMEOUT_S", 0.05)
    caplog.set_level(0)
    events: list[Event] = []
    server.behaviour = 500 if behaviour == "gone" else behaviour
    port = free_port() if behaviour == "gone" else server.port
    sink = open_sink(f"post+http://me:{CANARY}@127.0.0.1:{port}/in?key={CANARY}", on_event=events.append)
    write(sink, 0)
    wait_for(lambda: sink.counts.failures)
    with pytest.raises(OutputError) as lost:
        sink.close()
    printed = capfd.readouterr()
    told = [str(lost.value), *(str(event.to_json()) for event in events), caplog.text, printed.out, printed.err]
    assert len(events) == 1
    assert CANARY not in " ".join(told)


@pytest.mark.parametrize(
    "uri",
    [
        "post+http://a..b/x",
        "post+http://",
        "post+http:///path",
        "post+http://host:99999/",
        "post+http://host:port/",
        "post+ftp://host/",
        "post+http://host/a b",
        f"post+http://me:{CANARY}@host:x/",
        f"post+http://host/ä?token={CANARY}",
    ],
)
def test_uris_that_mean_nothing(uri):
    with pytest.raises(UsageError, match=r"post\+") as wrong:
        open_sink(uri)
    assert CANARY not in str(wrong.value)


def test_a_certificate_that_nobody_signed_is_not_trusted(tmp_path):
    ssl = pytest.importorskip("ssl")
    events: list[Event] = []
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own_certificate(tmp_path))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                    wrapped.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    sink = open_sink(f"post+https://localhost:{listener.getsockname()[1]}/", on_event=events.append)
    write(sink, 0)
    wait_for(lambda: sink.counts.failures)
    with pytest.raises(OutputError, match="CERTIFICATE_VERIFY_FAILED"):
        sink.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def own_certificate(folder):
    """A certificate for localhost that signs itself, and its key."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "c.pem", folder / "k.pem"
