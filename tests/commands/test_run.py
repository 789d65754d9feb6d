"""`edge-retina run` as a process on live streams: signals end it in time and in order, and no password is ever told."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
from faults import HOST, MjpegCamera, RtspServer, missing_rtsp, silent_port
from models import tiny_model

from edge_retina import build

needs_rtsp = pytest.mark.skipif(bool(missing_rtsp()), reason=missing_rtsp() or "there")
CANARY = "hunter2-canary"
# A word of the URI that must be seen, for a message that tells nothing would pass as well.
SEEN = "admin:***@"
# From the signal to the end of the process, on a machine that does nothing else; of so many tries the fastest counts.
END_S, TRIES = 2.0, 4


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

    process: subprocess.Popen[str]
    folder: Path
    port: int

    def lines(self) -> list[dict[str, object]]:
        path = self.folder / "o.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as exc:  # /healthz while no camera is live
            return str(exc.read().decode())

    def until(self, frames: int = 0, events: Sequence[str] = ()) -> None:
        """Wait for so many lines of frames, and for events of those kinds."""
        deadline = time.monotonic() + 60
        while True:
            rows = self.lines()
            kinds = [str(row["event"]) for row in rows if "event" in row]
            if sum("frame" in row for row in rows) >= frames and all(kinds.count(e) >= events.count(e) for e in events):
                return
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, (len(rows), kinds)
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> tuple[float, str, str]:
        """Seconds that it took, stdout and stderr."""
        start = time.monotonic()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return time.monotonic() - start, out, err


@contextlib.contextmanager
def running(bundle: Path, folder: Path, sources: Sequence[str], outs: Sequence[str] = ()) -> Iterator[Run]:
    folder.mkdir()
    port = free_port()
    own = [str(folder / "o.jsonl"), str(folder / "v.mp4"), f"http://{HOST}:{port}"]
    options = [x for source in sources for x in ("--source", source)] + [
        x for out in [*own, *outs] for x in ("--out", out)
    ]
    command = [sys.executable, "-m", "edge_retina", "run", str(bundle), *options, "--target", "ort"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            yield Run(process, folder, port)
        finally:
            process.kill()


def ends_in_order(
    bundle: Path, tmp_path: Path, number: signal.Signals, sources: Sequence[str], outs: Sequence[str] = ()
) -> str:
    """What stderr says of a run that was ended by a signal; asserts time and sinks."""
    took = []
    for attempt in range(TRIES):
        with running(bundle, tmp_path / str(attempt), sources, outs) as run:
            run.until(frames=5, events=["live"])
            assert "edge_retina" in run.page("/metrics")
            seconds, _, err = run.end(number)
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
        if seconds < END_S:
            return err
    raise AssertionError(f"took {took} s to end")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
