"""Every name that our source takes from TensorRT, pycuda and cuda.bindings exists in what they publish.

Read from the syntax trees of the files that use them, and held against the type stubs of TensorRT 10.13, the real
TensorRT-RTX, installed bindings, and, for pycuda, which is source only, a list read from its source.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import rtx

import edge_retina

ROOT = Path(edge_retina.__file__).parent

# File to what its expressions are: classes of TensorRT, "module" for tensorrt itself.
TENSORRT: dict[str, dict[str, str]] = {
    "compile.py": {
        "trt": "module",
        "builder": "Builder",
        "config": "IBuilderConfig",
        "config.get_timing_cache()": "ITimingCache",
        "network": "INetworkDefinition",
        "tensor": "ITensor",
        "parser": "OnnxParser",
        "profile": "IOptimizationProfile",
        "registry": "IPluginRegistry",
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "inspector": "EngineInspector",
    },
    "monitor.py": {"trt": "module"},
    "refusal.py": {"error": "ParserError"},
    "layers.py:network_layers": {"network": "INetworkDefinition", "layer": "ILayer", "t": "ITensor"},
    "runtime/load.py": {
        "trt": "module",
        "registry": "IPluginRegistry",
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "mode": "TensorIOMode",
        "severity": "ILogger",
    },
    "runtime/worker.py": {
        "context": "IExecutionContext",
        "self._context": "IExecutionContext",
        "plan.engine": "ICudaEngine",
    },
}
# What only TensorRT-RTX has.
RTX_ONLY = {
    ("module", "ComputeCapability"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
}
# Asked for by name and done without where it is missing: file, class, name.
BY_NAME = {("runtime/worker.py", "IExecutionContext", "is_stream_capturable")}
# Classes of ours that are subclasses of TensorRT's: what TensorRT calls on them.
OVERRIDDEN = {
    "ILogger": ("monitor.py", ["log"]),
    "IProfiler": ("runtime/load.py", ["report_layer_time"]),
    "IProgressMonitor": ("monitor.py", ["phase_start", "step_complete", "phase_finish"]),
    "IErrorRecorder": (
        "runtime/load.py",
        ["report_error", "num_errors", "get_error_code", "get_error_desc", "has_overflowed", "clear"],
    ),
}
CUDA: dict[str, dict[str, str]] = {
    "runtime/cuda.py": {
        "cuda": "pycuda.driver",
        "self.cuda": "pycuda.driver",
        "self._cuda": "pycuda.driver",
        "device.cuda": "pycuda.driver",
        "cudart": "cuda.bindings.runtime",
        "handle": "pycuda.driver.Device",
        "attribute": "pycuda.driver.device_attribute",
        "events": "pycuda.driver.event_flags",
        "self._block": "pycuda.driver.PagelockedHostAllocation",
        "device.cuda.host_alloc_flags": "pycuda.driver.host_alloc_flags",
        "self._done": "pycuda.driver.Event",
        "self._order": "pycuda.driver.Event",
        "self._stream": "pycuda.driver.Stream",
        "kinds": "cuda.bindings.runtime.cudaMemoryType",
        "facts": "cuda.bindings.runtime.cudaPointerAttributes",
    },
    "runtime/graph.py": {"cudart": "cuda.bindings.runtime", "self._cudart": "cuda.bindings.runtime"},
}
# Read from pycuda 2026.1: src/wrapper/wrap_cudadrv.cpp, and pycuda/driver.py for what it adds. No test of ours can run
# that code: this only says that the names stood there.
PYCUDA = {
    "": "Context Device DeviceAllocation Error Event LogicError MemoryError PagelockedHostAllocation Stream "
    "device_attribute event_flags get_driver_version host_alloc_flags init mem_alloc mem_get_address_range "
    "mem_get_info memcpy_dtoh_async memcpy_htod_async pagelocked_empty",
    "Context": "pop push synchronize",
    "Device": "compute_capability count get_attribute name retain_primary_context total_memory",
    "DeviceAllocation": "free",
    "PagelockedHostAllocation": "free get_device_pointer",
    "Event": "record synchronize",
    "Stream": "handle synchronize wait_for_event",
    "device_attribute": "CAN_MAP_HOST_MEMORY INTEGRATED",
    "event_flags": "BLOCKING_SYNC DISABLE_TIMING",
    "host_alloc_flags": "DEVICEMAP",
}


def tree(file: str) -> ast.AST:
    """A file's syntax tree, or that of one function in it: "file.py:function"."""
    path, _, function = file.partition(":")
    whole = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    if not function:
        return whole
    return next(n for n in ast.walk(whole) if isinstance(n, ast.FunctionDef) and n.name == function)


def attributes(file: str) -> Iterator[tuple[str, str]]:
    """Every expression that an attribute is taken of or set on, and the attribute's name."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr


def taken(table: dict[str, dict[str, str]]) -> set[tuple[str, str]]:
    """(class or module, name) for all that is taken of the table's expressions, trt.Class.MEMBER included."""
    found = set()
    for file, kinds in table.items():
        for expression, name in attributes(file):
            # cuda.Device(index) is a Device.
            owner, _, last = re.sub(r"\(.*\)$", "", expression).rpartition(".")
            if expression in kinds:
                found.add((kinds[expression], name))
            elif owner in kinds and last[:1].isupper():
                found.add((last if kinds[owner] == "module" else f"{kinds[owner]}.{last}", name))
    return {(kind, name) for kind, name in found if not name.startswith("__")}


@cache
def stubs() -> dict[str, set[str]]:
    """Members of every class of tensorrt-stubs, bases' included; "module" for the module's own names."""
    try:
        files = distribution("tensorrt-stubs").files or []
    except PackageNotFoundError:
        pytest.skip("no tensorrt-stubs; pip install --no-deps 'tensorrt-stubs==10.13.*'")
    path = next(file for file in files if file.name == "tensorrt.pyi").locate()
    text = Path(str(path)).read_text(encoding="utf-8")
    # What they say of arguments is not always Python: some without a default follow some with one.
    module = ast.parse(re.sub(r"^( *def \w+)\(.*\)( ->.*)?:", r"\1():", text, flags=re.MULTILINE))
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    members: dict[str, set[str]] = {"module": set(classes)}
    for node in module.body:
        members["module"] |= set(_defined(node))
    for name in classes:
        members[name] = set(_members(name, classes))
    return members


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.AnnAssign):
        yield ast.unparse(node.target)
    elif isinstance(node, ast.Assign):
        yield from map(ast.unparse, node.targets)


def _members(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    for node in classes[name].body:
        yield from _defined(node)
    for base in classes[name].bases:
        if ast.unparse(base) in classes:
            yield from _members(ast.unparse(base), classes)


DUMP = """
import json, {0} as trt
kinds = {{name: dir(kind) for name, kind in vars(trt).items() if isinstance(kind, type)}}
print(json.dumps(kinds | {{"module": dir(trt)}}))
"""


@cache
def rtx_members() -> dict[str, set[str]]:
    done = subprocess.run([rtx.interpreter(), "-c", DUMP.format("tensorrt_rtx")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: set(members) for name, members in json.loads(done.stdout.splitlines()[-1]).items()}


def installed(name: str) -> Any:
    """An installed module, or a skip: stubs alone make a namespace package, which has nothing."""
    try:
        module = importlib.import_module(name)
    except ImportError as exc:
        pytest.skip(f"no {name}: {exc}")
    if getattr(module, "__file__", None) is None:
        pytest.skip(f"no {name}, only its type stubs")
    return module


def missing(names: set[tuple[str, str]], members: dict[str, set[str]]) -> list[tuple[str, str]]:
    return sorted((kind, name) for kind, name in names if name not in members.get(kind, ()))


def test_the_reader_finds_names():
    found = taken(TENSORRT)
    assert {("module", "Builder"), ("BuilderFlag", "TF32"), ("IBuilderConfig", "set_timing_cache")} <= found
    assert {("ILayer", "get_input"), ("ParserError", "node_operator"), ("ICudaEngine", "num_io_tensors")} <= found
    assert len(found) > 80
    assert {kind for kind, _ in found} >= {kind for kinds in TENSORRT.values() for kind in kinds.values()}


def test_names_exist_in_the_stubs_of_10_13():
    names = taken(TENSORRT) - RTX_ONLY
    assert missing(names, stubs()) == []
    assert missing(RTX_ONLY, stubs()) == sorted(RTX_ONLY)


def test_names_exist_in_tensorrt_rtx():
    assert missing(taken(TENSORRT) | {(kind, name) for _, kind, name in BY_NAME}, rtx_members()) == []


def test_names_exist_in_the_installed_tensorrt():
    trt = installed("tensorrt")
    kinds = {name: set(dir(kind)) for name, kind in vars(trt).items() if isinstance(kind, type)}
    assert missing(taken(TENSORRT) - RTX_ONLY, kinds | {"module": set(dir(trt))}) == []


@pytest.mark.parametrize("members", [stubs, rtx_members])
def test_what_tensorrt_calls_on_our_classes_has_its_names(members):
    for base, (file, methods) in OVERRIDDEN.items():
        defined = {
            node.name
            for kind in ast.walk(tree(file))
            if isinstance(kind, ast.ClassDef) and f"trt.{base}" in map(ast.unparse, kind.bases)
            for node in kind.body
            if isinstance(node, ast.FunctionDef)
        }
        assert set(methods) <= defined
        assert missing({(base, name) for name in methods}, members()) == []


@pytest.mark.parametrize(("file", "kind", "name"), sorted(BY_NAME))
def test_what_is_asked_for_by_name(file, kind, name):
    asked = [
        node.args
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) == 3
    ]
    assert name in [ast.literal_eval(args[1]) for args in asked]
    assert name in rtx_members()[kind]


def test_no_name_of_tensorrt_hides_in_an_expression_that_the_table_lacks():
    """Names with an underscore that classes in the table have, taken of something that is not in the table."""
    members = stubs()
    known = {name for kinds in TENSORRT.values() for kind in kinds.values() for name in members[kind] if "_" in name}
    files = {file.split(":")[0] for file in TENSORRT}
    tables = {file: [k for f, k in TENSORRT.items() if f.split(":")[0] == file] for file in files}
    for file in sorted(files):
        for expression, name in attributes(file):
            if name in known and not name.startswith("_"):
                assert any(expression in kinds for kinds in tables[file]) or (file, expression) in OURS, (
                    f"{file}: {expression}.{name}: is that TensorRT's? then it belongs into TENSORRT"
                )


# Ours, with a member that is called as one of TensorRT's.
OURS = {("compile.py", "self"), ("compile.py", "options"), ("runtime/load.py", "self")}


def test_names_exist_in_cuda_bindings():
    runtime = installed("cuda.bindings.runtime")
    names = {(kind, name) for kind, name in taken(CUDA) if kind.startswith("cuda.bindings.runtime")}
    assert len(names) > 12
    for kind, name in sorted(names):
        holder = runtime
        for part in kind.removeprefix("cuda.bindings.runtime").strip(".").split("."):
            holder = getattr(holder, part) if part else holder
        assert hasattr(holder, name), f"{kind}.{name}"


def test_names_of_pycuda_are_those_of_its_source():
    listed = {(f"pycuda.driver.{kind}".rstrip("."), name) for kind, names in PYCUDA.items() for name in names.split()}
    found = {(kind, name) for kind, name in taken(CUDA) if kind.startswith("pycuda")}
    assert len(found) > 20
    assert found - listed == set()


def test_names_exist_in_the_installed_pycuda():
    driver = installed("pycuda.driver")
    for kind, names in PYCUDA.items():
        holder = getattr(driver, kind) if kind else driver
        assert [name for name in names.split() if not hasattr(holder, name)] == []
