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
POWER_MODE = "NV Power Mode: MODE_30W\n2\n"
CLOCKS = """SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit
Online CPUs: 0-7
cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1728000 CurrentFreq=1113600 IdleStates: WFI=1 c7=1
cpu1: Online=1 Governor=schedutil MinFreq=1728000 MaxFreq=1728000 CurrentFreq=1728000 IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=612000000 CurrentFreq=306000000
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=2133000000 FreqOverride=0
FAN Dynamic Speed control=nvfancontrol hwmon0_pwm1=60
NV Power Mode: MODE_30W
"""
TEGRASTATS = (
    "01-22-2025 20:34:20 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,2%@729,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C tj@44.343C "
    "VDD_GPU_SOC 2340mW/2400mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW\n"
    "01-22-2025 20:34:21 RAM 4321/62801MB CPU@99C VDD_CPU_CV 9mW/9mW\n"
)


def test_nothing_printed() -> None:
    assert (parse_power_mode(""), parse_clocks(""), parse_tegrastats("")) == ("", (), ({}, {}))
    assert _ask(("no-such-tool-of-jetpack",)) == ""


def test_what_the_tools_print() -> None:
    assert parse_power_mode(POWER_MODE) == "MODE_30W"
    first, second, gpu, memory = parse_clocks(CLOCKS)
    assert (first.name, first.least, first.most, first.current) == ("cpu0", 729_600_000, 1_728_000_000, 1_113_600_000)
    assert (first.fixed, second.fixed) == (False, True)
    assert (gpu.name, gpu.most) == ("GPU", 612_000_000)
    assert (memory.name, memory.current) == ("EMC", 2_133_000_000)
    celsius, watts = parse_tegrastats(TEGRASTATS)
    assert celsius == {"CPU": 44.562, "Tboard": 32.0, "tj": 44.343}
    assert watts == {"VDD_GPU_SOC": 2.34, "VDD_CPU_CV": 0.39, "VIN_SYS_5V0": 4.025}


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
