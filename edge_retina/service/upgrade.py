"""From one release to another, and back by itself where the new one does not work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.service import systemd
from edge_retina.service.place import Place
from edge_retina.service.releases import Release, Releases

__all__ = ["Patience", "roll_back", "switch"]

Note = Callable[[str], None]
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """compile_s: for the plan, before anything is switched. ready_s: until READY. settle_s: it must stay up after."""

    compile_s: float = 5400
    ready_s: float = 600
    settle_s: float = 20


def switch(place: Place, release: Release, patience: Patience, *, on_note: Note = lambda _: None) -> None:
    """Run another release. Call it with the releases locked.

    Its plan is compiled and one frame worked on while the old one still runs; if that fails, nothing has changed. Then
    `current` turns, the service starts anew, and has to get ready and stay up. Where it does not, the old release runs
    again when this returns. In an image only the link turns. Raises RuntimeFailure where the new release failed.
    """
    releases = Releases(place)
    if place.image:
        releases.try_out(release)
        releases.prove()
        return
    prepare = f"{place.name}-prepare@releases-{release.number}.service"
    on_note(f"release {release.number}: compiling what is to be compiled, and working on one frame")
    try:
        systemd.call(["systemctl", "restart", prepare], timeout_s=patience.compile_s)
    except RuntimeFailure as exc:
        raise RuntimeFailure(
            f"release {release.number} does not work here, nothing was changed: {exc}; see: journalctl -u {prepare}"
        ) from exc
    before = releases.try_out(release)
    try:
        _restart(place, patience)
    except RuntimeFailure as exc:
        see = f"see: edge-retina service logs --name {place.name}"
        if before is None or before.number == release.number:
            raise RuntimeFailure(f"release {release.number} failed: {exc}; {see}") from exc
        on_note(f"release {release.number} failed: {exc}; back to release {before.number}")
        releases.go_back(before)
        try:
            _restart(place, patience)
        except RuntimeFailure as again:
            raise RuntimeFailure(
                f"release {release.number} failed: {exc}; release {before.number} is current again, and failed as "
                f"well: {again}; {see}"
            ) from exc
        raise RuntimeFailure(
            f"release {release.number} failed: {exc}; release {before.number} runs again; {see}"
        ) from exc
    releases.prove()
    on_note(f"release {release.number} runs")


def roll_back(
    place: Place,
    number: int | None,
    patience: Patience,
    *,
    if_unproven: bool = False,
    on_note: Note = lambda _: None,
) -> Release | None:
    """Run an earlier release: of that number, else the one before. The release that runs now.

    if_unproven: only if the current one is on trial, and nobody is left who watches it; else None is returned.
    Raises UsageError where there is none to go back to, RuntimeFailure as switch does.
    """
    releases = Releases(place)
    current, unproven = releases.current, releases.unproven
    if if_unproven and (current is None or unproven != current.number):
        releases.prove()  # killed before `current` had turned: there is nothing on trial
        on_note("no release is on trial; nothing to do")
        return None
    wanted = releases.get(number) if number is not None else releases.previous
    if wanted is None or (current is not None and wanted.number == current.number):
        at = f"release {current.number}" if current else "no release"
        raise UsageError(f"{at} is current and there is none before it; see: edge-retina service status")
    if if_unproven:
        releases.go_back(wanted)
        _restart(place, patience)
        on_note(f"release {unproven} never proved itself; release {wanted.number} runs")
    else:
        switch(place, wanted, patience, on_note=on_note)
    return wanted


def _restart(place: Place, patience: Patience) -> None:
    """Start the service anew and see it ready, and then up for a while, by one and the same process.

    Raises RuntimeFailure.
    """
    with contextlib.suppress(RuntimeFailure):  # a unit that gave up is started again only once that is forgotten
        systemd.call(["systemctl", "reset-failed", place.unit])
    systemd.call(["systemctl", "restart", place.unit], timeout_s=patience.ready_s)
    names = ("ActiveState", "SubState", "MainPID", "Result")
    first = systemd.show(place.unit, names)
    end = time.monotonic() + patience.settle_s
    while True:
        now = systemd.show(place.unit, names)
        if now["ActiveState"] != "active" or now["MainPID"] != first["MainPID"]:
            state = f"{now['ActiveState']} ({now['SubState']}, {now['Result']})"
            raise RuntimeFailure(f"it got ready and then did not stay up: {state}")
        if time.monotonic() >= end:
            return
        time.sleep(_LOOK_S)
