"""Detector: a bundle and a runtime; frames in, Detections out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_retina.bundle import Bundle, read_bundle
from edge_retina.errors import UsageError
from edge_retina.runtime import Gpu, Outputs, Runtime, open_runtime
from edge_retina.spec import DetectorSpec
from edge_retina.types import Detections, Frame

__all__ = ["Detector", "gpu_shape"]

U8 = npt.NDArray[np.uint8]
# DLDeviceType of dlpack.h: kDLCUDA, kDLCUDAManaged.
_CUDA = (2, 13)


class Detector:
    """Runs a bundle on pictures.

        detector = Detector.load("model.edge")
        detections = detector(cv2.imread("street.jpg"))

    A picture is a NumPy array as OpenCV gives it: (H, W, 3) BGR, uint8. Grey, four-channel (alpha is dropped) and
    16-bit pictures are converted. On TensorRT it may also lie in the GPU's memory, uint8 (H, W, 3), as anything with
    __cuda_array_interface__ or DLPack (CuPy, PyTorch); it is not copied.

    Threads: any number may use calls, `batch` and `stream` of one detector at once, each result being what it would be
    alone; as many as the runtime's `parallel` work at the same time. An iteration that `stream` began belongs to one
    thread at a time. `close`: by any one, after the last of these has returned.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self.bundle, self.runtime = bundle, runtime

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        target: str = "auto",
        threads: int | None = None,
        parallel: int = 1,
        gpu: Gpu | None = None,
    ) -> Detector:
        """Open a bundle and a runtime for it; see open_runtime.

        With gpu.trusted the bundle must be signed by that key too. Raises BundleError, RuntimeFailure, UsageError,
        MissingPackage.
        """
        if gpu is not None and gpu.trusted is not None:
            from edge_retina.signing import read_signed_bundle

            bundle = read_signed_bundle(path, gpu.trusted)
        else:
            bundle = read_bundle(path, verify=False)
        return cls(bundle, open_runtime(bundle, target, threads=threads, parallel=parallel, gpu=gpu))

    @property
    def spec(self) -> DetectorSpec:
        """The DetectorSpec of the bundle."""
        return self.bundle.spec

    @property
    def names(self) -> tuple[str, ...]:
        """Label names, by label index."""
        return self.bundle.labels

    def __call__(self, image: Any) -> Detections:
        """Detections of one picture; from any thread. Raises InputError, UsageError, RuntimeFailure."""
        if not isinstance(image, np.ndarray) and (shape := gpu_shape(image)) is not None:
            return self._detections(self.runtime.run(image), 0, self._taken(shape))
        frame = self._frame(image)
        return self._detections(self.runtime.run(frame[None]), 0, frame.shape[:2])

    def batch(self, images: Sequence[npt.NDArray[Any]]) -> list[Detections]:
        """Detections of several pictures, in their order; those of one size run together, as many as a run takes.

        From any thread. The result for each is what it would be alone, bit for bit. Raises InputError, UsageError,
        RuntimeFailure.
        """
        frames = [self._frame(image) for image in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, frame in enumerate(frames):
            groups.setdefault(frame.shape[:2], []).append(i)
        results: dict[int, Detections] = {}
        limits = [n for n in (self.bundle.manifest.batch_max, self.runtime.batch_most) if n is not None]
        for shape, members in groups.items():
            most = min(limits, default=len(members))
            for start in range(0, len(members), most):
                part = members[start : start + most]
                outputs = self.runtime.run(np.stack([frames[i] for i in part]))
                results |= {i: self._detections(outputs, row, shape) for row, i in enumerate(part)}
        return [results[i] for i in range(len(frames))]

    def stream(
        self, source: str | int | os.PathLike[str], *, max_frames: int | None = None
    ) -> Iterator[tuple[Frame, Detections]]:
        """Each frame of a source with its detections; reading overlaps inference. See open_source for URIs.

        From any thread, each with an iteration of its own. Of a file no frame is left out; of a camera the newest frame
        is taken. The source is given back when the
        iteration ends, however it ends. Raises InputError, UsageError, RuntimeFailure.
        """
        from edge_retina.stream import infer, read_ahead

        with closing(read_ahead(source, max_frames=max_frames)) as frames, closing(infer(self, frames)) as results:
            for frame, detections, _ in results:
                yield frame, detections

    def close(self) -> None:
        """Give back what the runtime holds, once no thread uses it any more; a second time does nothing."""
        self.runtime.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _frame(self, image: npt.NDArray[Any]) -> U8:
        from edge_retina.images import to_bgr8

        frame = to_bgr8(image)
        self._taken(frame.shape)
        return frame

    def _taken(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(H, W) of a frame (H, W, 3) that this bundle takes. Raises UsageError."""
        height, width = shape[:2]
        wanted = self.bundle.manifest.frame_size
        if wanted is not None and (height, width) != wanted:
            raise UsageError(
                f"this bundle takes frames of {wanted[1]}x{wanted[0]} only, found {width}x{height}; "
                "for frames of any size build it without --frame-size"
            )
        return height, width

    def _detections(self, outputs: Outputs, row: int, shape: tuple[int, int]) -> Detections:
        count = int(outputs.count[row])
        boxes, scores, labels = outputs.boxes[row, :count], outputs.scores[row, :count], outputs.labels[row, :count]
        return Detections(boxes, scores, labels, self.names, shape)


def gpu_shape(image: Any) -> tuple[int, ...] | None:
    """Shape of a picture in a GPU's memory; None for anything else. Raises UsageError for one not (H, W, 3)."""
    try:
        if hasattr(image, "__cuda_array_interface__"):
            shape = tuple(image.__cuda_array_interface__["shape"])
        elif hasattr(image, "__dlpack_device__") and image.__dlpack_device__()[0] in _CUDA:
            shape = tuple(image.shape)
        else:
            return None
    except (AttributeError, KeyError, TypeError, IndexError):
        return None
    if len(shape) != 3 or shape[2] != 3:
        raise UsageError(f"a picture in the GPU's memory wants shape (H, W, 3), BGR, found {shape}")
    return shape
