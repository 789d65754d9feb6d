"""Which reader gets a network stream: the one that the URI names, else PyAV where it is installed, else OpenCV.

`rtsp://user:pw@camera/1#decoder=gstreamer&codec=h265`. decoder: pyav, opencv, gstreamer; transport: tcp, udp (RTSP);
codec: h264, h265 (gstreamer). What stands behind the # is not sent.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from edge_retina.capture import Request, gstreamer, opencv, options
from edge_retina.capture.opencv import Frames
from edge_retina.errors import InputError, MissingPackage, UsageError

__all__ = ["Network", "open_network", "parse_network"]

_KNOWN = ("decoder", "transport", "codec")


@dataclass(frozen=True, slots=True)
class Network:
    """A stream and how to read it. url: with its password."""

    url: str = field(repr=False)
    decoder: str
    transport: str = "tcp"
    codec: str = "h264"


def parse_network(location: str) -> Network:
    """A URL and what stands behind its #. Raises UsageError, MissingPackage."""
    url, given = options.split_fragment(location, _KNOWN)
    has_pyav = importlib.util.find_spec("av") is not None
    decoder = options.choice(given, "decoder", ("pyav", "opencv", "gstreamer")) or ("pyav" if has_pyav else "opencv")
    if decoder == "pyav" and not has_pyav:
        raise MissingPackage("decoder=pyav needs PyAV; run: pip install 'edge-retina[streams]'")
    if decoder == "gstreamer" and not url.lower().startswith("rtsp"):
        raise UsageError("decoder=gstreamer reads rtsp:// only; leave it out")
    if not url.isprintable() or " " in url:
        raise UsageError("a stream's URI wants printable characters without spaces; write others as %XX")
    transport = options.choice(given, "transport", ("tcp", "udp")) or "tcp"
    if transport == "udp" and decoder == "opencv":
        raise UsageError("transport=udp wants decoder=pyav or decoder=gstreamer")
    return Network(url, decoder, transport, options.choice(given, "codec", ("h264", "h265")) or "h264")


def open_network(request: Request) -> Frames:
    """Frames of a network stream. Raises UsageError, MissingPackage, InputError."""
    network = parse_network(request.location)
    if network.decoder == "gstreamer":
        pipeline = gstreamer.rtsp_pipeline(network.url, network.codec, network.transport)
        failure = f"no video from {request.label}; check address, password, network and codec ({network.codec})"
        return gstreamer.open_pipeline(request, pipeline, "decoder=gstreamer", failure)
    if network.decoder == "opencv":
        return opencv.network(Request(network.url, request.label, request.patience, request.stop))
    try:
        from edge_retina.capture.pyav import open_stream
    except ImportError as exc:
        raise InputError(f"PyAV does not load: {exc}; run: pip install --force-reinstall av") from exc
    return open_stream(request, network.url, network.transport)
