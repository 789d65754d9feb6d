"""The table [service] of a service's configuration; all else in that file is for `edge-retina run --config`.

[service]
memory = "75%"            # most it may use; the kernel ends it beyond, and it is started again
watchdog = 60             # seconds without a turn of the loop until it is killed and started again
start = 600               # seconds to get ready, compiling not counted
compile = 5400            # seconds for compiling a plan
give-up = "none"          # after 10 failures in 5 minutes: "none" leaves it failed, "reboot" restarts the machine
keep = 3                  # releases that stay for a rollback
[service.cameras]         # /dev/video-front is this camera, whatever number it gets
front = "usb-046d_Logitech_BRIO_1A2B3C4D"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_retina.errors import UsageError

__all__ = ["Settings"]

_GIVE_UP = ("none", "reboot")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the service may use and how long it may take; the module's text says what each field is.

    memory: bytes with K, M or G, or percent of the machine's. *_s: seconds. cameras: udev's ID_SERIAL or ID_PATH, by
    the name they are to have.
    """

    memory: str = "75%"
    watchdog_s: int = 60
    start_s: int = 600
    compile_s: int = 5400
    give_up: str = "none"
    keep: int = 3
    cameras: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, table: Any) -> Settings:
        """What the table says. Raises UsageError for unknown keys and values that make no sense."""
        if not isinstance(table, Mapping):
            raise UsageError(f"[service] wants a table, found {type(table).__name__}")
        known = {"memory", "watchdog", "start", "compile", "give-up", "keep", "cameras"}
        if unknown := sorted(set(table) - known):
            raise UsageError(f"[service]: unknown key {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        usual = cls()
        return cls(
            memory=_memory(table.get("memory", usual.memory)),
            watchdog_s=_whole(table, "watchdog", usual.watchdog_s, 5, 3600),
            start_s=_whole(table, "start", usual.start_s, 10, 86400),
            compile_s=_whole(table, "compile", usual.compile_s, 60, 86400),
            give_up=_choice(table.get("give-up", usual.give_up)),
            keep=_whole(table, "keep", usual.keep, 1, 100),
            cameras=_cameras(table.get("cameras", {})),
        )


def _whole(table: Mapping[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"[service] {key} wants a whole number from {least} to {most}, found {value!r}")
    return value


def _memory(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]{0,14}[KMGT]?|[1-9][0-9]?%|100%|infinity", value):
        raise UsageError(f'[service] memory wants such as "2G", "75%" or "infinity", found {value!r}')
    return value


def _choice(value: Any) -> str:
    if value not in _GIVE_UP:
        raise UsageError(f"[service] give-up wants one of {', '.join(_GIVE_UP)}, found {value!r}")
    return str(value)


def _cameras(value: Any) -> dict[str, str]:
    """Names and identities; both go into a udev rule and a path, so that nothing in them may mean more than itself."""
    if not isinstance(value, Mapping):
        raise UsageError('[service.cameras] wants NAME = "ID_SERIAL or ID_PATH", see: udevadm info /dev/video0')
    for name, identity in value.items():
        if not re.fullmatch("[a-z][a-z0-9-]{0,31}", name):
            raise UsageError(f"[service.cameras] a name has small letters, digits and -, found {name!r}")
        if not isinstance(identity, str) or not re.fullmatch("[A-Za-z0-9_.:+-]{1,200}", identity):
            raise UsageError(
                f"[service.cameras] {name} wants an ID_SERIAL or ID_PATH as udevadm info /dev/video0 prints it, "
                f"found {identity!r}"
            )
    return dict(value)
