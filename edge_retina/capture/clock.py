"""When a frame was captured, on this machine's clock, from the stamps that its stream carries."""

from __future__ import annotations

__all__ = ["CaptureClock"]

# A read that took longer had to wait for the network: nothing older lies in a buffer on this side.
_WAITED_NS = 1_000_000
# A gap in the stamps that no camera makes: the stream has begun anew.
_JUMP_S = 10.0


class CaptureClock:
    """Stamps of a stream turned into monotonic nanoseconds.

    Whenever a read had to wait, the packet that came is as new as one can be, and stamps count from there. Packets that
    were there already have been lying in a buffer, and their stamps tell for how long. So a camera whose clock runs
    fast or slow does no harm. Without stamps, the time of arrival.
    """

    def __init__(self) -> None:
        self._anchor: tuple[float, int] | None = None
        self._last_s = 0.0

    def arrived(self, stamp_s: float | None, arrival_ns: int, waited_ns: int) -> int:
        """Nanoseconds for which the packet lay here before it was read; stamp_s: its stamp, None where it has none."""
        if stamp_s is None:
            return 0
        jumped = abs(stamp_s - self._last_s) > _JUMP_S
        self._last_s = stamp_s
        if self._anchor is None or jumped or waited_ns > _WAITED_NS:
            self._anchor = (stamp_s, arrival_ns)
        return max(0, arrival_ns - self.captured(stamp_s, arrival_ns))

    def captured(self, stamp_s: float | None, now_ns: int) -> int:
        """When the frame with this stamp was captured; never in the future."""
        if stamp_s is None or self._anchor is None:
            return now_ns
        anchor_s, anchor_ns = self._anchor
        return min(now_ns, anchor_ns + round((stamp_s - anchor_s) * 1_000_000_000))
