"""`edge-retina run` as a process on live streams: signals end it in time and in order, and no password is ever told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
from faults import HOST, MjpegCamera, RtspServer, Wire, missing_rtsp, silent_port
from models import tiny_model

from edge_retina import build, cli

needs_rtsp = pytest.mark.skipif(bool(missing_rtsp()), reason=missing_rtsp() or "there")
CANARY = "hunter2-canary"
# A word of the URI that must be seen, for a message that tells nothing would pass as well.
SEEN = "admin:***@"
# From the signal to the end of the process; of so many tries the fastest counts.
END_S, TRIES = 2.0, 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    tiny_model(folder / "m.onnx", input_size=(64, 64))
    return build(folder / "m.onnx", folder / "m.edge").path


@pytest.fixture
def mjpeg() -> Iterator[MjpegCamera]:
    camera = MjpegCamera(fps=15)
    yield camera
    camera.close()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Run:
    """A run in a folder. Its outs are o.jsonl, v.mp4 and the page, and what is given beside them."""

    process: subprocess.Popen[bytes]
    folder: Path
    out: Path
    err: Path
    port: int

    def lines(self) -> list[dict[str, object]]:
        path = self.folder / "o.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def page(self, path: str) -> str:
        """What the page's server answers; of what never ends, the first event."""
        try:
            answer = urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=10)
        except urllib.error.HTTPError as exc:  # /healthz while no camera is live
            answer = exc
        with answer:
            if answer.headers.get_content_type() == "text/event-stream":
                return next(line.decode() for line in answer if line.startswith(b"data:"))
            return str(answer.read().decode())

    def until(self, frames: int = 0, downs: Set[str] = frozenset()) -> None:
        """Wait for so many lines of frames, and for an event of each of these cameras that it is down."""
        deadline = time.monotonic() + 60
        while True:
            rows = self.lines()
            down = {str(row["camera"]) for row in rows if row.get("event") == "down"}
            if sum("frame" in row for row in rows) >= frames and downs <= down:
                return
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, (len(rows), downs - down)
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> float:
        """Seconds that it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(60)
        return time.monotonic() - start

    def said(self) -> tuple[str, str]:
        """Its stdout and stderr so far."""
        return self.out.read_text(), self.err.read_text()


@contextlib.contextmanager
def running(bundle: Path, folder: Path, sources: Sequence[str], outs: Sequence[str] = ()) -> Iterator[Run]:
    folder.mkdir()
    port = free_port()
    own = [str(folder / "o.jsonl"), str(folder / "v.mp4"), f"http://{HOST}:{port}"]
    options = [x for source in sources for x in ("--source", source)] + [
        x for out in [*own, *outs] for x in ("--out", out)
    ]
    command = [sys.executable, "-m", "edge_retina", "run", str(bundle), *options, "--target", "ort"]
    out, err = folder.with_suffix(".out"), folder.with_suffix(".err")  # files, for nobody reads a pipe meanwhile
    with (
        out.open("w") as stdout,
        err.open("w") as stderr,
        subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=folder) as process,
    ):
        try:
            yield Run(process, folder, out, err, port)
        finally:
            process.kill()


def ends_in_order(
    bundle: Path, tmp_path: Path, number: signal.Signals, sources: Sequence[str], outs: Sequence[str] = ()
) -> str:
    """What stderr says of a run that was ended by a signal; asserts time and sinks."""
    took = []
    for attempt in range(TRIES):
        with running(bundle, tmp_path / str(attempt), sources, outs) as run:
            run.until(frames=5)
            assert "edge_retina" in run.page("/metrics")
            seconds = run.end(number)
        _, err = run.said()
        took.append(seconds)
        assert run.process.returncode == 130
        assert err.endswith("\nedge-retina: interrupted\n"), err
        assert "Traceback" not in err
        assert (run.folder / "o.jsonl").read_text().endswith("\n")
        written = sum("frame" in row for row in run.lines())
        video = cv2.VideoCapture(str(run.folder / "v.mp4"))
        frames = 0
        while video.grab():
            frames += 1
        video.release()
        lost = sum(int(found) for found in re.findall(r"too slow for (\d+) results", err))
        found = re.search(r"(?m)^(\d+) frames, ", err)
        assert found is not None
        assert written >= 5
        assert 0 < frames <= int(found[1])
        assert written + frames + lost >= int(found[1])
        assert sorted(path.name for path in run.folder.iterdir()) == ["o.jsonl", "v.mp4"]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((HOST, run.port), timeout=2)
        # Longer where other programs want the processors as well.
        if seconds < END_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
            return err
    raise AssertionError(f"took {took} s to end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_live_run(bundle: Path, tmp_path: Path, mjpeg: MjpegCamera, number: signal.Signals) -> None:
    ends_in_order(bundle, tmp_path, number, [mjpeg.url])


@needs_rtsp
def test_a_signal_ends_a_run_over_rtsp(bundle: Path, tmp_path: Path) -> None:
    server = RtspServer()
    try:
        ends_in_order(bundle, tmp_path, signal.SIGTERM, [f"rtsp://{HOST}:{server.port}/camera"])
    finally:
        server.close()


def test_a_signal_ends_it_though_a_camera_is_frozen_and_a_receiver_hangs(
    bundle: Path, tmp_path: Path, mjpeg: MjpegCamera
) -> None:
    frozen = MjpegCamera()
    frozen.frozen = True
    try:
        with silent_port() as deaf, silent_port() as dumb:
            sources = [mjpeg.url, frozen.url, f"rtsp://{HOST}:{dumb}/1"]
            err = ends_in_order(bundle, tmp_path, signal.SIGINT, sources, [f"post+http://u:{CANARY}@{HOST}:{deaf}/x"])
    finally:
        frozen.close()
    assert CANARY not in err


# Passwords


def credentials(url: str) -> str:
    """The URL with a user and the canary for a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://admin:{CANARY}@{rest}"


def bad_streams(silent: int, refusing: int, garbage: int) -> dict[str, str]:
    """Streams that fail, each in its way, by name; the ports are of servers that do."""
    ports = {"dead": free_port(), "frozen": silent, "refused": refusing, "garbage": garbage}
    kinds = ["rtsp", "http", "rtmp"]
    bad = {
        f"{fault}-{scheme}": credentials(f"{scheme}://{HOST}:{port}/video?token={CANARY}")
        for fault, port in ports.items()
        for scheme in kinds
    }
    # Not one that keeps OpenCV waiting: meanwhile it lets nobody else open a video, the sink that checks its own.
    return bad | {f"dead-{scheme}-opencv": f"{bad[f'dead-{scheme}']}#decoder=opencv" for scheme in kinds}


def test_no_password_in_a_run_whose_cameras_fail_in_every_way(bundle: Path, tmp_path: Path, mjpeg: MjpegCamera) -> None:
    refusing, garbage = Wire(mjpeg.port), Wire(mjpeg.port)
    refusing.mode, garbage.mode = "refuse", "garbage"
    try:
        with silent_port() as silent, silent_port() as deaf:
            bad = bad_streams(silent, refusing.port, garbage.port)
            sources = [credentials(mjpeg.url), *(f"{name}={uri}" for name, uri in bad.items())]
            outs = [f"post+http://admin:{CANARY}@{HOST}:{port}/?token={CANARY}" for port in (deaf, free_port())]
            with running(bundle, tmp_path / "run", sources, outs) as run:
                run.until(frames=3, downs=set(bad))
                pages = {path: run.page(path) for path in ("/", "/metrics", "/status", "/healthz")}
                run.end(signal.SIGTERM)
    finally:
        refusing.close()
        garbage.close()
    out, err = run.said()
    reasons = {str(row.get("camera")): str(row["reason"]) for row in run.lines() if row.get("event") == "down"}
    for name, uri in bad.items():
        assert SEEN in reasons[name] or "no frame for" in reasons[name], (name, reasons[name])
        assert f"{name}: down (" in err, uri
    told = {**pages, "stdout": out, "stderr": err, "jsonl": (run.folder / "o.jsonl").read_text()}
    for where in ("/metrics", "/status", "stderr", "jsonl"):
        assert SEEN in told[where], where  # the camera that works is named by its URI
    assert "post+http://admin:***@" in err
    assert [where for where, text in told.items() if CANARY in text] == []
    assert CANARY.encode() not in (run.folder / "v.mp4").read_bytes()


GOOD = "test://?size=64x64&frames=2"
# What is typed, the exit code, and what the message must say.
MISTAKES = [
    (["--source", f"rtsp://admin:{CANARY}@{HOST}:9/1"], 3, SEEN),
    (["--source", f"front=rtsp://admin:{CANARY}@{HOST}:9/1"], 3, SEEN),
    (["--camera", f"http://admin:{CANARY}@{HOST}:9/1"], 3, SEEN),
    (["--source", f"http://{HOST}:9/login?user=admin&password={CANARY}"], 3, "password=***"),
    (["--source", f"rtsp://{HOST}:9/user=admin_password={CANARY}_channel=1"], 3, "password=***_channel=1"),
    (["--source", f"rtsp://admin:{CANARY}/p@a#b@{HOST}:9/1#decoder=opencv"], 3, SEEN),
    (["--source", f"rtspx://admin:{CANARY}@{HOST}/1"], 2, "rtspx://" + SEEN),
    (["--source", f"1=rtsp://admin:{CANARY}@{HOST}/1"], 2, SEEN),
    (["--source", f"rtsp:/admin:{CANARY}@{HOST}/1"], 3, "no such file"),
    (["--source", f"admin:{CANARY}@{HOST}/1"], 3, "no such file"),
    (["--source", f"admin:{CANARY}@{HOST}/*"], 3, "wanted images"),
    (["--source", f"rtsp://admin:{CANARY}@{HOST}/ 1"], 2, "without spaces"),
    (["--source", f"rtsp://admin:{CANARY}@{HOST}/1#decoder=gpu"], 2, "decoder: wanted one of"),
    (["--source", f"rtsp://admin:{CANARY}@{HOST}/1#decoder=pyav&decoder=opencv"], 2, "one twice"),
    (["--source", f"rtmp://admin:{CANARY}@{HOST}/1#decoder=gstreamer"], 2, "rtsp:// only"),
    (["--source", f"rtsp://admin:{CANARY}@{HOST}:99999/1"], 3, SEEN),
    (["--source", f"v4l2://admin:{CANARY}@{HOST}/1?size=2x2"], 2, "wants a device"),
    (["--source", f"csi://admin:{CANARY}@{HOST}/1"], 2, "number of a sensor"),
    (["--source", f"stdin://admin:{CANARY}@{HOST}/1"], 2, "size of its frames"),
    (["--source", GOOD, "--out", f"post+http://admin:{CANARY}@/x"], 2, "post+http"),
    (["--source", GOOD, "--out", f"post+http://admin:{CANARY}@{HOST}:9/x?key={CANARY}"], 6, "post+http://" + SEEN),
    (["--source", GOOD, "--out", f"ftp://admin:{CANARY}@{HOST}/x"], 2, "ftp://"),
    (["--source", GOOD, "--out", f"http://admin:{CANARY}@{HOST}:9"], 2, "a page wants"),
    (["--source", GOOD, *["--out", f"post+http://admin:{CANARY}@{HOST}/x"] * 2], 2, "same place"),
    (["--source", GOOD, "--out", f"rtsp://admin:{CANARY}@{HOST}/v.mp4"], 2, "no sink"),
    (["--source", GOOD, "--out", f"o.jsonl?secret={CANARY}"], 2, "wanted"),
    (["--source", f"rtsp://me@mail.com:{CANARY}@{HOST}:9/1"], 3, "me@mail.com:***@"),
    (["--source", f"rtsp://admin:1\n{CANARY}@{HOST}:9/1"], 2, "printable"),
    (["--source", GOOD, f"rtsp://admin:{CANARY}@{HOST}/1"], 2, "unexpected extra argument (rtsp://" + SEEN),
    (["--max-frames", f"rtsp://admin:it's {CANARY}@{HOST}/1"], 2, SEEN),
    (["--config", f"rtsp://admin:{CANARY}@{HOST}/1"], 2, SEEN),
    (["--source", GOOD, "--out", f"post+http:/admin:{CANARY}@{HOST}/x"], 2, "post+http:/" + SEEN),
    (["--source", GOOD, "--fps", "nan"], 2, "fps"),
    (["--source", GOOD, "--fps", "1e-310"], 2, "fps"),
    (["--source", GOOD, "--max-age", "nan"], 2, "max-age"),
    (["--source", GOOD, "--min-score", "nan"], 2, "min-score"),
]


@pytest.mark.parametrize(("typed", "code", "says"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_message_without_a_password(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    typed: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edge-retina", "run", str(bundle), "--target", "ort", *typed])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    out, err = capfd.readouterr()
    assert caught.value.code == code, err
    assert says in err
    assert CANARY not in out + err
    assert "Traceback" not in err
