"""Frames from an OpenCV capture, whichever of its backends reads it."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence

import cv2

from edge_retina.capture import Request
from edge_retina.errors import InputError
from edge_retina.images import quiet_opencv, to_bgr8
from edge_retina.types import Frame

__all__ = ["Frames", "frames", "network", "open_capture", "timeouts"]

Frames = Generator[Frame, None, None]

_log = logging.getLogger(__name__)


def open_capture(location: str | int, backend: int, failure: str, options: Sequence[int] = ()) -> cv2.VideoCapture:
    """An opened capture, which the caller releases. options: OpenCV's properties and values, set in this order.

    Raises InputError with `failure` as its message.
    """
    with quiet_opencv(ffmpeg=True):
        try:
            capture = cv2.VideoCapture(location, backend, list(options))
        except cv2.error:
            raise InputError(failure) from None  # its text may hold the whole URI
    if not capture.isOpened():
        capture.release()
        raise InputError(failure)
    name = f"OpenCV ({capture.getBackendName()})"
    _log.info("frames come through %s", name, extra={"backend": name})
    return capture


def timeouts(request: Request) -> tuple[int, ...]:
    """The options that bound how long OpenCV waits; not every backend heeds them."""
    opening, reading = (max(1, int(s * 1000)) for s in (request.patience.open_s, request.patience.silence_s))
    return cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, opening, cv2.CAP_PROP_READ_TIMEOUT_MSEC, reading


def network(request: Request) -> Frames:
    """A network stream through the FFmpeg that OpenCV brings."""
    seconds = request.patience.open_s
    failure = f"no video from {request.label} within {seconds:g} s; check address, password and network"
    return frames(request, request.location, cv2.CAP_FFMPEG, failure, timeouts(request))


def frames(request: Request, location: str | int, backend: int, failure: str, options: Sequence[int] = ()) -> Frames:
    """Frames until the stream stops or `request.stop` is set, stamped when they were grabbed. Raises InputError."""
    capture = open_capture(location, backend, failure, options)
    try:
        index = 0
        while not request.stop.is_set() and capture.grab():
            timestamp_ns = time.monotonic_ns()  # before decoding, which takes its time
            ok, image = capture.retrieve()
            if ok and image is not None and image.size:
                yield Frame(to_bgr8(image), index, timestamp_ns, request.label, live=True)
                index += 1
        # A file behind http:// has an end; of a stream it is a fault.
        ended = index > 0 and 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) <= index
        if not (ended or request.stop.is_set()):
            raise InputError(
                f"{request.label} stopped after {index} frames; check the cable, the network or the server"
            )
    finally:
        capture.release()
