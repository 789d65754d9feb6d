"""Servers that fail on purpose: an MJPEG camera, a GStreamer RTSP server, and a wire between that can be cut."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
from stamped import now_ms, stamped

SYSTEM_PYTHON = "/usr/bin/python3"
HOST = "127.0.0.1"


class MjpegCamera:
    """http://127.0.0.1:PORT/ as cheap cameras serve it. frozen: sends nothing. shape: (H, W) of its pictures."""

    def __init__(self, fps: float = 30.0, shape: tuple[int, int] = (96, 160)) -> None:
        self.fps, self.shape, self.frozen, self.frames = fps, shape, False, None
        self._server = _Server((HOST, 0), functools.partial(_Mjpeg, self))
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/"

    def close(self) -> None:
        self.closing = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    closing = False
    frames: int | None  # so many in each connection, then it is closed


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away; that is what they are for."""


class _Mjpeg(BaseHTTPRequestHandler):
    def __init__(self, camera: MjpegCamera, *args: object) -> None:
        self.camera = camera
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        camera = self.camera
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        sent, stamp, due = 0, 0, time.monotonic()
        while not camera.closing and (camera.frames is None or sent < camera.frames):
            due += 1 / camera.fps
            time.sleep(max(0.0, due - time.monotonic()))
            if camera.frozen:
                continue
            stamp = max(stamp + 1, now_ms())  # no two alike, though they be made in haste
            data = cv2.imencode(".jpg", stamped(camera.shape, stamp), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
            sent += 1

    def log_message(self, *_: object) -> None:
        """Quiet."""


class RtspServer:
    """gst_server.py in a process of its own."""

    def __init__(self, fps: int = 30, size: str = "320x240", codec: str = "h264") -> None:
        command = [SYSTEM_PYTHON, "-W", "ignore", str(Path(__file__).with_name("gst_server.py"))]
        options = ["--fps", str(fps), "--size", size, "--codec", codec]
        self.process = subprocess.Popen(
            command + options, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


@functools.cache
def missing_rtsp() -> str:
    """Why there is no RTSP server here; empty where there is one."""
    names = "appsrc", "x264enc", "rtph264pay", "jpegenc", "rtpjpegpay"
    program = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0'); "
        "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
        f"print(all(Gst.ElementFactory.find(name) for name in {names}))"
    )
    packages = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-{base,good,ugly}"
    wanted = f"no RTSP server: apt-get install {packages}"
    if not os.path.exists(SYSTEM_PYTHON):
        return wanted
    found = subprocess.run([SYSTEM_PYTHON, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    return "" if found.stdout.strip() == "True" else wanted


class Wire:
    """A TCP proxy to a server on this machine. mode: what it does with what passes, changed at any time.

    pass; freeze: connections stay, nothing passes; refuse: they are accepted and closed at once; garbage: bytes on
    their way to the client are replaced by chance. cut() resets all connections.
    """

    def __init__(self, port: int) -> None:
        self.target, self.mode, self.connections = port, "pass", 0
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._chance = random.Random(7)
        self._cut = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        self._cut.set()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._cut.is_set():
                self._drop_all()
                self._cut.clear()
            read = [self._listener, *([] if self.mode == "freeze" else self._pairs)]
            for ready in select.select(read, [], [], 0.01)[0]:
                if ready is self._listener:
                    self._accept()
                elif ready in self._pairs:
                    self._pump(ready)
        self._drop_all()
        self._listener.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.connections += 1
        if self.mode == "refuse":
            client.close()
            return
        try:
            server = socket.create_connection((HOST, self.target), timeout=2)
        except OSError:
            client.close()
            return
        client.settimeout(2)
        self._clients.add(client)
        self._pairs[client], self._pairs[server] = server, client

    def _pump(self, ready: socket.socket) -> None:
        other = self._pairs[ready]
        try:
            data = ready.recv(65536)
            if data and other in self._clients and self.mode == "garbage":
                data = self._chance.randbytes(len(data))
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._drop(ready, other)

    def _drop(self, *sockets: socket.socket) -> None:
        for each in sockets:
            self._pairs.pop(each, None)
            self._clients.discard(each)
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
            each.close()

    def _drop_all(self) -> None:
        self._drop(*list(self._pairs))


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]
