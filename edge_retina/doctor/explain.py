"""What to do about a package that cannot be imported, by what its import said."""

from __future__ import annotations

import re

from edge_retina.doctor.machine import Probe

__all__ = ["remedy"]

# The first that is found in what the import said. {package}: what pip calls it.
_KNOWN = (
    (r"No module named '(?P<module>\w+)'", "pip install {module}, which {package} needs"),
    # OpenCV's wheels want a desktop's libraries, unless they are the headless ones.
    (
        r"lib(GL|EGL|gthread-2\.0|glib-2\.0|SM|Xext|Xrender)\.so",
        "sudo apt install libgl1 libglib2.0-0; or, where no window is wanted: "
        "pip uninstall -y opencv-python && pip install opencv-python-headless",
    ),
    # onnx 1.20 removed it, onnx-graphsurgeon before 0.5.9 takes it (NVIDIA/TensorRT issue 4635).
    (r"float32_to_bfloat16", "pip install -U onnx-graphsurgeon"),
    # onnx 1.19 wants ml_dtypes 0.5 (onnx issue 7249).
    (r"ml_dtypes.* has no attribute", "pip install -U 'ml_dtypes>=0.5'"),
    (r"Descriptors cannot be created directly", "pip install -U onnx protobuf"),
    # Built against the other major version of NumPy (opencv-python issues 995, 997).
    (
        r"_ARRAY_API not found|compiled using NumPy 1|numpy\.core\.multiarray failed|compiled against API version",
        "pip install -U {package}; where it is the system's own, as JetPack's OpenCV: pip install 'numpy<2'",
    ),
    (
        r"IMPORTANT: PLEASE READ THIS|numpy from its source directory|numpy\.core\._multiarray|_multiarray_umath",
        "pip install --force-reinstall 'numpy>=1.26'",
    ),
    # glibc keeps little room for these; aarch64 runs out of it (opencv issue 14884).
    (
        r"(?P<file>\S+): cannot allocate memory in static TLS block",
        "export LD_PRELOAD={file}, in the shell or the service that starts edge-retina",
    ),
    (r"cannot enable executable stack", "pip install -U {package}"),
    (r"version [`']?(GLIBC|GLIBCXX|CXXABI)_[\d.]+", "pip install --force-reinstall {package}, built for this system"),
    (r"libnvinfer\S*\.so", "put TensorRT's lib folder on LD_LIBRARY_PATH, or: pip install --force-reinstall {package}"),
    (r"lib(cuda|nvcuda)\.so", "install NVIDIA's driver (JetPack has it); a container wants: --gpus all"),
    (r"lib(cudart|cublas|cudnn|curand|cufft)\S*\.so", "put CUDA's lib64 folder on LD_LIBRARY_PATH"),
    (
        r"(?P<file>lib[\w+.-]+\.so[\w.]*): cannot open shared object",
        "sudo apt install the package that has {file}: apt-file search {file}",
    ),
)
_SIGNALS = {
    "SIGILL": "this build of it wants processor instructions that this CPU lacks: pip install another version of "
    "{package}, or build it here: pip install --no-binary :all: {package}",
    "SIGKILL": "it was killed, most likely for want of memory: dmesg | tail",
}
_ANEW = "pip install --force-reinstall {package}"


def remedy(probe: Probe, package: str) -> str:
    """The command to type for a failed import of what pip calls `package`."""
    if probe.missing:
        return f"pip install {package}"
    if probe.signal:
        return _SIGNALS.get(probe.signal, _ANEW).format(package=package)
    for pattern, what in _KNOWN:
        if match := re.search(pattern, f"{probe.error}\n{probe.said}"):
            return what.format(package=package, **match.groupdict())
    return _ANEW.format(package=package)
