"""Cameras: which there are, whether this user may open them, and who else has them open."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import re
import struct
import sys
from contextlib import suppress
from pathlib import Path

from edge_retina.doctor.machine import Finding, Machine

__all__ = ["check_cameras", "check_csi"]

_GROUP = "Cameras"
# linux/videodev2.h: VIDIOC_QUERYCAP of a struct v4l2_capability, and two bits of its device_caps.
_QUERYCAP = 0x80685600
_CAPTURE = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, _MPLANE
_DEVICE_CAPS = 0x80000000


def check_cameras(machine: Machine) -> list[Finding]:
    """Video4Linux devices: named by the kernel, there, permitted, and free."""
    if sys.platform != "linux":
        return [Finding(_GROUP, "cameras", "none", "listed on Linux only; try: edge-retina doctor --camera 0")]
    known = {
        name: machine.text(f"/sys/class/video4linux/{name}/name") for name in _videos(machine, "/sys/class/video4linux")
    }
    nodes = _videos(machine, "/dev")
    if absent := [name for name in known if name not in nodes]:
        devices = " ".join(f"--device /dev/{name}" for name in absent)
        what = (
            f"start the container with {devices}" if machine.container else "sudo udevadm trigger; or plug it in anew"
        )
        listed = ", ".join(f"{name} ({known[name] or 'no name'})" for name in absent)
        return [Finding(_GROUP, "cameras", "fail", f"the kernel has {listed}, /dev has not", what)]
    if not nodes:
        what = "plug one in; a container wants --device /dev/video0; CSI cameras need JetPack's drivers"
        return [Finding(_GROUP, "cameras", "none", "none: no /dev/video*", what)]
    findings = [_look(machine, name, known.get(name, "")) for name in nodes]
    return [finding for finding in findings if finding] or [
        Finding(_GROUP, "cameras", "none", f"{', '.join(nodes)}: none of them captures pictures")
    ]


def check_csi(machine: Machine) -> list[Finding]:
    """The daemon behind CSI cameras of a Jetson."""
    if not machine.jetson:
        return [Finding(_GROUP, "csi daemon", "none", "not a Jetson")]
    if machine.container:
        if machine.at("/tmp/argus_socket").exists():
            return [Finding(_GROUP, "csi daemon", "ok", "its socket is in this container")]
        found, what = (
            "its socket is not in this container",
            "start the container with -v /tmp/argus_socket:/tmp/argus_socket",
        )
        return [Finding(_GROUP, "csi daemon", "warn", found, what)]
    if any(machine.text(f"/proc/{pid}/comm") == "nvargus-daemon" for pid in machine.names("/proc") if pid.isdecimal()):
        return [Finding(_GROUP, "csi daemon", "ok", "nvargus-daemon runs")]
    return [
        Finding(_GROUP, "csi daemon", "warn", "nvargus-daemon does not run", "sudo systemctl restart nvargus-daemon")
    ]


def _videos(machine: Machine, folder: str) -> list[str]:
    found = [name for name in machine.names(folder) if re.fullmatch(r"video\d+", name)]
    return sorted(found, key=lambda name: int(name[5:]))


def _look(machine: Machine, name: str, model: str) -> Finding | None:
    """One device; None for one that gives no pictures, such as a camera's metadata or a codec."""
    node, label = machine.at(f"/dev/{name}"), f"/dev/{name}"
    called = f"{model}: " if model else ""
    if not os.access(node, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return Finding(_GROUP, label, "fail", f"{called}no permission to open it", _permission(machine, node))
    try:
        captures, card = _ask(node)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return Finding(_GROUP, label, "warn", f"{called}in use", "stop the program that uses it: fuser -v " + label)
        what = f"v4l2-ctl -d {label} --all; plug the camera in anew"
        return Finding(_GROUP, label, "fail", f"{called}cannot be opened: {exc.strerror}", what)
    if captures is False:
        return None
    if users := _users(machine, label):
        found = f"{card or model}: in use by {', '.join(users)}"
        return Finding(_GROUP, label, "warn", found, f"stop it first: most cameras serve one program; fuser -v {label}")
    return Finding(_GROUP, label, "ok", f"{card or model or 'a camera'}, may be opened; try: --camera {name[5:]}")


def _ask(node: Path) -> tuple[bool | None, str]:
    """Whether a device captures pictures, and what its driver calls it; (None, "") of what is no such device.

    Raises OSError where it cannot be opened.
    """
    descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = bytearray(104)
        fcntl.ioctl(descriptor, _QUERYCAP, answer)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise
        return None, ""
    finally:
        os.close(descriptor)
    # driver[16] card[32] bus_info[32] version capabilities device_caps
    everything, device = struct.unpack_from("<II", answer, 84)
    card = bytes(answer[16:48]).split(b"\0")[0].decode(errors="replace")
    return bool((device if everything & _DEVICE_CAPS else everything) & _CAPTURE), card


def _users(machine: Machine, device: str) -> list[str]:
    """Other programs that have a device open, as far as this user may see."""
    found = []
    for pid in machine.names("/proc"):
        if not pid.isdecimal() or pid == str(os.getpid()):
            continue
        for descriptor in machine.names(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(machine.at(f"/proc/{pid}/fd/{descriptor}")) == device:
                    found.append(f"{machine.text(f'/proc/{pid}/comm') or 'a program'} (process {pid})")
                    break
    return found


def _permission(machine: Machine, node: Path) -> str:
    """What gives this user the right to open a device."""
    group, member = "video", False
    with suppress(OSError, KeyError):
        entry = grp.getgrgid(node.stat().st_gid)
        group = entry.gr_name if entry.gr_gid else "video"
        import pwd

        member = entry.gr_gid != 0 and pwd.getpwuid(os.geteuid()).pw_name in entry.gr_mem
    if machine.container:
        return f"start the container with --group-add {group}"
    if member:
        return f"you are in group {group}, but not since this login: log in again, or: newgrp {group}"
    return f"sudo usermod -aG {group} $USER, then log in again"
