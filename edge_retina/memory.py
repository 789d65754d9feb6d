"""The memory of this process."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

__all__ = ["release", "tidied"]


def release() -> None:
    """Free what is no longer in use and give it back to the system, where the C library can.

    Nodes and tensors of a graphsurgeon graph refer to each other, so that a graph stays until it is looked for. glibc
    keeps what lies below something still in use: behind ONNX Runtime's sessions that is 60 to 80 MB of digits, on top
    of which the next stage would have its peak.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def tidied(on_stage: Callable[[str], None]) -> Callable[[str], None]:
    """The same, behind giving memory back, for else each stage has its peak on top of what the last one left."""

    def told(stage: str) -> None:
        release()
        on_stage(stage)

    return told
