"""PyAV's reader before real servers on this machine: HLS, RTMP, RTSP over UDP; those that fail are in test_live.py."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faults import HOST, RtspServer, missing_rtsp
from stamped import age_ms, read_stamp, stamped

from edge_retina.capture import Patience
from edge_retina.errors import InputError
from edge_retina.sources import open_source

av = pytest.importorskip("av", reason="PyAV is not installed")
SHAPE = (96, 160)
PATIENT = Patience(open_s=20.0, silence_s=10.0)


class Quiet(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".m3u8": "application/vnd.apple.mpegurl"}  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address."""
    server = ThreadingHTTPServer((HOST, 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield tmp_path, f"http://{HOST}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def write(place: str, container: str, count: int, fps: int, options: dict[str, str], *, paced: bool = False) -> None:
    """Pictures with the numbers 0..count-1, a key frame every half second."""
    with av.open(place, "w", format=container, options=options) as out:
        stream = out.add_stream("libx264", rate=fps, options={"g": str(fps // 2), "tune": "zerolatency"})
        stream.height, stream.width = SHAPE
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            if paced:
                time.sleep(1 / fps)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(stamped(SHAPE, number), format="bgr24")))
        out.mux(stream.encode(None))


def test_hls_has_an_end_and_keeps_its_pace(served: tuple[Path, str]) -> None:
    folder, url = served
    write(str(folder / "live.m3u8"), "hls", 20, 20, {"hls_time": "0.5", "hls_list_size": "0"})
    start = time.monotonic()
    frames = list(open_source(f"{url}/live.m3u8", patience=PATIENT))
    assert time.monotonic() - start > 0.3  # all of it was there at once
    numbers = [read_stamp(frame.image) for frame in frames]
    assert numbers == list(range(numbers[0], 20))
    assert len(numbers) >= 10  # a live stream begins near its end
    assert all(frame.live and frame.source == f"{url}/live.m3u8" for frame in frames)
    assert [frame.timestamp_ns for frame in frames] == sorted({frame.timestamp_ns for frame in frames})


def test_hls_of_a_camera_whose_server_goes_away(served: tuple[Path, str]) -> None:
    folder, url = served
    options = {"hls_time": "0.5", "hls_list_size": "4", "hls_flags": "omit_endlist"}
    camera = threading.Thread(
        target=write, args=(str(folder / "live.m3u8"), "hls", 80, 20, options), kwargs={"paced": True}
    )
    camera.start()
    deadline = time.monotonic() + 20
    while len(list(folder.glob("*.ts"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    frames = open_source(f"{url}/live.m3u8", patience=Patience(open_s=20.0, silence_s=5.0))
    numbers = [read_stamp(next(frames).image) for _ in range(10)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= 10  # near the newest
    camera.join()
    with pytest.raises(InputError, match="stopped after"):
        for _ in frames:
            pass


def test_a_playlist_that_is_none(served: tuple[Path, str]) -> None:
    folder, url = served
    (folder / "live.m3u8").write_text("#EXTM3U\nnothing.ts\n")
    with pytest.raises(InputError, match="no video from"):
        next(open_source(f"{url}/live.m3u8", patience=PATIENT))
    with pytest.raises(InputError, match=r"no video from .*404"):
        next(open_source(f"{url}/other.m3u8", patience=PATIENT))


@pytest.mark.skipif(bool(missing_rtsp()), reason=missing_rtsp() or "there")
def test_rtsp_over_udp() -> None:
    server = RtspServer()
    try:
        frames = open_source(f"rtsp://{HOST}:{server.port}/camera#transport=udp", patience=PATIENT)
        stamps = []
        for _ in range(20):
            frame = next(frames)
            stamps.append(read_stamp(frame.image))
        assert age_ms(frame.image) < 2000
        frames.close()
    finally:
        server.close()
    assert stamps == sorted(set(stamps))
