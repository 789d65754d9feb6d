"""Every exception the package raises on purpose, with its exit code.

    EdgeRetinaError            1   anything below; catch this one to catch them all
    ├── UsageError             2   the command line or a call's arguments make no sense together
    ├── InputError             3   an image, video, camera or folder cannot be read
    ├── ModelError             4   the ONNX file cannot be used
    │   ├── NotADetector       4   no RetinaNet heads found in it
    │   └── SpecError          4   the DetectorSpec is incomplete or contradicts the graph
    ├── BundleError            5   a .edge file cannot be used
    │   ├── BundleCorrupt      5   truncated, tampered with or not a bundle
    │   └── BundleVersion      5   written by a newer edge-retina
    ├── OutputError            6   a result cannot be written (permission, disk full)
    ├── RuntimeFailure         7   the runtime refused the model or failed while running it
    │   └── PlanRefused        7   TensorRT does not load a plan
    ├── MissingPackage         8   an optional package is not installed
    ├── AccuracyLost           9   a build would cost more accuracy than is allowed
    ├── Mismatch              10   verify: the detections are not the trainer's own
    └── FaultFound            11   doctor: something of this machine has to be put right

A message says what was wanted, what was found and, where there is one, the next command to type.
"""

from __future__ import annotations

__all__ = [
    "AccuracyLost",
    "BundleCorrupt",
    "BundleError",
    "BundleVersion",
    "EdgeRetinaError",
    "FaultFound",
    "InputError",
    "Mismatch",
    "MissingPackage",
    "ModelError",
    "NotADetector",
    "OutputError",
    "PlanRefused",
    "RuntimeFailure",
    "SpecError",
    "UsageError",
]


class EdgeRetinaError(Exception):
    """Root of all errors raised on purpose; `exit_code` is what the CLI ends with."""

    exit_code = 1


class UsageError(EdgeRetinaError):
    """Options or arguments that do not go together, or a URI nobody understands."""

    exit_code = 2


class InputError(EdgeRetinaError):
    """A source (image, video, camera, folder, calibration set) that cannot be read."""

    exit_code = 3


class ModelError(EdgeRetinaError):
    """An ONNX file that cannot be used."""

    exit_code = 4


class NotADetector(ModelError):
    """An ONNX file in which no RetinaNet heads were found."""


class SpecError(ModelError):
    """A DetectorSpec that is incomplete or contradicts the graph."""


class BundleError(EdgeRetinaError):
    """A .edge file that cannot be used."""

    exit_code = 5


class BundleCorrupt(BundleError):
    """A .edge file that is truncated, tampered with, unsafe or not a bundle at all."""


class BundleVersion(BundleError):
    """A .edge file whose format version this edge-retina does not know."""


class OutputError(EdgeRetinaError):
    """A result that cannot be written."""

    exit_code = 6


class RuntimeFailure(EdgeRetinaError):
    """The runtime refused the model, or failed while running it."""

    exit_code = 7


class PlanRefused(RuntimeFailure):
    """A plan that TensorRT does not load: of another version or GPU, damaged, or with code that is not allowed."""


class MissingPackage(EdgeRetinaError):
    """An optional package is not installed; the message holds the pip command."""

    exit_code = 8


class AccuracyLost(EdgeRetinaError):
    """A build whose measured accuracy falls below its float model's by more than the caller allows."""

    exit_code = 9


class Mismatch(EdgeRetinaError):
    """A model whose detections differ from its trainer's own by more than the tolerances."""

    exit_code = 10


class FaultFound(EdgeRetinaError):
    """A check of this machine that failed; each is told with its remedy."""

    exit_code = 11
