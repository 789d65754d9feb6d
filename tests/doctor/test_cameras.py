"""Cameras of made-up machines: /dev, /sys and /proc under a folder; permissions are the kernel's own."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_retina.doctor import cameras
from edge_retina.doctor.machine import Finding, Machine

NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    """A root that other users may enter, too."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    (place / "dev").mkdir()
    yield place
    shutil.rmtree(place)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, which no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def camera(root: Path, number: int, model: str = "", *, node: bool = True) -> Path:
    if model:
        (root / f"sys/class/video4linux/video{number}").mkdir(parents=True)
        (root / f"sys/class/video4linux/video{number}/name").write_text(f"{model}\n")
    if node:
        (root / f"dev/video{number}").touch()
    return root / f"dev/video{number}"


def look(root: Path) -> list[Finding]:
    return cameras.check_cameras(Machine(root=root))


def test_none(root: Path) -> None:
    (finding,) = look(root)
    assert (finding.status, finding.found) == ("none", "none: no /dev/video*")
    assert "--device /dev/video0" in finding.remedy


def test_a_camera_that_may_be_opened(root: Path) -> None:
    camera(root, 10, "Webcam C920")
    camera(root, 9)
    (root / "dev/video").touch()
    assert look(root) == [
        Finding("Cameras", "/dev/video9", "ok", "a camera, may be opened; try: --camera 9"),
        Finding("Cameras", "/dev/video10", "ok", "Webcam C920, may be opened; try: --camera 10"),
    ]


def test_without_permission(root: Path) -> None:
    node = camera(root, 0, "Webcam C920")
    node.chmod(0)
    with as_nobody():
        (finding,) = look(root)
    assert (finding.status, finding.found) == ("fail", "Webcam C920: no permission to open it")
    assert finding.remedy == "sudo usermod -aG video $USER, then log in again"
    # Reading alone is not enough: cameras are opened for both.
    node.chmod(0o444)
    with as_nobody():
        assert look(root)[0].status == "fail"
    node.chmod(0o666)
    with as_nobody():
        assert look(root)[0].status == "ok"


def test_without_permission_in_a_container(root: Path) -> None:
    camera(root, 0).chmod(0)
    (root / ".dockerenv").touch()
    with as_nobody():
        assert look(root)[0].remedy == "start the container with --group-add video"


def test_in_the_group_but_not_yet_logged_in_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera(root, 0).chmod(0)
    me = pwd.getpwuid(NOBODY if os.geteuid() == 0 else os.geteuid()).pw_name
    monkeypatch.setattr(cameras.grp, "getgrgid", lambda _: grp.struct_group(("camera", "x", 44, [me])))
    with as_nobody():
        assert (
            look(root)[0].remedy == "you are in group camera, but not since this login: log in again, or: newgrp camera"
        )


def test_the_kernel_has_it_and_dev_has_not(root: Path) -> None:
    camera(root, 0, "Webcam C920", node=False)
    (finding,) = look(root)
    assert (finding.status, finding.found) == ("fail", "the kernel has video0 (Webcam C920), /dev has not")
    (root / ".dockerenv").touch()
    assert look(root)[0].remedy == "start the container with --device /dev/video0"


def test_a_node_that_gives_no_pictures(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera(root, 0, "Webcam C920")
    camera(root, 1, "Webcam C920")
    monkeypatch.setattr(cameras, "_ask", lambda node: (node.name == "video0", "HD Pro Webcam C920"))
    (finding,) = look(root)
    assert finding.name == "/dev/video0"
    assert finding.found.startswith("HD Pro Webcam C920, ")
    monkeypatch.setattr(cameras, "_ask", lambda _: (False, ""))
    assert look(root)[0].found == "video0, video1: none of them captures pictures"


def test_what_the_driver_answers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera(root, 0)

    def answer(_: int, request: int, into: bytearray) -> int:
        assert request == 0x80685600
        into[:104] = bytes(104)
        into[0:8], into[16:24] = b"uvcvideo", b"C920 HD\0"
        into[84:92] = b"\x01\x00\x00\x85" + b"\x00\x00\x80\x04"  # metadata, of a device that captures as well
        return 0

    monkeypatch.setattr(cameras.fcntl, "ioctl", answer)
    assert cameras._ask(root / "dev/video0") == (False, "C920 HD")


@pytest.mark.parametrize(
    ("number", "status", "found", "remedy"),
    [
        (errno.EBUSY, "warn", "in use", "fuser -v /dev/video0"),
        (errno.ENODEV, "fail", "cannot be opened: No such device", "v4l2-ctl -d /dev/video0 --all"),
    ],
)
def test_a_driver_that_refuses(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: str, found: str, remedy: str
) -> None:
    camera(root, 0)

    def refuse(_: Path) -> tuple[bool, str]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cameras, "_ask", refuse)
    (finding,) = look(root)
    assert (finding.status, finding.found) == (status, found)
    assert remedy in finding.remedy


def test_one_that_another_program_has_open(root: Path) -> None:
    camera(root, 0, "Webcam C920")
    for pid, target in (("41", "/dev/video0"), ("42", "/dev/null"), (str(os.getpid()), "/dev/video0")):
        (root / "proc" / pid / "fd").mkdir(parents=True)
        (root / "proc" / pid / "comm").write_text("cheese\n")
        (root / "proc" / pid / "fd" / "7").symlink_to(target)
    (finding,) = look(root)
    assert (finding.status, finding.found) == ("warn", "Webcam C920: in use by cheese (process 41)")


def test_csi(root: Path) -> None:
    def csi() -> Finding:
        (finding,) = cameras.check_csi(Machine(root=root))
        return finding

    assert csi().status == "none"
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert (csi().status, csi().remedy) == ("warn", "sudo systemctl restart nvargus-daemon")
    (root / "proc/17").mkdir(parents=True)
    (root / "proc/17/comm").write_text("nvargus-daemon\n")
    assert csi() == Finding("Cameras", "csi daemon", "ok", "nvargus-daemon runs")
    (root / ".dockerenv").touch()
    assert csi().remedy.endswith("-v /tmp/argus_socket:/tmp/argus_socket")
    (root / "tmp").mkdir()
    (root / "tmp/argus_socket").touch()
    assert csi().status == "ok"
