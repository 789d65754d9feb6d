"""edge-retina inside an asyncio program: detection in a thread, results awaited, nothing else of the program held up.

    python samples/robot/embed_asyncio.py model.edge 0        # and how many frames

Prints what is found; `async for` leaves the loop free for the rest of the program, and leaving it ends the thread.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator

from edge_retina import Detections, Detector, Frame
from edge_retina.stream import run


async def results(bundle: str, source: str, max_frames: int | None = None) -> AsyncIterator[tuple[Frame, Detections]]:
    """Each result of a source; where the reader is slower than the camera, only the newest."""
    loop, newest, stop = asyncio.get_running_loop(), asyncio.Queue[tuple[Frame, Detections]](1), threading.Event()

    def put(frame: Frame, detections: Detections) -> None:
        if newest.full():
            newest.get_nowait()
        newest.put_nowait((frame, detections))

    def hand_over(frame: Frame, detections: Detections) -> None:
        loop.call_soon_threadsafe(put, frame, detections)

    def work() -> None:  # the thread that loads the detector is the one that runs and closes it
        with Detector.load(bundle) as detector:
            run(detector, source, [], max_frames=max_frames, on_frame=hand_over, stop=stop)

    thread = asyncio.create_task(asyncio.to_thread(work))
    try:
        while not (thread.done() and newest.empty()):
            waiting = asyncio.create_task(newest.get())
            await asyncio.wait({waiting, thread}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()
    finally:
        stop.set()
        await thread


async def main() -> None:
    """Print results as they come."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    bundle, source, *most = sys.argv[1:]
    async for frame, found in results(bundle, source, int(most[0]) if most else None):
        print(frame.index, [row.name for row in found.mask(min_score=0.5)], flush=True)


if __name__ == "__main__":
    asyncio.run(main())
