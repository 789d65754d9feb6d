"""Which packages are installed, by their metadata: nothing is imported."""

from __future__ import annotations

import platform
import re
from importlib import metadata

__all__ = ["OPENCV", "ORT", "TENSORRT", "TENSORRT_RTX", "at_least", "installed", "numbers", "versions"]

# Distributions that bring the same module: of several in one environment each writes over the others' files.
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
ORT = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-training",
    "ort-nightly",
)
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
TENSORRT_RTX = ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")

_SHOWN: dict[str, tuple[str, ...]] = {
    "edge-retina": ("edge-retina",),
    "numpy": ("numpy",),
    "onnx": ("onnx",),
    "onnx-graphsurgeon": ("onnx-graphsurgeon",),
    "onnxruntime": ORT,
    "opencv": OPENCV,
    "tensorrt": TENSORRT,
    "tensorrt-rtx": TENSORRT_RTX,
    "pycuda": ("pycuda",),
    "cuda-bindings": ("cuda-bindings",),
    "av": ("av",),
    "torch": ("torch",),
}


def versions() -> dict[str, str | None]:
    """Version of edge-retina, Python, the system and each part; None: not installed. Variants are told by name."""
    found: dict[str, str | None] = {}
    for name, distributions in _SHOWN.items():
        there = installed(distributions)
        told = [version if key == name else f"{version} ({key})" for key, version in there.items()]
        # tensorrt itself holds nothing but the name of tensorrt-cu13.
        found[name] = ", ".join(told if distributions in (OPENCV, ORT) else told[:1]) or None
        if name == "edge-retina":
            found["python"] = platform.python_version()
            found["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    return found


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Those of some distributions that are installed, with their versions."""
    found = {}
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        # Damaged metadata has none.
        found[name] = version or "?"
    return found


def numbers(version: str) -> tuple[int, ...]:
    """The release of a version: (1, 26, 4) of "1.26.4+local"; () where it has none."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def at_least(version: str, wanted: str) -> bool:
    """Whether a release is that one or later; a pre-release counts as its release."""
    have, want = numbers(version), numbers(wanted)
    length = max(len(have), len(want))
    return have + (0,) * (length - len(have)) >= want + (0,) * (length - len(want))
