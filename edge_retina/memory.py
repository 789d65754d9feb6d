"""The memory of this process."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Give freed memory back to the system, where the C library can.

    glibc keeps what lies below something still in use: behind ONNX Runtime's sessions that is 60 to 80 MB of digits,
    on top of which the next stage would have its peak.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
