"""Who may import whom: read from the source of every module, held against a table, from the bottom up."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_retina

ROOT = Path(edge_retina.__file__).parent

# A module, or a package with all that is in it, imports from layers below its own; inside a package as it likes.
LAYERS: tuple[set[str], ...] = (
    {"errors", "events", "redaction"},
    {
        "console",
        "drafts",
        "logs",
        "memory",
        "monitor",
        "planfile",
        "profile",
        "project",
        "spec",
        "toolchain",
        "types",
        "watchdog",
    },
    {"backoff", "cachefolder", "geometry", "newest", "reader", "query", "sink", "zones"},
    {"accuracy", "boxes", "bundle", "draw", "images", "layers", "pattern", "plugin", "refusal", "weights", "window"},
    {"service", "signing"},
    {"bareplan"},
    {"plans"},
    {"capture", "importer", "jsonl", "matching", "runtime", "video"},
    {"posting", "recorder", "rotate", "snapshots", "tracking"},
    {"check", "outline", "sources"},
    {"calibrate", "detector", "disagreement", "live", "outs", "sinkhost", "watch", "web"},
    {"feeds", "sinks"},
    {"rewrite", "stream"},
    {"batch", "evaluate", "lowering", "peers", "quantize", "report"},
    {"compile", "export", "rounding", "sensitivity"},
    {"engine", "int8", "proof"},
    {"auto", "gate", "summary"},
    {"precision"},
    {"build"},
    {"bench", "doctor", "inspect", "train"},
    {"verify"},
    {"commands", "demo"},
    {"cli"},
    {"__init__", "__main__"},
)
# The imports upwards, when they are called: Detector.stream is a door to what is built upon it, and where there is a
# GPU and no plan yet, running a bundle compiles one.
DOORS = {("detector", "stream"), ("runtime", "engine")}

# Third-party package to where it may be imported; NumPy everywhere.
PACKAGES: dict[str, set[str]] = {
    "av": {"capture/pyav.py", "recorder/timed.py"},
    "click": {"cli", "commands", "demo", "train"},
    "cryptography": {"signing"},
    "cuda": {"runtime/cuda.py"},
    "cv2": {
        "calibrate",
        "capture",
        "commands",
        "draw",
        "images",
        "pattern",
        "peers",
        "proof",
        "recorder",
        "report",
        "sinks",
        "snapshots",
        "sources",
        "train",
        "verify",
        "video",
        "web",
        "window",
    },
    "faster_coco_eval": {"accuracy", "train"},
    "fsspec": {"batch"},
    "onnx": {
        "bench",
        "calibrate",
        "check",
        "disagreement",
        "engine",
        "export",
        "importer",
        "int8",
        "lowering",
        "peers",
        "precision",
        "quantize",
        "refusal",
        "rewrite",
        "train",
        "verify",
    },
    "onnx_graphsurgeon": {
        "importer",
        "int8",
        "lowering",
        "outline",
        "peers",
        "precision",
        "quantize",
        "rewrite",
        "rounding",
        "sensitivity",
        "summary",
        "verify",
    },
    "nncf": {"peers"},
    "openvino": {"peers"},
    "onnxruntime": {"calibrate", "importer", "peers", "runtime"},
    "onnxscript": {"train"},
    "prometheus_client": {"web"},
    "pyarrow": {"batch"},
    "pycuda": {"runtime/cuda.py"},
    "ray": {"batch/cluster.py", "batch/session.py"},
    "rich": {"cli", "commands", "console", "demo", "train"},
    "starlette": {"web"},
    "supervision": {"tracking", "types"},
    "tomli": {"commands", "project"},
    "torch": {"peers", "train"},
    "torchvision": {"peers"},
    "trackers": {"tracking"},
    "uvicorn": {"web"},
}
# What a trainer's own environment has, for those who export in it.
TRAINERS = {
    "detectron2",
    "effdet",
    "keras",
    "keras_retinanet",
    "mmdet",
    "tensorflow",
    "tf2onnx",
    "torch",
    "torchvision",
}
# tomllib is of the standard library from Python 3.11 on.
KNOWN = {"edge_retina", "numpy", "tomllib"}
# They meet in the bundle: what runs on the robot never needs what built it.
RUN_HALF = {
    "backoff",
    "bareplan",
    "batch",
    "bundle",
    "cachefolder",
    "capture",
    "detector",
    "doctor",
    "draw",
    "events",
    "feeds",
    "images",
    "jsonl",
    "logs",
    "pattern",
    "planfile",
    "plans",
    "plugin",
    "posting",
    "profile",
    "query",
    "reader",
    "recorder",
    "redaction",
    "rotate",
    "runtime",
    "service",
    "signing",
    "sink",
    "sinkhost",
    "sinks",
    "snapshots",
    "sources",
    "stream",
    "toolchain",
    "tracking",
    "video",
    "watch",
    "watchdog",
    "web",
    "window",
    "zones",
}
BUILD_HALF = {
    "auto",
    "build",
    "calibrate",
    "check",
    "cli",
    "commands",
    "compile",
    "demo",
    "disagreement",
    "export",
    "gate",
    "importer",
    "inspect",
    "int8",
    "lowering",
    "matching",
    "outline",
    "peers",
    "precision",
    "proof",
    "quantize",
    "refusal",
    "report",
    "rewrite",
    "rounding",
    "sensitivity",
    "summary",
    "train",
    "verify",
}
MAX_LINES = 300

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def unit(file: str) -> str:
    """The entry of LAYERS that a file belongs to: runtime/ort.py is of runtime, spec.py is spec."""
    return file.split("/")[0].removesuffix(".py")


def imports(file: str) -> Iterator[str]:
    """Every module that a file imports anywhere in it, TYPE_CHECKING blocks and functions included."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            if node.module == "edge_retina":  # from edge_retina import errors
                yield from (f"edge_retina.{alias.name}" for alias in node.names)
            else:
                yield node.module


def own_imports(file: str) -> set[str]:
    """Units of the package that a file imports, its own left out."""
    return {name.split(".")[1] for name in imports(file) if name.startswith("edge_retina.")} - {unit(file)}


def layer(name: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if name in names]
    assert len(found) == 1, f"{name} stands in {len(found)} layers; give it one in LAYERS"
    return found[0]


def test_the_reader_finds_imports() -> None:
    assert "errors.py" in FILES
    assert own_imports("errors.py") == set()
    assert {"errors", "spec"} <= own_imports("bundle.py")
    assert "stream" in own_imports("detector.py")  # inside a method
    assert "supervision" in set(imports("types.py"))  # under TYPE_CHECKING


def test_every_entry_of_the_table_exists() -> None:
    assert {unit(file) for file in FILES} == set().union(*LAYERS)
    assert set().union(*LAYERS) >= RUN_HALF | BUILD_HALF


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down_only(file: str) -> None:
    me = unit(file)
    for name in own_imports(file):
        assert (me, name) in DOORS or layer(name) < layer(me), f"{file} imports {name}, which is not below it"


def test_no_door_is_left_open() -> None:
    used = {(unit(file), name) for file in FILES for name in own_imports(file) if layer(name) >= layer(unit(file))}
    assert used == DOORS


@pytest.mark.parametrize("file", FILES)
def test_third_party_packages_have_their_places(file: str) -> None:
    known = KNOWN | (TRAINERS if file.startswith("importer/exporters/") else set())
    for name in {name.split(".")[0] for name in imports(file)} - sys.stdlib_module_names - known:
        allowed = PACKAGES.get(name, set())
        assert unit(file) in allowed or file in allowed, f"{file} imports {name}; allowed in {sorted(allowed)}"


@pytest.mark.parametrize("file", [file for file in FILES if unit(file) in RUN_HALF])
def test_the_run_half_never_needs_the_build_half(file: str) -> None:
    assert not own_imports(file) & BUILD_HALF
    assert not {name.split(".")[0] for name in imports(file)} & {"click", "onnx", "onnx_graphsurgeon", "rich", "torch"}


@pytest.mark.parametrize("file", FILES)
def test_no_file_is_long(file: str) -> None:
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= MAX_LINES
