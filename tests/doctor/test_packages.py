"""Packages that are fine, broken, of the wrong version, mixed, doubled and shadowed."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path

import pytest
from fake_packages import distribution, package

from edge_retina.doctor import opencv, packages, python
from edge_retina.doctor.machine import Finding, Machine

STANDARD_LIBRARY = [sysconfig.get_path("stdlib"), str(Path(sysconfig.get_path("stdlib")) / "lib-dynload")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks into first, for packages and for their metadata."""
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    return place


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all Python has beside its standard library."""
    place = tmp_path / "alone"
    place.mkdir()
    monkeypatch.setattr(sys, "path", [str(place), *STANDARD_LIBRARY])
    return place


def one(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# Python


def test_this_python() -> None:
    finding = one(python.check_python(Machine()))
    assert finding.status == "ok"
    assert sys.prefix in finding.found


@pytest.mark.parametrize(("version", "status"), [((3, 9), "warn"), ((3, 10), "ok"), ((3, 13), "ok"), ((3, 14), "warn")])
def test_other_pythons(version: tuple[int, int], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python.sys, "version_info", (*version, 1))
    assert one(python.check_python(Machine())).status == status


def test_python_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python.struct, "calcsize", lambda _: 4)
    finding = one(python.check_python(Machine()))
    assert finding.status == "fail"
    assert "64-bit" in finding.remedy


def test_requirements(alone: Path) -> None:
    finding = one(python.check_requirements(Machine()))
    assert (finding.status, finding.found) == ("warn", "not installed in this Python")
    place = alone / "edge_retina-1.0.dist-info"
    place.mkdir()
    wanted = ["click>=8.1", "numpy>=1.26", "onnxruntime>=1.20", "rich", 'tomli>=2; python_version < "3.11"']
    wanted.append('torch>=2.5; extra == "train"')
    text = "".join(f"Requires-Dist: {line}\n" for line in wanted)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: edge-retina\nVersion: 1.0\n{text}")
    for name, version in (("click", "8.10"), ("numpy", "1.24.4"), ("onnxruntime-gpu", "1.20.1"), ("tomli", "2.0")):
        distribution(alone, name, version)
    finding = one(python.check_requirements(Machine()))
    assert finding.status == "fail"
    assert finding.found == "1.0; rich is missing, numpy 1.24.4 < 1.26"
    assert finding.remedy == "pip install rich 'numpy>=1.26'"
    distribution(alone, "rich", "13.7")
    importlib.invalidate_caches()
    assert "numpy" in one(python.check_requirements(Machine())).found


def test_a_broken_click(folder: Path) -> None:
    package(folder, "click", "raise AttributeError('half installed')")
    click, rich = python.check_command_line(Machine())
    assert (click.status, click.found) == ("fail", "AttributeError: half installed")
    assert click.remedy == "pip install --force-reinstall click"
    assert rich.status == "ok"


# NumPy, ONNX, ONNX Runtime


def test_those_that_are_here() -> None:
    import numpy
    import onnxruntime

    machine = Machine()
    assert one(packages.check_numpy(machine)) == Finding("Packages", "numpy", "ok", numpy.__version__)
    finding = one(packages.check_onnxruntime(machine))
    assert finding.status == "ok"
    assert finding.found.startswith(f"{onnxruntime.__version__} (")
    assert "CPU" in finding.found
    onnx, surgeon = packages.check_onnx(machine)
    assert (onnx.status, surgeon.status) == ("ok", "ok")
    assert "opset" in onnx.found


def test_a_wrong_numpy(folder: Path) -> None:
    package(
        folder,
        "numpy",
        "raise ImportError('''\n\nIMPORTANT: PLEASE READ THIS FOR ADVICE ON HOW TO SOLVE THIS ISSUE!''')",
    )
    finding = one(packages.check_numpy(Machine()))
    assert finding.status == "fail"
    assert finding.found.startswith("ImportError: IMPORTANT: PLEASE READ THIS")
    assert finding.remedy == "pip install --force-reinstall 'numpy>=1.26'"
    # What needs it says so as well, rather than to crash the doctor.
    assert one(packages.check_onnxruntime(Machine())).status == "fail"
    assert one(opencv.check_opencv(Machine())).status == "fail"


FAKE_NUMPY = """
__version__ = {version!r}
class ones:
    def __init__(self, _): pass
    def __matmul__(self, _): return {{(0, 0): 2}}
"""


def test_an_old_numpy(folder: Path) -> None:
    package(folder, "numpy", FAKE_NUMPY.format(version="1.24.4"))
    distribution(folder, "numpy", "1.24.4")
    finding = one(packages.check_numpy(Machine()))
    assert (finding.status, finding.found) == ("fail", "1.24.4, wanted 1.26 or later")
    assert finding.remedy == "pip install 'numpy>=1.26'"


def test_two_numpys_over_each_other(folder: Path) -> None:
    package(folder, "numpy", FAKE_NUMPY.format(version="2.2.6"))
    distribution(folder, "numpy", "1.26.4")
    finding = one(packages.check_numpy(Machine()))
    assert finding.status == "fail"
    assert finding.found.startswith("2.2.6 is imported, 1.26.4 is what pip installed")


def test_a_file_of_that_name_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import numpy

    (tmp_path / "numpy.py").write_text(FAKE_NUMPY.format(version=numpy.__version__))
    finding = one(packages.check_numpy(Machine()))
    assert (finding.status, finding.found) == ("warn", f"imported from {tmp_path / 'numpy.py'}")


def test_a_numpy_that_crashes(folder: Path) -> None:
    package(folder, "numpy", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    finding = one(packages.check_numpy(Machine()))
    assert (finding.status, finding.found) == ("fail", "import of numpy crashes Python (SIGILL)")
    assert "processor instructions" in finding.remedy


@pytest.mark.usefixtures("alone")
def test_nothing_installed() -> None:
    machine = Machine()
    assert one(packages.check_numpy(machine)) == Finding(
        "Packages", "numpy", "fail", "not installed", "pip install numpy"
    )
    assert [finding.status for finding in packages.check_onnx(machine)] == ["warn", "warn"]
    assert one(packages.check_onnxruntime(machine)).found == "not installed: the CPU runtime"
    assert one(packages.check_pairs(machine)).status == "ok"
    assert packages.check_duplicates(machine) == []
    assert one(opencv.check_opencv(machine)).remedy == "pip install opencv-python"


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"onnxruntime": "1.18.1", "numpy": "2.0.0"}, "onnxruntime 1.18.1 with numpy 2.0.0: it is built for NumPy 1"),
        ({"opencv-python": "4.10.0.82", "numpy": "2.1"}, "opencv-python 4.10.0.82 with numpy 2.1"),
        ({"onnx-graphsurgeon": "0.5.8", "onnx": "1.20.0"}, "it wants what onnx 1.20 removed"),
        ({"ml-dtypes": "0.4.1", "onnx": "1.19.0"}, "it lacks types that onnx 1.19 wants"),
    ],
)
def test_bad_pairs(alone: Path, there: dict[str, str], found: str) -> None:
    for name, version in there.items():
        distribution(alone, name, version)
    finding = one(packages.check_pairs(Machine()))
    assert finding.status == "fail"
    assert found in finding.found
    assert finding.remedy.startswith("pip install -U ")


@pytest.mark.parametrize(
    "there",
    [
        {"onnxruntime": "1.19.0", "numpy": "2.0"},
        {"onnxruntime": "1.18.1", "numpy": "1.26.4"},
        {"opencv-python": "4.10.0.84", "numpy": "2.0"},
        {"onnx-graphsurgeon": "0.5.9", "onnx": "1.20"},
        {"onnx-graphsurgeon": "0.5.8", "onnx": "1.19.1"},
    ],
)
def test_good_pairs(alone: Path, there: dict[str, str]) -> None:
    for name, version in there.items():
        distribution(alone, name, version)
    assert one(packages.check_pairs(Machine())).status == "ok"


def test_files_that_this_onnxruntime_does_not_read(folder: Path) -> None:
    package(
        folder,
        "onnxruntime",
        "def InferenceSession(*_, **__): raise RuntimeError('Load model failed: model.cc:182 onnxruntime::Model::Model "
        "Unsupported model IR version: 14, max supported IR version: 10')",
    )
    finding = one(packages.check_pairs(Machine()))
    assert finding.status == "warn"
    assert finding.found.endswith("Model Unsupported model IR version: 14, max supported IR version: 10")
    assert finding.remedy.startswith("pip install -U onnxruntime")


def test_packages_over_each_other(alone: Path) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu", "opencv-python", "opencv-python-headless", "opencv-contrib-python"):
        distribution(alone, name, "1.0")
    runtimes, opencvs = packages.check_duplicates(Machine())
    assert (runtimes.status, opencvs.status) == ("warn", "warn")
    assert runtimes.found == "onnxruntime 1.0 and onnxruntime-gpu 1.0, over each other"
    assert runtimes.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    assert opencvs.remedy.endswith("&& pip install opencv-contrib-python")


# OpenCV


def test_the_opencv_that_is_here() -> None:
    findings = {finding.name: finding for finding in opencv.check_opencv(Machine())}
    assert findings["opencv"].status == "ok"
    assert findings["ffmpeg"].status == "ok"
    assert set(findings) >= {"gstreamer", "windows"}


def test_an_opencv_without_libgl(folder: Path) -> None:
    package(
        folder,
        "cv2",
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
    )
    finding = one(opencv.check_opencv(Machine()))
    assert finding.status == "fail"
    assert finding.found.startswith("ImportError: libGL.so.1: cannot open shared object file")
    assert finding.remedy.startswith("sudo apt install libgl1 libglib2.0-0; or,")


def test_an_opencv_that_segfaults(folder: Path) -> None:
    package(folder, "cv2", "import ctypes; ctypes.string_at(0)")
    finding = one(opencv.check_opencv(Machine()))
    assert (finding.status, finding.found) == ("fail", "import of cv2 crashes Python (SIGSEGV)")
    assert finding.remedy == "pip install --force-reinstall opencv-python"


FAKE_CV2 = """
import numpy
__version__ = "4.8.0"
IMREAD_COLOR = 1
def imencode(_, picture): return True, picture
def imdecode(picture, _): return picture
def getBuildInformation(): return '''
  GUI:                           {gui}
  Video I/O:
    FFMPEG:                      {ffmpeg}
    GStreamer:                   {gstreamer} (1.20.3)
    v4l/v4l2:                    YES (linux/videodev2.h)
'''
"""


def test_what_opencv_is_built_with(folder: Path, tmp_path: Path) -> None:
    code = FAKE_CV2.format(gui="NONE", ffmpeg="NO", gstreamer="NO")
    package(folder, "cv2", code)
    findings = {finding.name: finding for finding in opencv.check_opencv(Machine(root=tmp_path / "desktop"))}
    assert {name: finding.status for name, finding in findings.items()} == {
        "opencv": "ok",
        "gstreamer": "none",
        "ffmpeg": "warn",
        "v4l2": "ok",
        "windows": "none",
    }
    (tmp_path / "jetson" / "etc").mkdir(parents=True)
    (tmp_path / "jetson" / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    jetson = Machine(root=tmp_path / "jetson")
    findings = {finding.name: finding for finding in opencv.check_opencv(jetson)}
    assert findings["gstreamer"].status == "warn"
    assert "--system-site-packages" in findings["gstreamer"].remedy
    (folder / "cv2" / "__init__.py").write_text(FAKE_CV2.format(gui="\n    GTK+: YES", ffmpeg="YES", gstreamer="YES"))
    findings = {finding.name: finding for finding in opencv.check_opencv(jetson)}
    assert [findings[name].status for name in ("gstreamer", "ffmpeg", "windows")] == ["ok", "ok", "ok"]
