"""What a Jetson does in hardware, through an OpenCV that is built with GStreamer.

`csi://0?size=1280x720&fps=30&flip=2&mode=4`: a camera on the CSI connector. flip: nvvidconv's flip-method, 2 turns by
180 degrees. mode: the sensor's mode, by its number. `rtsp://...#decoder=gstreamer`
decodes on nvv4l2decoder, `v4l2:///dev/video0?format=mjpg&decoder=gstreamer` a USB camera's JPEGs.

Pipelines: NVIDIA's Accelerated GStreamer guide. nvvidconv cannot give BGR, hence BGRx and videoconvert.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import cv2

from edge_retina.capture import Request, options
from edge_retina.capture.opencv import Frames, frames, timeouts
from edge_retina.errors import InputError, UsageError

__all__ = ["Csi", "csi_pipeline", "has_gstreamer", "mjpeg_pipeline", "open_csi", "open_pipeline", "parse_csi"]

_EXAMPLE = "csi://0?size=1280x720&fps=30&flip=0"
# One frame, the newest; not held back to the time it is meant to be shown.
_SINK = "appsink drop=1 max-buffers=1 sync=false"
_TO_BGR = f"video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! {_SINK}"
_REMEDY = (
    "this OpenCV ({version}) is built without GStreamer, which {what} needs; pip's opencv-python never has it. Run: "
    "pip uninstall -y opencv-python && sudo apt install python3-opencv, in an environment that sees the system's "
    "packages (python3 -m venv --system-site-packages)"
)


@dataclass(frozen=True, slots=True)
class Csi:
    """A camera on the CSI connector. size: (W, H) that it gives."""

    sensor: int = 0
    size: tuple[int, int] = (1280, 720)
    fps: float = 30.0
    flip: int = 0
    mode: int | None = None


def parse_csi(location: str) -> Csi:
    """What follows csi://. Raises UsageError."""
    sensor, given = options.query(location, _EXAMPLE, ("size", "fps", "flip", "mode"))
    if sensor and not sensor.isdecimal():
        raise UsageError(f"csi:// wants the number of a sensor, such as {_EXAMPLE}")
    number = options.number({"csi": sensor or "0"}, "csi", 0, 15)
    return Csi(
        number or 0,
        options.size(given) or (1280, 720),
        options.fps(given) or 30.0,
        options.number(given, "flip", 0, 7) or 0,
        options.number(given, "mode", 0, 15),
    )


def has_gstreamer() -> bool:
    """True where this OpenCV can read GStreamer pipelines."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def csi_pipeline(csi: Csi) -> str:
    """The pipeline of a CSI camera."""
    width, height = csi.size
    mode = "" if csi.mode is None else f" sensor-mode={csi.mode}"
    return (
        f"nvarguscamerasrc sensor-id={csi.sensor}{mode} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={_fraction(csi.fps)} ! "
        f"nvvidconv flip-method={csi.flip} ! {_TO_BGR}"
    )


def mjpeg_pipeline(device: str, size: tuple[int, int] | None = None, fps: float | None = None) -> str:
    """The pipeline of a USB camera whose JPEGs the hardware decodes. size: (W, H). Raises UsageError."""
    caps = "image/jpeg" + ("" if size is None else f",width={size[0]},height={size[1]}")
    caps += "" if fps is None else f",framerate={_fraction(fps)}"
    return (
        f"v4l2src device={_quoted(device)} io-mode=2 ! {caps} ! jpegparse ! nvv4l2decoder mjpeg=1 ! "
        f"nvvidconv ! {_TO_BGR}"
    )


def rtsp_pipeline(url: str, codec: str = "h264", transport: str = "tcp") -> str:
    """The pipeline of an RTSP stream. codec: h264 or h265. Raises UsageError."""
    return (
        f"rtspsrc location={_quoted(url)} latency=100 protocols={transport} drop-on-latency=true ! "
        f"rtp{codec}depay ! {codec}parse ! nvv4l2decoder enable-max-performance=1 ! nvvidconv ! {_TO_BGR}"
    )


def open_csi(request: Request) -> Frames:
    """Frames of a CSI camera. Raises UsageError, InputError."""
    csi = parse_csi(request.location)
    failure = (
        f"no video from {request.label}; is the camera connected and free? run: sudo systemctl restart nvargus-daemon, "
        "and: gst-launch-1.0 nvarguscamerasrc num-buffers=1 ! fakesink"
    )
    return open_pipeline(request, csi_pipeline(csi), "a CSI camera", failure)


def open_pipeline(request: Request, pipeline: str, what: str, failure: str) -> Frames:
    """Frames of a pipeline that ends in an appsink. Raises InputError, with the remedy where GStreamer is missing."""
    if not has_gstreamer():
        raise InputError(_REMEDY.format(version=cv2.__version__, what=what))
    yield from frames(request, pipeline, cv2.CAP_GSTREAMER, failure, timeouts(request))


def _fraction(fps: float) -> str:
    ratio = Fraction(fps).limit_denominator(1001)
    return f"{ratio.numerator}/{ratio.denominator}"


def _quoted(text: str) -> str:
    """A value as gst_parse_launch reads it, whatever it holds."""
    if not text.isprintable():
        raise UsageError("a URI of a source wants printable characters only; write others as %XX")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
