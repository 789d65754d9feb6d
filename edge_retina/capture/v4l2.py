"""USB cameras: Video4Linux through OpenCV, elsewhere whatever OpenCV finds.

`0`, `/dev/video2`, `v4l2:///dev/video0?size=1280x720&fps=30&format=mjpg`. format: mjpg (most cameras need it for large
frames at full speed) or yuyv. What the camera does not have it rounds to what it has. decoder=gstreamer: JPEGs are
decoded by a Jetson's hardware, see gstreamer.py.
"""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import dataclass

import cv2

from edge_retina.capture import Request, options
from edge_retina.capture.gstreamer import mjpeg_pipeline, open_pipeline
from edge_retina.capture.opencv import Frames, frames, timeouts
from edge_retina.errors import InputError, UsageError

__all__ = ["Usb", "open_usb", "parse_usb"]

_EXAMPLE = "v4l2:///dev/video0?size=1280x720&fps=30&format=mjpg"
_FORMATS = {"mjpg": "MJPG", "yuyv": "YUYV"}
_DECODERS = ("opencv", "gstreamer")


@dataclass(frozen=True, slots=True)
class Usb:
    """A camera and what it is asked for. device: number or path. size: (W, H). None: as the camera has it."""

    device: str
    size: tuple[int, int] | None = None
    fps: float | None = None
    format: str | None = None
    decoder: str = "opencv"

    def properties(self) -> tuple[int, ...]:
        """OpenCV's properties and values: the format first, for the sizes that there are depend on it."""
        wanted: list[int] = []
        if self.format is not None:
            wanted += [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*_FORMATS[self.format])]
        if self.size is not None:
            wanted += [cv2.CAP_PROP_FRAME_WIDTH, self.size[0], cv2.CAP_PROP_FRAME_HEIGHT, self.size[1]]
        if self.fps is not None:
            wanted += [cv2.CAP_PROP_FPS, round(self.fps)]
        # One buffer: the driver then keeps no older frames than the next one.
        return (*wanted, cv2.CAP_PROP_BUFFERSIZE, 1)


def parse_usb(location: str) -> Usb:
    """What follows v4l2://, or a number, or a device. Raises UsageError."""
    device, given = options.query(location, _EXAMPLE, ("size", "fps", "format", "decoder"))
    if not (device.isdecimal() or device.startswith("/")):
        raise UsageError(f"v4l2:// wants a device, such as {_EXAMPLE}")
    form, decoder = options.choice(given, "format", tuple(_FORMATS)), options.choice(given, "decoder", _DECODERS)
    if decoder == "gstreamer" and form == "yuyv":
        raise UsageError("decoder=gstreamer decodes JPEGs: take format=mjpg, or leave it out")
    return Usb(device, options.size(given), options.fps(given), form, decoder or "opencv")


def open_usb(request: Request) -> Frames:
    """Frames of a camera. Raises UsageError, InputError."""
    usb = parse_usb(request.location)
    if sys.platform != "linux":
        failure = f"no camera {usb.device}; check that it is plugged in and that this program may use it"
        place = int(usb.device) if usb.device.isdecimal() else usb.device
        return frames(request, place, cv2.CAP_ANY, failure, usb.properties())
    return _linux(request, usb)


def _linux(request: Request, usb: Usb) -> Frames:
    device = f"/dev/video{usb.device}" if usb.device.isdecimal() else usb.device
    if not os.path.exists(device):
        found = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
        raise InputError(f"no camera at {device}, found {found}; plug it in, or give a container --device {device}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise InputError(f"no permission for {device}; run: sudo usermod -aG video $USER, and log in again")
    failure = f"{device} gives no video: in use, or not a capture device; run: v4l2-ctl --list-devices"
    if usb.decoder == "gstreamer":
        yield from open_pipeline(request, mjpeg_pipeline(device, usb.size, usb.fps), "decoder=gstreamer", failure)
        return
    yield from frames(request, device, cv2.CAP_V4L2, failure, (*usb.properties(), *timeouts(request)))
