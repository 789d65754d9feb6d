"""Host builds of the plugin's kernels, made once for each state of their sources and kept in the temporary folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "plugins" / "anchor_decode"
# As nvcc leaves it with the _rn intrinsics: no multiplication fused with an addition.
FLAGS = ("-std=c++17", "-g", "-pthread", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = {
    "none": ("-O1",),
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DEMULATOR_ONE_WORKER"),
    "thread": ("-O1", "-fsanitize=thread", "-DEMULATOR_ONE_WORKER"),
}


def compiler() -> str:
    """The C++ compiler, or the test is skipped with the reason."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        pytest.skip("needs g++ to compile the CUDA kernels for the host (apt install g++)")
    return found


def compile_host(name: str, source: Path, flags: tuple[str, ...], kernels: Path = KERNELS) -> Path:
    """Compile `source` for the host, kernels from `kernels`, or take what the same sources gave before."""
    command = [compiler(), *FLAGS, *flags, f"-I{HERE / 'include'}", f"-I{kernels}", "-x", "c++", str(source), "-o"]
    files = [source, *sorted((HERE / "include").iterdir()), *sorted(kernels.glob("*.cuh"))]
    files += [kernels / name for name in ("anchor_decode.cu", "anchor_decode.h", "plan.h")]
    # Not the folder: copies of the same sources give the same.
    digest = hashlib.sha256("\n".join(part for part in command if str(kernels) not in part).encode())
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"edge-retina-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} is somebody else's"
    built = folder / f"{digest.hexdigest()[:24]}-{name}"
    if not built.exists():
        # Two test processes may build at the same time; each makes its own and the last rename stays.
        with tempfile.TemporaryDirectory(dir=folder) as own:
            made = Path(own) / name
            done = subprocess.run([*command, str(made)], capture_output=True, text=True, check=False)
            for part in re.findall(r"cannot find \S*(libasan|libubsan|libtsan|-lasan|-lubsan|-ltsan)", done.stderr):
                pytest.skip(f"needs the compiler's sanitizers: {part} is missing")
            assert done.returncode == 0, done.stderr
            made.replace(built)
    return built


def library(kernels: Path = KERNELS) -> Path:
    """The launcher as a shared library; an undefined symbol, such as any other call of the CUDA runtime, fails it."""
    flags = ("-O2", "-fPIC", "-shared", "-Wl,-z,defs", "-Wl,--exclude-libs,ALL")
    return compile_host("anchor_decode.so", HERE / "library.cpp", flags, kernels)


def run_host(program: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a compiled program, at plain addresses: ThreadSanitizer knows none that are shuffled as widely as now."""
    fixed = ["setarch", "-R"]
    if shutil.which("setarch") is None or subprocess.run([*fixed, "true"], capture_output=True, check=False).returncode:
        fixed = []
    done = subprocess.run(
        [*fixed, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("needs setarch -R: this kernel's address space is not ThreadSanitizer's")
    return done
