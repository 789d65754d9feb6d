"""Network streams through PyAV: RTSP over TCP, RTMP, HTTP with MJPEG, HLS or a video file.

What OpenCV's reader lacks: the stream's own stamps, so that the age of a frame is known though it lay in a buffer;
frames that are damaged are left out; a decoder that falls behind goes on at the next key frame; HLS and files keep
their pace. Options: `rtsp://...#transport=udp` [tcp].
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator
from typing import Any

import av
import numpy as np

from edge_retina.capture import Request
from edge_retina.capture.clock import CaptureClock
from edge_retina.errors import InputError
from edge_retina.types import U8, Frame

__all__ = ["open_stream", "open_url"]

_log = logging.getLogger(__name__)
# Older frames than that in the buffer: decode no more of them until the next key frame.
_LAG_NS = 500_000_000
# So many packets in a row that do not decode are no stream.
_MOST_DAMAGED = 100
# The share of the time to the first frame for which a key frame is awaited; some streams have none.
_KEY_SHARE = 0.7
_CHUNKS = 1 << 15  # AV_CODEC_FLAG2_CHUNKS of libavcodec/avcodec.h
# Paced streams: further behind than that, the time base is moved.
_BEHIND_S = 1.0
_PROBE_US = 2_000_000


def open_stream(request: Request, url: str, transport: str = "tcp") -> Generator[Frame, None, None]:
    """Frames of a network stream until it stops or `request.stop` is set. Raises InputError."""
    container = open_url(request, url, transport)
    try:
        if not container.streams.video:
            raise InputError(f"{request.label}: wanted video, found none in it; check the address")
        name = f"PyAV ({container.streams.video[0].codec_context.name})"
        _log.info("frames come through %s", name, extra={"backend": name})
        yield from _Reader(request, container).frames()
    finally:
        with contextlib.suppress(av.error.FFmpegError):
            container.close()


def open_url(request: Request, url: str, transport: str = "tcp") -> Any:
    """An opened container, which the caller closes. Raises InputError."""
    options = {"analyzeduration": str(_PROBE_US), "fpsprobesize": "0", "fflags": "nobuffer"}
    scheme = url.partition("://")[0].lower()
    if scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_transport": transport, "allowed_media_types": "video"}
    elif scheme in ("http", "https"):
        options["live_start_index"] = "-1"
    patience = request.patience
    try:
        return av.open(url, "r", options=options, timeout=(patience.open_s, patience.silence_s))
    except (av.error.FFmpegError, UnicodeError, ValueError) as exc:
        why = _why(exc, patience.open_s)
        # Not `from exc`: its text holds the URI, password and all.
        raise InputError(f"no video from {request.label}: {why}; check address, password and network") from None


def _why(exc: BaseException, limit_s: float = 0.0) -> str:
    if isinstance(exc, av.error.ExitError):  # what a wait that took too long ends in
        return f"no answer within {limit_s:g} s"
    text = getattr(exc, "strerror", None)
    return str(text) if text else type(exc).__name__


class _Reader:
    """One open stream being read."""

    def __init__(self, request: Request, container: Any) -> None:
        self._request, self._container = request, container
        self._stream = container.streams.video[0]
        # Frame threads would hold back a frame each.
        self._stream.thread_type = "SLICE"
        if self._stream.codec_context.name == "h264":
            # A picture's slices come as several packets from some servers; a picture for each would be torn.
            self._stream.codec_context.flags2 |= _CHUNKS
        # Both come in bursts, faster than they are to be seen.
        self._paced = "hls" in container.format.name or (container.duration or 0) > 0
        self._has_end = (container.duration or 0) > 0
        # FFmpeg makes up stamps for MJPEG over HTTP, at 25 a second.
        self._stamped = container.format.name not in ("mpjpeg", "mjpeg")
        self._clock = CaptureClock()
        self._pace: tuple[float, int] | None = None

    def frames(self) -> Generator[Frame, None, None]:
        index = damaged = 0
        # Before its first key frame a stream decodes to grey.
        skipping, give_up_ns = True, time.monotonic_ns() + round(self._request.patience.open_s * _KEY_SHARE * 1e9)
        for packet, lag_ns in self._packets():
            skipping = (skipping or lag_ns > _LAG_NS) and not (packet.is_keyframe and lag_ns <= _LAG_NS)
            if skipping and not packet.is_keyframe and (index > 0 or time.monotonic_ns() < give_up_ns):
                continue
            try:
                pictures = packet.decode()
                damaged = 0
            except av.error.FFmpegError as exc:
                damaged += 1
                if damaged >= _MOST_DAMAGED:
                    why = _why(exc)
                    raise InputError(
                        f"{self._request.label}: {damaged} packets in a row do not decode: {why}"
                    ) from None
                continue
            for picture in pictures:
                if picture.is_corrupt:
                    continue
                stamp_ns = self._stamp(picture)
                if stamp_ns is None:
                    return
                yield Frame(_bgr(picture), index, stamp_ns, self._request.label, live=True)
                index += 1

    def _packets(self) -> Generator[tuple[Any, int], None, None]:
        """Packets and the nanoseconds that each lay in a buffer on this side; ends when told to stop."""
        packets, count = self._container.demux(self._stream), 0
        while not self._request.stop.is_set():
            start_ns = time.monotonic_ns()
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as exc:
                if self._request.stop.is_set():
                    return
                why = _why(exc, self._request.patience.silence_s)
                raise InputError(f"{self._request.label} stopped after {count} packets: {why}") from None
            now_ns = time.monotonic_ns()
            if packet.size == 0:  # PyAV's mark of the end, which has the decoder give what it holds
                if self._has_end:
                    yield packet, 0
                break
            count += 1
            lag_ns = self._clock.arrived(_seconds(packet), now_ns, now_ns - start_ns) if self._live_stamps else 0
            yield packet, lag_ns
        if not (self._has_end or self._request.stop.is_set()):
            raise InputError(f"{self._request.label} stopped after {count} packets: closed by the server")

    @property
    def _live_stamps(self) -> bool:
        return self._stamped and not self._paced

    def _stamp(self, picture: Any) -> int | None:
        """When the picture was captured; waits until it is due where the stream is paced. None: told to stop."""
        stamp_s, now_ns = picture.time, time.monotonic_ns()
        if not self._paced or stamp_s is None:
            return self._clock.captured(stamp_s, now_ns) if self._live_stamps else now_ns
        if self._pace is not None:
            wait_s = (self._pace[1] - now_ns) / 1_000_000_000 + stamp_s - self._pace[0]
            if -_BEHIND_S < wait_s < self._request.patience.silence_s:
                return None if wait_s > 0 and self._request.stop.wait(wait_s) else time.monotonic_ns()
        self._pace = (stamp_s, now_ns)
        return now_ns


def _seconds(packet: Any) -> float | None:
    return None if packet.pts is None or packet.time_base is None else float(packet.pts * packet.time_base)


def _bgr(picture: Any) -> U8:
    try:
        return np.ascontiguousarray(picture.to_ndarray(format="bgr24"), np.uint8)
    except (av.error.FFmpegError, ValueError) as exc:
        raise InputError(f"a frame of {picture.format.name} does not convert to BGR: {_why(exc)}") from None
