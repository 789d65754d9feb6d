"""Host builds of the plugin, TensorRT's interfaces over emulated kernels, once for each state of the sources."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from emulator.build import FLAGS, KERNELS, SANITIZERS, compiler
from emulator.build import HERE as EMULATOR

from edge_retina.toolchain import HEADERS, find_headers

HERE = Path(__file__).parent
SOURCES = ("anchor_decode.cu", "anchor_decode_fields.cpp", "anchor_decode_plugin.cpp")


def headers() -> Path:
    """TensorRT's headers, or the test is skipped with the reason."""
    found = find_headers()
    if found is None:
        pytest.skip(f"no NvInfer.h to compile the plugin with (apt install libnvinfer-headers-dev, or set {HEADERS})")
    return found.folder


def compile_plugin(name: str, driver: str, flags: tuple[str, ...]) -> Path:
    """Compile the plugin's sources with one of the drivers beside this file, or take what the same gave before."""
    include = headers()
    command = [compiler(), *FLAGS, *flags, "-Wl,-z,defs", f"-I{EMULATOR / 'include'}", f"-I{KERNELS}"]
    command += ["-isystem", str(include), "-x", "c++", *(str(KERNELS / source) for source in SOURCES)]
    command += [str(HERE / driver), "-o"]
    digest = hashlib.sha256("\n".join(command).encode())
    for folder in (KERNELS, EMULATOR / "include", HERE):
        for file in sorted(folder.iterdir()):
            if file.suffix in (".h", ".cuh", ".cu", ".cpp"):
                digest.update(file.name.encode() + file.read_bytes())
    digest.update((include / "NvInferVersion.h").read_bytes())
    folder = Path(tempfile.gettempdir()) / f"edge-retina-plugin-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{digest.hexdigest()[:24]}-{name}"
    if not built.exists():
        # Two test processes may build at the same time; each makes its own and the last rename stays.
        with tempfile.TemporaryDirectory(dir=folder) as own:
            made = Path(own) / name
            done = subprocess.run([*command, str(made)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            made.replace(built)
    return built


def library() -> Path:
    """The plugin as a shared library; an undefined symbol, such as any of TensorRT's libraries, fails it."""
    return compile_plugin("plugin.so", "shim.cpp", ("-O2", "-fPIC", "-shared"))


def fuzzer() -> Path:
    """fuzz.cpp as a program, under AddressSanitizer, its leak check and UBSan."""
    return compile_plugin("fuzz", "fuzz.cpp", SANITIZERS["address"])
