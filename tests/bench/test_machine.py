"""What is told of the machine: from files as Linux has them, and of the one the tests run on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edge_retina.bench.machine import Load, read_load, read_machine, read_memory


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_nothing_to_read(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.instruction_sets, machine.governor, machine.memory_mib, machine.jetson) == ((), "", 0, None)
    assert read_load(tmp_path).stolen == 0


def test_a_desktop(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nmodel name\t: AMD EPYC 9354\nflags\t\t: fpu sse4_1 avx2 fma avx512_vnni\n",
        proc__meminfo="MemTotal:       16303008 kB\nMemFree: 1 kB\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave\n",
        proc__stat="cpu  100 20 30 5000 10 4 6 70 0 0\ncpu0 1 1 1 1\n",
    )
    machine = read_machine(root)
    assert machine.processor == "AMD EPYC 9354"
    assert machine.instruction_sets == ("sse4_1", "avx2", "fma", "avx512_vnni")
    assert (machine.governor, machine.memory_mib) == ("powersave", 15920)
    ticks = os.sysconf("SC_CLK_TCK")
    load = read_load(root)
    assert load.busy == pytest.approx(160 / ticks)
    assert load.stolen == pytest.approx(70 / ticks)


def test_an_arm_board(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16\nCPU part\t: 0xd42\n",
        **{"proc__device-tree__model": "NVIDIA Jetson AGX Orin Developer Kit\0"},
    )
    machine = read_machine(root)
    assert machine.processor == "NVIDIA Jetson AGX Orin Developer Kit"
    assert machine.instruction_sets == ("asimd", "asimdhp", "asimddp", "i8mm", "bf16")


def test_what_others_took() -> None:
    whole = os.cpu_count() or 1
    before = Load(0.0, busy=10.0, stolen=1.0, ours=5.0)
    after = Load(10.0, busy=10.0 + 4 * whole, stolen=1.0 + whole, ours=5.0 + 2 * whole)
    assert after.others_since(before) == pytest.approx(0.3)
    assert before.others_since(before) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's account of memory")
def test_this_process() -> None:
    memory = read_memory()
    assert 10 < memory.resident_mib <= memory.peak_mib
    assert read_machine().packages["numpy"]
    first = read_load()
    assert first.busy >= first.ours > 0
