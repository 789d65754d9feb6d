"""Registers, spills and shared memory of the plugin's kernels, as ptxas reports them for every GPU that is supported.

    python benchmarks/plugin_registers.py            # prints the table of plugins/anchor_decode/README.md
    python benchmarks/plugin_registers.py 87 120     # for some GPUs

Wants nvcc of CUDA 13 (--nvcc, else $CUDA_HOME, PATH, or the PyPI packages nvidia-cuda-nvcc, nvidia-cuda-crt,
nvidia-nvvm, nvidia-cuda-runtime and nvidia-cuda-cccl of this Python). No GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "plugins" / "anchor_decode" / "anchor_decode.cu"
ARCHITECTURES = ("75", "80", "86", "87", "89", "90", "100", "110", "120")
_ELEMENTS = ("float", "half", "int8")
_KERNEL = re.compile(r"Compiling entry function '(\w+)' for 'sm_\d+'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one GPU: registers of a thread; bytes of stack, spills and static shared memory."""

    kernel: str
    registers: int
    stack: int
    spills: int
    shared: int


def find_nvcc() -> Path | None:
    """The CUDA compiler: of $CUDA_HOME, of PATH, or of the PyPI packages."""
    home = os.environ.get("CUDA_HOME")
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    places = [Path(home) / "bin" / "nvcc"] if home else []
    places += [Path(found)] if (found := shutil.which("nvcc")) else []
    places += sorted(packages.glob("cu*/bin/nvcc"))
    return next((place for place in places if place.is_file()), None)


def measure(nvcc: Path, architecture: str, source: Path = SOURCE) -> list[Usage]:
    """Compile for one GPU, such as "87"; raises CalledProcessError, its stderr saying why."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(nvcc), "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas=-v", "-cubin"]
        done = subprocess.run(
            [*command, str(source), "-o", f"{folder}/out.cubin"], capture_output=True, text=True, check=True
        )
    return parse(done.stderr)


def parse(report: str) -> list[Usage]:
    """Read what ptxas -v said."""
    found = []
    kernel = ""
    stack = spills = 0
    for line in report.splitlines():
        if match := _KERNEL.search(line):
            kernel = readable(match[1])
        elif match := _STACK.search(line):
            stack, spills = int(match[1]), int(match[2]) + int(match[3])
        elif match := _USED.search(line):
            shared = _SHARED.search(line)
            found.append(Usage(kernel, int(match[1]), stack, spills, int(shared[1]) if shared else 0))
    return sorted(found, key=lambda usage: usage.kernel)


def readable(mangled: str) -> str:
    """Such as scanEvery<half>, of a mangled name."""
    start = re.search(r"7kernels(\d+)", mangled)
    if start is None:
        return mangled
    end = start.end() + int(start[1])
    name, rest = mangled[start.end() : end], mangled[end:]
    if match := re.match(r"ILNS_7ElementE(\d)E", rest):
        return f"{name}<{_ELEMENTS[int(match[1])]}>"
    if match := re.match(r"ILi(\d+)E", rest):
        return f"{name}<{match[1]}>"
    return name


def table(rows: dict[str, list[Usage]]) -> str:
    """Markdown: a kernel a row, a GPU a column; registers, and spilled bytes where there are any."""
    lines = [
        "| kernel | shared bytes | " + " | ".join(f"sm_{a}" for a in rows) + " |",
        "| --- " * (len(rows) + 2) + "|",
    ]
    for at, first in enumerate(next(iter(rows.values()))):
        cells = [usages[at] for usages in rows.values()]
        registers = (f"{c.registers}" + (f" ({c.spills} spilled)" if c.spills else "") for c in cells)
        lines.append(f"| `{first.kernel}` | {max(c.shared for c in cells)} | " + " | ".join(registers) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--nvcc", type=Path, default=find_nvcc())
    arguments = parser.parse_args()
    if arguments.nvcc is None:
        packages = "nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl"
        sys.exit(f"nvcc not found; pip install {packages}")
    print(table({a: measure(arguments.nvcc, a) for a in arguments.architectures}))


if __name__ == "__main__":
    main()
