"""What nvcc makes of the kernels: no spills, few registers, no runtime call but the launch. Skipped where it is not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import plugin_registers  # noqa: E402

README = ROOT / "plugins" / "anchor_decode" / "README.md"
# Threads of a block times registers must fit a multiprocessor's 65,536 once; 64 leave room for two blocks of 512.
MOST_REGISTERS = 64
# Top-k buffer of plan.h, kMaxBufferKeys, in bytes; every GPU gives a block 48 KiB.
BUFFER, SHARED = 5600 * 8, 48 << 10
KERNELS = {
    *(f"{scan}<{element}>" for scan in ("scanEvery", "scanBest") for element in ("float", "half", "int8")),
    "selectLevel",
    "decodePlaces<128>",
    "decodePlaces<512>",
    "suppress",
}


@pytest.fixture(scope="module")
def nvcc() -> Path:
    found = plugin_registers.find_nvcc()
    if found is None:
        pytest.skip("needs nvcc (pip install nvidia-cuda-nvcc and what it names, or a CUDA toolkit)")
    if shutil.which("g++") is None:
        pytest.skip("needs g++, which nvcc calls (apt install g++)")
    return found


@pytest.mark.parametrize("architecture", plugin_registers.ARCHITECTURES)
def test_registers_and_shared_memory_stay_in_bounds(nvcc, architecture):
    usages = plugin_registers.measure(nvcc, architecture)
    assert {usage.kernel for usage in usages} == KERNELS
    for usage in usages:
        assert usage.spills == usage.stack == 0, usage
        assert usage.registers <= MOST_REGISTERS, usage
        assert usage.shared + (BUFFER if usage.kernel.startswith(("scan", "select")) else 0) <= SHARED, usage


def test_the_launcher_calls_the_cuda_runtime_for_launches_only(nvcc, tmp_path):
    if shutil.which("nm") is None:
        pytest.skip("needs nm (apt install binutils)")
    built = tmp_path / "anchor_decode.o"
    source = str(plugin_registers.SOURCE)
    subprocess.run([str(nvcc), "-std=c++17", "-arch=sm_87", "-c", source, "-o", str(built)], check=True)
    listed = subprocess.run(["nm", "-u", str(built)], capture_output=True, text=True, check=True).stdout
    # The double underscores are how nvcc announces kernels before main.
    assert set(re.findall(r"\bcuda\w+", listed)) == {"cudaLaunchKernel"}
    assert not re.search(r"\bmalloc\b|_Znw|_Zna", listed)


def test_the_table_of_the_readme_has_every_kernel_and_gpu():
    text = README.read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if "| sm_75 |" in line)
    assert [f"sm_{a}" for a in plugin_registers.ARCHITECTURES] == re.findall(r"sm_\d+", header)
    rows = {row[1] for row in re.finditer(r"^\| `([\w<>]+)` \|.*$", text, re.MULTILINE)}
    assert rows == KERNELS
    assert "spilled)" not in text


REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN11edge_retina7kernels9scanEveryILNS_7ElementE1EEEvNS0_4ViewE' for 'sm_87'
ptxas info    : Function properties for _ZN11edge_retina7kernels9scanEveryILNS_7ElementE1EEEvNS0_4ViewE
    24 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 1056 bytes smem, 1336 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN11edge_retina7kernels8suppressENS0_4ViewE' for 'sm_87'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
"""


def test_what_ptxas_says_is_read():
    usages = plugin_registers.parse(REPORT)
    assert usages == [
        plugin_registers.Usage("scanEvery<half>", 48, 24, 48, 1056),
        plugin_registers.Usage("suppress", 40, 0, 0, 0),
    ]
    assert plugin_registers.table({"87": usages}).splitlines()[2:] == [
        "| `scanEvery<half>` | 1056 | 48 (48 spilled) |",
        "| `suppress` | 0 | 40 |",
    ]
    assert plugin_registers.parse("") == []
