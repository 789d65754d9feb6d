"""The anchor-decode plugin for TensorRT: found, or built once on the machine that runs it and kept.

Built with nvcc alone, which calls g++ for the C++ files: CMake would be one package more, and JetPack 6's does not know
how to ask the GPU what it is. plugins/anchor_decode/CMakeLists.txt is for those who build it by themselves.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from edge_retina.cachefolder import LOCK_SUFFIX, folder, hold, own_folder, write_whole
from edge_retina.errors import MissingPackage, RuntimeFailure, UsageError
from edge_retina.toolchain import Headers, find_headers, find_nvcc, lacking, parse_version

__all__ = [
    "LIBRARY",
    "VARIABLE",
    "build_library",
    "check_machine",
    "find_library",
    "library_path",
    "missing",
    "sources",
]

LIBRARY = "libedge_retina_anchor_decode.so"
# A library to use as it is, whatever it was built for.
VARIABLE = "EDGE_RETINA_PLUGIN"

_SOURCES = Path(__file__).with_name("plugin_sources")
_SUFFIXES = (".h", ".cuh", ".cu", ".cpp")
_LOG = "build.log"
_SHOWN_LINES = 3
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-shared",
    "-cudart=static",  # so that no CUDA runtime needs to be found, and it is no other than the headers'
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden",
    "-Xlinker=--no-undefined,--exclude-libs=ALL",
)


def sources() -> Path | None:
    """The folder of the plugin's sources, of a checkout or an installed wheel alike; None where they were left out."""
    return _SOURCES if (_SOURCES / "anchor_decode.h").is_file() else None


def library_path(version: str, compute_capability: str) -> Path:
    """Where the plugin for a TensorRT such as "10.3.0" and a GPU such as "8.7" is kept, there or not.

    The folder is named by the sources' digest too: a new edge-retina does not take the old one's. Raises UsageError.
    """
    major, minor = parse_version(version)
    digest = hashlib.sha256("\0".join([platform.machine(), *_FLAGS]).encode())
    for path in _files():
        data = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(data)}\0".encode() + data)
    name = f"{digest.hexdigest()[:16]}-trt{major}.{minor}-sm{_architecture(compute_capability)}"
    return folder().parent / "plugins" / name / LIBRARY


def find_library(version: str, compute_capability: str) -> Path | None:
    """The plugin that build_library made for a TensorRT and a GPU, or what $EDGE_RETINA_PLUGIN names; else None.

    Raises UsageError where the variable names no file, or the version or the capability is none.
    """
    if named := os.environ.get(VARIABLE):
        path = Path(os.path.abspath(named))
        if not path.is_file():
            raise UsageError(f"{VARIABLE}={named}: no such file; name a {LIBRARY}, or unset it")
        return path
    path = library_path(version, compute_capability)
    return path if path.is_file() and sources() else None


def missing(version: str | None = None) -> list[tuple[str, str]]:
    """What a build lacks on this machine, each with the package to install; empty: it can be built.

    version: of the TensorRT to build for, whose headers must be of its major version. Raises UsageError.
    """
    return [*lacking(version), *([] if sources() else [("the plugin's sources", "edge-retina, anew")])]


def check_machine(version: str | None = None) -> None:
    """Raise MissingPackage, with all packages that `missing` gives, where a build cannot succeed."""
    if absent := missing(version):
        listed = "; ".join(f"{what}: install {package}" for what, package in absent)
        raise MissingPackage(f"the plugin cannot be built here. {listed}. Then: edge-retina plugin build")


def build_library(
    version: str,
    compute_capability: str,
    *,
    force: bool = False,
    on_note: Callable[[str], None] = lambda _: None,
) -> Path:
    """Build the plugin for a TensorRT and a GPU, unless it is there.

    version, compute_capability: such as "10.3.0", "8.7". force: build it anew. on_note: told what is done, a line each.
    Any number of processes may call it: one builds, the others wait; a library is there whole or not at all, its
    build.log beside it. Raises MissingPackage with the packages' names, RuntimeFailure where the compiler fails,
    OutputError, UsageError.
    """
    target = library_path(version, compute_capability)
    check_machine(version)
    own_folder(target.parent)
    with hold(target.with_suffix(LOCK_SUFFIX), on_wait=lambda: on_note("another process builds the plugin: waiting")):
        if force or not target.is_file():
            headers, nvcc = find_headers(version), find_nvcc()
            if headers is None or nvcc is None:
                raise MissingPackage("nvcc or TensorRT's headers went away; run: edge-retina plugin status")
            if headers.version != parse_version(version):
                found = ".".join(map(str, headers.version))
                on_note(
                    f"headers of TensorRT {found} for {version}: the interfaces are the same within a major version"
                )
            on_note(f"building the plugin for TensorRT {version}, sm_{_architecture(compute_capability)}")
            write_whole(target, [_compile(nvcc, headers, _architecture(compute_capability), target.with_name(_LOG))])
    return target


def _compile(nvcc: Path, headers: Headers, architecture: str, log: Path) -> bytes:
    """The library's bytes; what the compiler said goes into `log`."""
    with tempfile.TemporaryDirectory(prefix="edge-retina-") as name:
        out = Path(name) / LIBRARY
        command = [str(nvcc), *_FLAGS, f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
        # Not -isystem, which puts /usr/include before the headers of C++ that include it.
        command += [f"-I{headers.folder}", "-o", str(out)]
        command += [str(path) for path in _files() if path.suffix in (".cu", ".cpp")]
        try:
            # nvcc asks for g++ by PATH; messages in English, so that the errors among them are known.
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
                cwd=name,
            )
        except OSError as exc:
            raise RuntimeFailure(
                f"{nvcc}: cannot be run: {exc.strerror or exc}; run: edge-retina plugin status"
            ) from exc
        said = done.stdout.decode(errors="replace")
        write_whole(log, [f"{' '.join(command)}\n{said}exit code {done.returncode}\n".encode()])
        library = out.read_bytes() if out.is_file() else b""
        if done.returncode or not library.startswith(b"\x7fELF"):
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            lines = [line for line in lines if re.search("error|fatal|unsupported", line, re.I)] or lines[-1:]
            why = "; ".join(lines[:_SHOWN_LINES]) or f"exit code {done.returncode}, no message"
            raise RuntimeFailure(f"the plugin does not compile: {why}. All of it: {log}")
        return library


def _files() -> list[Path]:
    found = sources()
    return sorted(path for path in found.iterdir() if path.suffix in _SUFFIXES) if found else []


def _architecture(capability: str) -> str:
    if not re.fullmatch(r"\d{1,2}\.\d", capability):
        raise UsageError(f"a GPU's compute capability is such as 8.7 (Orin) or 11.0 (Thor), found {capability!r}")
    return capability.replace(".", "")
