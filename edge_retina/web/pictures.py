"""JPEG pictures with boxes: made once for all who look, and only of what somebody looks at."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np

from edge_retina.draw import draw
from edge_retina.errors import EdgeRetinaError
from edge_retina.types import Detections
from edge_retina.web.board import Board, Shown
from edge_retina.web.metrics import Metrics

__all__ = ["Picture", "Pictures", "Pulse", "encode"]

_logger = logging.getLogger("edge_retina.web")


class Pulse:
    """Wakes all who wait, again and again. Of one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def next(self) -> None:
        """Wait for the next beat."""
        await self._event.wait()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A result as JPEG, with its boxes drawn."""

    shown: Shown
    jpeg: bytes = field(repr=False)


def encode(shown: Shown, width: int, quality: int) -> bytes:
    """JPEG of a frame and its boxes, at most `width` pixels wide; OpenCV works without Python's lock."""
    image, detections = shown.frame.image, shown.detections
    if image.shape[1] > width:
        scale = width / image.shape[1]
        height = max(1, round(image.shape[0] * scale))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        detections = Detections(
            detections.xyxy * scale,
            detections.scores,
            detections.labels,
            detections.names,
            (height, width),
            detections.track_ids,
        )
    _, data = cv2.imencode(".jpg", draw(image, detections), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


class Pictures:
    """The newest picture of each camera that somebody asked for. Of one event loop; encodes in one thread of its own.

    width: pixels at most. quality: of JPEG. fps: pictures per second and camera, about, at most. changed: beats when a
    picture is ready.
    """

    def __init__(self, board: Board, metrics: Metrics, changed: Pulse, width: int, quality: int, fps: float) -> None:
        self._board, self._metrics, self._changed = board, metrics, changed
        self._width, self._quality = width, quality
        # A little less than the time between frames, or a camera of just that rate would lose every other one.
        self._interval_s = 0.9 / fps
        self._ready: dict[str, Picture] = {}
        self._due: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pool = ThreadPoolExecutor(1, "edge-retina-jpeg")

    def newest(self, camera: str, after: int) -> Picture | None:
        """The newest picture of a camera, if newer than sequence `after`; has the next one made where there can be."""
        ready = self._ready.get(camera)
        shown = self._board.newest(camera)
        if shown is not None and (ready is None or shown.sequence > ready.shown.sequence) and camera not in self._tasks:
            self._tasks[camera] = asyncio.get_running_loop().create_task(self._make(camera, shown))
        return ready if ready is not None and ready.shown.sequence > after else None

    def close(self) -> None:
        """Encode no more."""
        for task in self._tasks.values():
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _make(self, camera: str, shown: Shown) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(max(0.0, self._due.get(camera, 0.0) - loop.time()))
            shown = self._board.newest(camera) or shown  # a newer one may have come
            self._due[camera] = loop.time() + self._interval_s
            jpeg = await loop.run_in_executor(self._pool, encode, shown, self._width, self._quality)
            self._metrics.picture()
        except (EdgeRetinaError, cv2.error):
            _logger.exception("no picture of %s", camera)
            jpeg = b""
        finally:
            del self._tasks[camera]
        self._ready[camera] = Picture(shown, jpeg)
        self._changed.beat()
