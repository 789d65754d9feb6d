"""What is loaded when: in processes of their own, for here everything is loaded already."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from models import tiny_model

import edge_retina

ROOT = Path(edge_retina.__file__).parent
BUILD_ONLY = {"click", "onnx", "onnx_graphsurgeon", "rich", "torch"}


def loaded_by(code: str, *arguments: object) -> set[str]:
    """Top-level modules outside the standard library that some code brings in."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return {name.split(".")[0] for name in result.stdout.split()} - sys.stdlib_module_names


def test_nothing_loads_nothing() -> None:
    assert loaded_by("pass") == set()


def test_the_package_needs_nothing_and_its_names_numpy_alone() -> None:
    assert loaded_by("import edge_retina") == {"edge_retina"}
    assert loaded_by("from edge_retina import Detector, Frame, build, read_bundle") == {"edge_retina", "numpy"}


def test_the_commands_help_is_not_kept_waiting() -> None:
    shown = "import contextlib, io\nfrom edge_retina.__main__ import main\nsys.argv = ['edge-retina', '--help']\n"
    shown += "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()"
    assert not loaded_by(shown) & {"cv2", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "torch"}


RUN = """
import numpy as np
from edge_retina import Detector
with Detector.load(sys.argv[1]) as detector:
    assert len(detector(np.zeros((48, 64, 3), np.uint8))) >= 0
    for frame, detections in detector.stream("test://?frames=2&size=64x48"):
        assert detections.shape == (48, 64)
    from edge_retina.stream import run
    run(detector, "test://?frames=2&size=64x48", [sys.argv[2]])
"""


def test_running_a_bundle_loads_none_of_what_built_it(tmp_path: Path) -> None:
    tiny_model(tmp_path / "m.onnx")
    bundle = edge_retina.build(tmp_path / "m.onnx")
    found = loaded_by(RUN, bundle.path, tmp_path / "out.jsonl")
    assert {"cv2", "onnxruntime"} <= found
    assert not found & BUILD_ONLY
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


EACH_ALONE = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [n for n in sys.modules if n.split(".")[0] == "edge_retina"]:
        del sys.modules[loaded]
    module = importlib.import_module(name)
    missing = [n for n in getattr(module, "__all__", []) if not hasattr(module, n)]
    assert not missing, (name, missing)
"""


def test_every_module_can_be_the_first_to_be_imported() -> None:
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        of_torch = parts[1] == "train" and parts[-1] not in ("__init__", "cli")
        wants = "torchvision" if parts[1:] == ("peers", "pytorch") else "torch" if of_torch else None
        if path.name != "__main__.py" and (wants is None or importlib.util.find_spec(wants) is not None):
            names.append(".".join(parts).removesuffix(".__init__"))
    assert len(names) > 30
    command = [sys.executable, "-c", EACH_ALONE, *names]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", edge_retina.__all__)
def test_public_names(name: str) -> None:
    assert callable(getattr(edge_retina, name))


def test_public_names_are_all_there_are() -> None:
    assert edge_retina.__all__ == sorted(edge_retina.__all__)
    with pytest.raises(AttributeError, match="module 'edge_retina' has no attribute 'fly'"):
        edge_retina.fly  # noqa: B018
    assert edge_retina.build.__module__ == "edge_retina.build"  # the function wins over the module of that name
