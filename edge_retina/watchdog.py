"""Telling the service manager how a run does: sd_notify(3), spoken over its socket, without a library.

READY: the detector is loaded, has worked, and the loop turns. WATCHDOG: the loop still turns; it does not while the
detector hangs, and it does while every camera is down, for those are connected again by themselves. STATUS: a line for
`systemctl status`. EXTEND_TIMEOUT_USEC: a plan is being compiled, do not give up on the start.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping

from edge_retina.events import Event

__all__ = ["Notifier", "Pulse"]

_SOCKET, _INTERVAL, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_STATUS_EVERY_S = 5.0
# Of the time after which the manager kills: half is what sd_watchdog_enabled(3) advises, and a turn may come late.
_SHARE = 4


class Notifier:
    """Messages to the service manager that started this process; where there is none, nothing is sent.

    address: of its datagram socket, a path or @name. watchdog_s: it kills after so long without a sign; None: never.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s if address else None

    @classmethod
    def from_environment(cls) -> Notifier:
        """What the environment says, which is taken out of it: no child process is to speak for this one."""
        address, interval, pid = (os.environ.pop(name, "") for name in (_SOCKET, _INTERVAL, _PID))
        known = address.startswith(("/", "@")) and hasattr(socket, "AF_UNIX")
        mine = interval.isdecimal() and int(interval) > 0 and pid in ("", str(os.getpid()))
        return cls(address if known else None, int(interval) / 1_000_000 if mine else None)

    @property
    def active(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def send(self, fields: Mapping[str, str | int]) -> bool:
        """Send one message, `NAME=value` each; True where it went out. Never waits and never raises OSError."""
        if self._address is None:
            return False
        text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in fields.items())
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(errors="replace"), address)
            return True
        return False

    def extend(self, seconds: float) -> None:
        """Ask for so many more seconds, from now on, to become ready."""
        self.send({"EXTEND_TIMEOUT_USEC": round(seconds * 1_000_000)})


class Pulse:
    """The signs of life of one run: call `turn` from its loop, `frame` with each result, `event` with each event.

    `turn` and `frame` belong to the thread of the loop, `event` may come from any.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._lock = threading.Lock()
        self._cameras: dict[str, str] = {}
        self._frames = self._told_frames = 0
        self._ready = self._changed = False
        self._beat_at = self._told_at = float("-inf")

    def turn(self) -> None:
        """The loop has turned: say so, if it is time to."""
        if not self._notifier.active:
            return
        now = time.monotonic()
        watchdog_s = self._notifier.watchdog_s
        fields: dict[str, str | int] = {}
        if not self._ready:
            fields["READY"] = 1
        if watchdog_s is not None and now - self._beat_at >= watchdog_s / _SHARE:
            fields["WATCHDOG"] = 1
        if now - self._told_at >= _STATUS_EVERY_S and (self._changed or self._frames != self._told_frames or fields):
            fields["STATUS"] = self._status(now)
        if fields and self._notifier.send(fields):
            self._ready = True
            if "WATCHDOG" in fields:
                self._beat_at = now
            if "STATUS" in fields:
                self._told_at, self._told_frames = now, self._frames

    def frame(self) -> None:
        """A frame has been worked on."""
        self._frames += 1

    def event(self, event: Event) -> None:
        """Note the state of a camera, for the status."""
        if event.kind in ("connecting", "live", "stale", "down"):
            with self._lock:
                self._changed = True
                self._cameras[event.camera] = event.kind + (f" ({event.reason})" if event.reason else "")

    def _status(self, now: float) -> str:
        """Cameras and their states, frames so far, frames a second since the last status."""
        with self._lock:
            self._changed = False
            states = [f"{name} {state}" for name, state in self._cameras.items()]
        counts = f"{self._frames} frames"
        if self._told_at > 0:
            counts += f", {(self._frames - self._told_frames) / (now - self._told_at):.1f} a second"
        return "; ".join([", ".join(states), counts] if states else [counts])
