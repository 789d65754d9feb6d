"""A copy of ONNX Runtime that takes its AVX2 kernels on a processor with AVX-512.

ONNX Runtime chooses kernels by CPUID, and AVX-512, VNNI with it, only where XGETBV says that the operating system keeps
its registers. In the copy XGETBV is replaced by `push 7; pop rax`, which says that it keeps those of SSE and AVX alone.
Kernels are then those of a processor with AVX2 and without VNNI; memory and clock are still this one's.

    python benchmarks/avx2.py FOLDER        # then: PYTHONPATH=FOLDER python ...
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

_XGETBV, _SSE_AVX = b"\x0f\x01\xd0", b"\x6a\x07\x58"
# What a compiler puts around the instruction: ecx cleared before, the halves of its 64 bits joined after. The three
# bytes alone also occur inside other instructions.
_CLEAR_ECX, _JOIN_HALVES = b"\x31\xc9", b"\x89\xc0\x48\xc1\xe2"


def make_copy(folder: Path) -> int:
    """Copy the installed onnxruntime into `folder` and patch it; returns how many instructions were replaced."""
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("onnxruntime is not installed; run: pip install onnxruntime")
    target = folder / "onnxruntime"
    shutil.copytree(Path(spec.origin).parent, target)
    replaced = 0
    for library in target.glob("capi/*.so*"):
        data = bytearray(library.read_bytes())
        position = data.find(_XGETBV)
        while position >= 0:
            before, after = data[position - 2 : position], data[position + 3 : position + 8]
            if before == _CLEAR_ECX or after == _JOIN_HALVES:
                data[position : position + 3] = _SSE_AVX
                replaced += 1
            position = data.find(_XGETBV, position + 3)
        library.write_bytes(data)
    if not replaced:
        raise SystemExit("found no XGETBV in this onnxruntime; its compiler spells it otherwise")
    return replaced


if __name__ == "__main__":
    print(f"{make_copy(Path(sys.argv[1]))} instructions replaced; use it with PYTHONPATH={sys.argv[1]}")
