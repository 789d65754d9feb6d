"""The same model in other runtimes, with the processing that their users write: what edge-retina is measured against.

A peer is a callable: frame uint8 (H, W, 3) BGR in, detections out, in this process. It runs the bundle's own trunk,
from the normalised picture to the heads, so that all do the same work.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_retina.bundle import Bundle
from edge_retina.errors import MissingPackage, RuntimeFailure
from edge_retina.peers.processing import Found, Processing
from edge_retina.peers.trunk import cut_trunk
from edge_retina.types import U8

__all__ = ["Peer", "open_peers"]

Call = Callable[[U8], Found]


@dataclass(frozen=True)
class Peer:
    """One of them, ready to run. name: runtime and processing. runtime: its version. precision: of its trunk."""

    name: str
    runtime: str
    precision: str
    call: Call


@dataclass(frozen=True)
class _Kind:
    """How a peer is made. package: what it imports. install: how to get it. precisions: of bundles that it runs."""

    name: str
    package: str
    install: str
    precisions: tuple[str, ...]
    make: Callable[[_Given], tuple[str, Call]]


@dataclass(frozen=True)
class _Given:
    trunk: bytes
    processing: Processing
    threads: int
    images: Sequence[U8]
    checkpoint: Path | None


def open_peers(
    bundle: Bundle,
    images: Sequence[U8],
    *,
    threads: int,
    checkpoint: Path | None = None,
    floating: Bundle | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Peer]:
    """Peers of a bundle, those of its precision whose packages are installed; each has run the first image once.

    images: uint8 (H, W, 3) BGR; NNCF calibrates on them. threads: of each peer. checkpoint: a torchvision RetinaNet's
    state_dict, for the rows in PyTorch. floating: the FP32 bundle of the same model, which NNCF quantizes. on_note is
    told of each peer that is left out, and why. Raises ModelError for a bundle that is not edge-retina's.
    """
    model, precision = bundle.model(), bundle.manifest.precision
    trunk = cut_trunk(model)
    floats = cut_trunk(floating.model()) if floating is not None else b""
    processing = Processing(bundle.spec)
    found = []
    for kind in _KINDS:
        if precision not in kind.precisions:
            continue
        if kind.package == "nncf" and not floats:
            on_note(f"{kind.name}: left out, it quantizes the FP32 model itself: time that too")
            continue
        if kind.package == "torchvision" and checkpoint is None:
            on_note(f"{kind.name}: left out, it wants the weights: --checkpoint STATE_DICT.pth")
            continue
        given = _Given(floats if kind.package == "nncf" else trunk, processing, threads, images, checkpoint)
        try:
            _present(kind)
            runtime, call = kind.make(given)
            call(images[0])
        except MissingPackage as exc:
            on_note(f"{kind.name}: {exc}")
        except Exception as exc:  # somebody else's code: whatever it raises, the others go on
            reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
            on_note(f"{kind.name}: left out, it does not run this model: {reason}")
        else:
            found.append(Peer(kind.name, runtime, precision, call))
    return found


def _present(kind: _Kind) -> None:
    if importlib.util.find_spec(kind.package) is None:
        raise MissingPackage(f"{kind.package} is not installed; run: {kind.install}")


def _onnxruntime(given: _Given) -> tuple[str, Call]:
    from edge_retina.peers.runtimes import in_onnxruntime

    return in_onnxruntime(given.trunk, given.processing, given.threads)


def _openvino(given: _Given) -> tuple[str, Call]:
    from edge_retina.peers.runtimes import in_openvino

    return in_openvino(given.trunk, given.processing, given.threads)


def _bfloat16(given: _Given) -> tuple[str, Call]:
    from edge_retina.peers.runtimes import in_openvino

    return in_openvino(given.trunk, given.processing, given.threads, precision="bf16")


def _nncf(given: _Given) -> tuple[str, Call]:
    from edge_retina.peers.runtimes import in_openvino

    return in_openvino(given.trunk, given.processing, given.threads, quantize_on=given.images)


def _opencv(given: _Given) -> tuple[str, Call]:
    from edge_retina.peers.runtimes import in_opencv

    return in_opencv(given.trunk, given.processing, given.threads)


def _eager(given: _Given) -> tuple[str, Call]:
    from edge_retina.peers.pytorch import in_torchvision

    return in_torchvision(_weights(given), given.processing.spec, given.threads)


def _compiled(given: _Given) -> tuple[str, Call]:
    from edge_retina.peers.pytorch import in_torchvision

    return in_torchvision(_weights(given), given.processing.spec, given.threads, compiled=True)


def _weights(given: _Given) -> Path:
    if given.checkpoint is None:
        raise RuntimeFailure("wants a checkpoint")
    return given.checkpoint


_OPENVINO, _TORCH = "pip install openvino", "pip install torch torchvision"
_KINDS = (
    _Kind("ONNX Runtime + NumPy", "onnxruntime", "pip install onnxruntime", ("fp32", "int8"), _onnxruntime),
    _Kind("OpenVINO + NumPy", "openvino", _OPENVINO, ("fp32", "int8"), _openvino),
    _Kind("OpenVINO in bfloat16 + NumPy", "openvino", _OPENVINO, ("fp32",), _bfloat16),
    _Kind("OpenVINO, quantized by NNCF, + NumPy", "nncf", "pip install nncf openvino", ("int8",), _nncf),
    _Kind("OpenCV DNN + NumPy", "cv2", "pip install opencv-python", ("fp32",), _opencv),
    _Kind("torchvision", "torchvision", _TORCH, ("fp32",), _eager),
    _Kind("torchvision, compiled", "torchvision", _TORCH, ("fp32",), _compiled),
)
