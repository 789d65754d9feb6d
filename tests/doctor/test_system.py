"""Processor, memory, disk and display of made-up machines; and a Jetson's JetPack and power mode."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_retina.doctor import jetson, system
from edge_retina.doctor.machine import Finding, Machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("proc/device-tree", "etc", "sys/fs/cgroup", "var/lib/nvpmodel", "tmp/.X11-unix"):
        (tmp_path / "root" / name).mkdir(parents=True)
    return tmp_path / "root"


def one(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("", "ok", "unknown"),
        ("model name\t: Xeon\nflags\t\t: sse2 avx2 avx512_vnni\n", "ok", "Xeon"),
        ("model name\t: Xeon\nflags\t\t: sse2 avx2 avx512_vnni\n", "ok", "INT8 by VNNI"),
        ("model name\t: i5\nflags\t\t: sse2 avx2\n", "ok", "AVX2 without VNNI"),
        ("Features\t: fp asimd asimddp\n", "ok", "INT8 by dot products"),
        ("Features\t: fp asimd\nModel\t\t: Raspberry Pi 4\n", "ok", "Raspberry Pi 4"),
        ("model name\t: Atom\nflags\t\t: sse2\n", "warn", "neither AVX2 nor NEON"),
    ],
)
def test_processors(root: Path, text: str, status: str, words: str) -> None:
    (root / "proc/cpuinfo").write_text(text)
    finding = one(system.check_processor(Machine(root=root)))
    assert finding.status == status
    assert words in finding.found


def test_a_limit_on_cores(root: Path) -> None:
    (root / "sys/fs/cgroup/cpu.max").write_text("150000 100000\n")
    assert "a limit leaves 1.5" in one(system.check_processor(Machine(root=root))).found
    (root / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert "limit" not in one(system.check_processor(Machine(root=root))).found


def memory(root: Path, total_gib: float, free_gib: float, swap_gib: float = 0) -> Finding:
    rows = (("MemTotal", total_gib), ("MemAvailable", free_gib), ("SwapTotal", swap_gib))
    (root / "proc/meminfo").write_text("".join(f"{name}:  {int(gib * 2**20)} kB\n" for name, gib in rows))
    return one(system.check_memory(Machine(root=root)))


def test_memory(root: Path) -> None:
    assert one(system.check_memory(Machine(root=root))).status == "none"
    finding = memory(root, 16, 12, 2)
    assert finding == Finding("System", "memory", "ok", "12.0 of 16.0 GiB free, swap 2.0 GiB")
    assert memory(root, 16, 0.5).status == "warn"
    (root / "sys/fs/cgroup/memory.max").write_text("536870912\n")
    assert memory(root, 16, 12).found.startswith("0.5 of 0.5 GiB free")
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert memory(root, 8, 6).status == "ok"
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert "swap" in memory(root, 8, 6).remedy
    assert memory(root, 8, 6, 4).status == "ok"


def test_caches(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "not" / "yet"))
    cache, temporary = system.check_caches(Machine(root=root))
    assert (cache.status, temporary.status) == ("ok", "ok")
    assert cache.found.startswith(f"{tmp_path / 'not' / 'yet' / 'plans'}, ")
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(system.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert {finding.status for finding in system.check_caches(Machine(root=root))} == {"warn"}
    # Where nobody can write, root included.
    monkeypatch.setenv("EDGE_RETINA_CACHE", "/proc/none")
    cache, _ = system.check_caches(Machine(root=root))
    assert cache.status == "warn"
    assert "/proc/none/plans: cannot be written" in cache.found
    assert "EDGE_RETINA_CACHE=/var/tmp/" in cache.remedy


def test_a_user_without_a_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("EDGE_RETINA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    finding = one(system.check_caches(Machine(root=root)))
    assert (finding.status, finding.remedy) == ("warn", "set EDGE_RETINA_CACHE to a folder for plans")


def display(root: Path, **environ: str) -> Finding:
    return one(system.check_display(Machine(root=root, environ=environ)))


def test_displays(root: Path) -> None:
    assert display(root).status == "none"
    assert display(root, DISPLAY=":7").status == "warn"
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root / "tmp/.X11-unix")  # a socket's address is short
        try:
            server.bind("X7")
            server.listen()
            assert display(Path("../.."), DISPLAY=":7.0") == Finding("System", "display", "ok", "DISPLAY=:7.0")
        finally:
            os.chdir(here)
    assert display(root, DISPLAY="localhost:10.0").status == "ok"
    assert display(root, WAYLAND_DISPLAY="wayland-0", XDG_RUNTIME_DIR="/run/user/1").status == "warn"
    (root / "run/user/1").mkdir(parents=True)
    (root / "run/user/1/wayland-0").touch()
    assert display(root, WAYLAND_DISPLAY="wayland-0", XDG_RUNTIME_DIR="/run/user/1").status == "ok"


# Jetson


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n", "ok", "L4T 36.4.3, JetPack 6.1 or 6.2"),
        ("# R36 (release), REVISION: 5.0, GCID: 1\n", "ok", "JetPack 6.1 or 6.2, TensorRT 10.3"),
        ("# R38 (release), REVISION: 4.0\n", "ok", "JetPack 7.1, TensorRT 10.13"),
        ("# R39 (release), REVISION: 2.0\n", "ok", "JetPack 7.2, TensorRT 10.16"),
        ("# R36 (release), REVISION: 3.0\n", "fail", "JetPack 6.0, TensorRT 8.6: TensorRT is too old"),
        ("# R35 (release), REVISION: 4.1\n", "fail", "JetPack 5.1"),
        ("# R32 (release), REVISION: 7.1\n", "fail", "L4T 32.7.1: TensorRT is too old"),
        ("something else\n", "warn", "does not say which L4T"),
    ],
)
def test_jetpacks(root: Path, text: str, status: str, words: str) -> None:
    (root / "etc/nv_tegra_release").write_text(text)
    (root / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    finding = one(jetson.check_jetpack(Machine(root=root)))
    assert finding.status == status
    assert finding.found.startswith("NVIDIA Jetson Orin Nano; ")
    assert words in finding.found


def test_no_jetson(root: Path) -> None:
    assert one(jetson.check_jetpack(Machine(root=root))).status == "none"
    assert one(jetson.check_power(Machine(root=root))).status == "none"


def test_power_modes(root: Path) -> None:
    def power() -> Finding:
        return one(jetson.check_power(Machine(root=root)))

    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert (power().status, power().found) == ("warn", "not known")
    modes = ((0, "15W"), (1, "25W"), (2, "MAXN_SUPER"))
    (root / "etc/nvpmodel.conf").write_text(
        "".join(f"< POWER_MODEL ID={n} NAME={name} >\nCPU 1\n" for n, name in modes)
    )
    (root / "var/lib/nvpmodel/status").write_text("pmode:0000 fmode:quiet\n")
    assert (power().status, power().found) == ("warn", "15W, less than MAXN_SUPER")
    assert power().remedy.startswith("sudo nvpmodel -m 2 && sudo jetson_clocks")
    (root / "var/lib/nvpmodel/status").write_text("pmode:0002\n")
    assert power().status == "ok"
