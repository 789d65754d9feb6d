"""A trained RetinaNet from ONNX to detections on a camera stream.

Three lines run what `edge-retina build` made:

    from edge_retina import Detector
    for frame, detections in Detector.load("model.edge").stream("video.mp4"):
        print(frame.index, detections.xyxy, detections.scores, detections.labels)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_retina.build import build
    from edge_retina.bundle import Bundle, read_bundle
    from edge_retina.detector import Detector
    from edge_retina.errors import EdgeRetinaError
    from edge_retina.sinks import open_sink
    from edge_retina.sources import open_source
    from edge_retina.spec import DetectorSpec
    from edge_retina.types import Detection, Detections, Frame

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

# Where each name is from, imported when it is first asked for: the command's help and `edge-retina doctor` then do not
# wait for NumPy, nor end with it where it is broken.
_HOMES = {
    "Bundle": "bundle",
    "Detection": "types",
    "Detections": "types",
    "Detector": "detector",
    "DetectorSpec": "spec",
    "EdgeRetinaError": "errors",
    "Frame": "types",
    "open_sink": "sinks",
    "open_source": "sources",
    "read_bundle": "bundle",
}


class _Package(ModuleType):
    """The package, whose `build` is the function and stays so when the module of that name is imported."""

    @property
    def build(self) -> Any:
        return _load("build", "build")

    @build.setter
    def build(self, _: ModuleType) -> None:
        """The import system puts every module that it loads into its package; this one it may not."""


def _load(name: str, home: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = _load(name, _HOMES[name])
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
