"""Live sources, one file per way to read them; each opens when the first frame is asked for and closes when it ends.

    v4l2       USB cameras through OpenCV                          0, v4l2:///dev/video0?size=1280x720&format=mjpg
    gstreamer  CSI cameras and hardware decoders of a Jetson       csi://0, #decoder=gstreamer
    pyav       network streams, where PyAV is installed            rtsp:// rtmp:// http:// https://
    opencv     the same through OpenCV's own FFmpeg, and what all that read by OpenCV share
    raw        frames without a container on standard input        stdin://?size=640x480

All take a Request, so that another thread can have them end.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

__all__ = ["Patience", "Request"]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds. open_s: for the first frame. silence_s: for the next, before the stream is lost.

    stale_s: age from which a frame counts as stale.
    """

    open_s: float = 10.0
    silence_s: float = 5.0
    stale_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be opened.

    location: its part of the URI, passwords and all, never to be shown. label: what may be shown.
    stop: set by another thread to have the reader end soon, at the latest when its wait for a frame is over.
    """

    location: str = field(repr=False)
    label: str
    patience: Patience = field(default_factory=Patience)
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
