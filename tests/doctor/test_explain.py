"""What is to be typed for the messages that people meet."""

from __future__ import annotations

import pytest

from edge_retina.doctor.explain import remedy
from edge_retina.doctor.machine import Probe

# As they were printed, by OpenCV, onnx, NumPy, glibc and the loader.
MESSAGES = [
    (
        "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
        "sudo apt install libgl1 libglib2.0-0; or, where no window is wanted: "
        "pip uninstall -y opencv-python && pip install opencv-python-headless",
    ),
    ("ImportError: libgthread-2.0.so.0: cannot open shared object file", "sudo apt install libgl1 libglib2.0-0"),
    ("AttributeError: module 'onnx.helper' has no attribute 'float32_to_bfloat16'", "pip install -U onnx-graphsurgeon"),
    ("AttributeError: module 'ml_dtypes' has no attribute 'float4_e2m1fn'", "pip install -U 'ml_dtypes>=0.5'"),
    ("ImportError: numpy.core.multiarray failed to import", "pip install -U package"),
    ("AttributeError: _ARRAY_API not found", "pip install 'numpy<2'"),
    ("TypeError: Descriptors cannot be created directly.", "pip install -U onnx protobuf"),
    (
        "ImportError: /usr/lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block",
        "export LD_PRELOAD=/usr/lib/aarch64-linux-gnu/libgomp.so.1",
    ),
    (
        "ImportError: x.so: cannot enable executable stack as shared object requires: Invalid argument",
        "pip install -U package",
    ),
    (
        "ImportError: /lib/x86_64-linux-gnu/libm.so.6: version `GLIBC_2.38' not found (required by x.so)",
        "pip install --force-reinstall package",
    ),
    ("ImportError: libnvinfer.so.10: cannot open shared object file", "LD_LIBRARY_PATH"),
    ("ImportError: libcuda.so.1: cannot open shared object file", "--gpus all"),
    ("ImportError: libcudart.so.12: cannot open shared object file", "CUDA's lib64 folder"),
    ("ImportError: libopenblas.so.0: cannot open shared object file", "apt-file search libopenblas.so.0"),
    ("ModuleNotFoundError: No module named 'typing_extensions'", "pip install typing_extensions, which package needs"),
    ("RuntimeError: something new", "pip install --force-reinstall package"),
]


@pytest.mark.parametrize(("message", "wanted"), MESSAGES, ids=lambda text: text[:40])
def test_messages(message: str, wanted: str) -> None:
    assert wanted in remedy(Probe(error=message), "package")


def test_what_was_printed_counts_too() -> None:
    said = "A module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.2.6 as it may crash."
    assert "'numpy<2'" in remedy(Probe(error="ImportError:", said=said), "opencv-python")


def test_missing_and_crashed() -> None:
    assert remedy(Probe(missing=True), "numpy") == "pip install numpy"
    assert "processor instructions" in remedy(Probe(error="it crashes", signal="SIGILL"), "numpy")
    assert "want of memory" in remedy(Probe(error="it crashes", signal="SIGKILL"), "numpy")
    assert remedy(Probe(error="it crashes", signal="SIGSEGV"), "numpy") == "pip install --force-reinstall numpy"
