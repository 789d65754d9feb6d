"""A trained RetinaNet from ONNX to detections on a camera stream.

Three lines run what `edge-retina build` made:

    from edge_retina import Detector
    for frame, detections in Detector.load("model.edge").stream("video.mp4"):
        print(frame.index, detections.xyxy, detections.scores, detections.labels)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Eager, for `build` the function must win over the module of that name; all of these load numpy at most.
from edge_retina.build import build
from edge_retina.bundle import Bundle, read_bundle
from edge_retina.detector import Detector
from edge_retina.errors import EdgeRetinaError
from edge_retina.spec import DetectorSpec
from edge_retina.types import Detection, Detections, Frame

if TYPE_CHECKING:
    from edge_retina.sinks import open_sink
    from edge_retina.sources import open_source

__all__ = [
    "Bundle",
    "Detection",
    "Detections",
    "Detector",
    "DetectorSpec",
    "EdgeRetinaError",
    "Frame",
    "build",
    "open_sink",
    "open_source",
    "read_bundle",
]


def __getattr__(name: str) -> Any:
    # OpenCV takes a fifth of a second to load; only those who open a source or a sink pay for it.
    if name == "open_source":
        from edge_retina.sources import open_source

        return open_source
    if name == "open_sink":
        from edge_retina.sinks import open_sink

        return open_sink
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
