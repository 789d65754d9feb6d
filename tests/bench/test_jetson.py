"""Power mode, clocks and temperatures, from what JetPack's tools print on an AGX Orin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_retina.bench.benchmark import Benchmark
from edge_retina.bench.jetson import (
    Jetson,
    _ask,
    parse_clocks,
    parse_power_mode,
    parse_tegrastats,
    read_jetson,
)
from edge_retina.bench.machine import Machine, Memory
from edge_retina.bench.text import machine_lines

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37\n"
# As users published them, with fewer of the lines that are alike: an AGX Orin at 30 W, four processors switched off,
# before and after `sudo jetson_clocks`; one of L4T 39.2 (JetPack 7.2) after it; tegrastats of both (CV0 is older).
POWER_MODE = "NV Power Mode: MODE_30W\n2\n"
CLOCKS = """SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit
Online CPUs: 0-7
cpu0:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1728000 CurrentFreq=1420800 IdleStates: WFI=1 c7=1
cpu1:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1728000 CurrentFreq=729600 IdleStates: WFI=1 c7=1
cpu8:  Online=0 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=729600 IdleStates: WFI=1 c7=1
cpu11: Online=0 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=729600 IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=612000000 CurrentFreq=306000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=0
DLA0_CORE:   Online=1 MinFreq=0 MaxFreq=1369600000 CurrentFreq=1369600000
PVA0_AXI:  Online=1 MinFreq=0 MaxFreq=358400000 CurrentFreq=358400000
FAN Dynamic Speed Control=nvfancontrol hwmon0_pwm1=48
NV Power Mode: MODE_30W
"""
HELD = """SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit
Online CPUs: 0-7
cpu0:  Online=1 Governor=schedutil MinFreq=1728000 MaxFreq=1728000 CurrentFreq=1728000 IdleStates: WFI=0 c7=0
cpu8:  Online=0 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=729600 IdleStates: WFI=0 c7=0
GPU MinFreq=612000000 MaxFreq=612000000 CurrentFreq=612000000
Active GPU TPCs: 4
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=1
DLA0_CORE:   Online=1 MinFreq=0 MaxFreq=1369600000 CurrentFreq=1369600000
FAN Dynamic Speed Control=nvfancontrol hwmon0_pwm1=48
NV Power Mode: MODE_30W
"""
HELD_39 = """SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit
Online CPUs: 0-11, Offline CPUs:
cpu0:  Governor=schedutil MinFreq=2201600 MaxFreq=2201600 CurrentFreq=2201600 IdleStates: WFI=0 c7=0
GPU MinFreq=1300500000 MaxFreq=1300500000 CurrentFreq=1300500000
EMC MinFreq=3199000000 MaxFreq=3199000000 CurrentFreq=3199000000
NV Power Mode: MAXN
"""
TEGRASTATS = (
    "09-01-2025 10:55:25 RAM 1313/30697MB (lfb 37x4MB) SWAP 0/15348MB (cached 0MB) CPU [0%@729,0%@729,off,off] "
    "GR3D_FREQ 0% CV0@-256C cpu@43.343C soc2@39.812C tj@43.343C "
    "VDD_GPU_SOC 1995mW/1995mW VDD_CPU_CV 0mW/0mW VIN_SYS_5V0 2524mW/2524mW\n"
    "09-01-2025 10:55:26 RAM 1313/30697MB cpu@99C VDD_CPU_CV 9mW/9mW\n"
)
TEGRASTATS_39 = (
    "07-17-2026 15:15:24 RAM 8182/62817MB (lfb 6x4MB) CPU [18%@729,12%@729] GR3D_FREQ 5% cpu@51.343C/51.343C "
    "gpu@46.843C/46.843C VDD_GPU_SOC 3588mW/3588mW/3588mW VDD_CPU_CV 797mW/797mW/797mW\n"
)


def test_nothing_printed() -> None:
    assert (parse_power_mode(""), parse_clocks(""), parse_tegrastats("")) == ("", (), ({}, {}))
    assert _ask(("no-such-tool-of-jetpack",)) == ""


def test_what_the_tools_print() -> None:
    assert parse_power_mode(POWER_MODE) == "MODE_30W"
    first, second, gpu, memory = parse_clocks(CLOCKS)
    assert (first.name, first.least, first.most, first.current) == ("cpu0", 729_600_000, 1_728_000_000, 1_420_800_000)
    assert second.name == "cpu1"
    assert (gpu.name, gpu.most) == ("GPU", 612_000_000)
    assert (memory.name, memory.current) == ("EMC", 3_199_000_000)
    assert not any(clock.fixed for clock in (first, second, gpu, memory))
    celsius, watts = parse_tegrastats(TEGRASTATS)
    assert celsius == {"cpu": 43.343, "soc2": 39.812, "tj": 43.343}
    assert watts == {"VDD_GPU_SOC": 1.995, "VDD_CPU_CV": 0.0, "VIN_SYS_5V0": 2.524}
    celsius, watts = parse_tegrastats(TEGRASTATS_39)
    assert celsius == {"cpu": 51.343, "gpu": 46.843}
    assert watts == {"VDD_GPU_SOC": 3.588, "VDD_CPU_CV": 0.797}


@pytest.mark.parametrize("shown", [HELD, HELD_39])
def test_clocks_that_jetson_clocks_holds(shown: str) -> None:
    """The memory's lowest stays low, and processors that are switched off keep theirs."""
    assert [clock.name for clock in parse_clocks(shown)] == ["cpu0", "GPU", "EMC"]
    assert all(clock.fixed for clock in parse_clocks(shown))


def test_no_jetson(tmp_path: Path) -> None:
    def ask(_: Sequence[str]) -> str:
        raise AssertionError("asked where there is no Jetson")

    assert read_jetson(tmp_path, ask) is None


@pytest.mark.parametrize("root", [True, False])
def test_a_jetson_with_and_without_root(tmp_path: Path, root: bool) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text(RELEASE)
    tools = {"nvpmodel": POWER_MODE, "jetson_clocks": CLOCKS if root else "", "tegrastats": TEGRASTATS}
    jetson = read_jetson(tmp_path, lambda command: tools[command[0]])
    assert jetson is not None
    assert (jetson.release, jetson.power_mode) == ("R36.4.3", "MODE_30W")
    assert jetson.to_json()["clocks_fixed"] is (False if root else None)
    found = benchmark_on(jetson)
    assert any("sudo jetson_clocks" in warning for warning in found.warnings) is root
    told = "\n".join(machine_lines(found))
    assert "Jetson Linux R36.4.3: power mode MODE_30W" in told
    assert ("GPU 306 MHz of 612" in told) is root


def benchmark_on(jetson: Jetson) -> Benchmark:
    machine = Machine("Orin", (), 8, 8, "", 62801, "Linux", "3.10", jetson=jetson)
    return Benchmark((), machine, Memory(1.0, 1.0), 0.0, "2025-01-22T20:34:20Z")
