"""NumPy, ONNX and ONNX Runtime: each imported, made to work, and held against each other."""

from __future__ import annotations

import os
import re

from edge_retina.doctor.explain import remedy
from edge_retina.doctor.machine import Finding, Machine, Probe, Status
from edge_retina.doctor.versions import OPENCV, ORT, at_least, installed

__all__ = ["check_duplicates", "check_numpy", "check_onnx", "check_onnxruntime", "check_pairs", "failed", "shadowed"]

_GROUP = "Packages"
_NUMPY = "import numpy\nassert (numpy.ones((2, 2)) @ numpy.ones((2, 2)))[0, 0] == 2\n"
_NUMPY += "facts.update(version=numpy.__version__, file=numpy.__file__)"
_ONNX = "import onnx\nimport onnx.helper, onnx.checker\n"
_ONNX += "facts.update(version=onnx.__version__, file=onnx.__file__, ir=int(onnx.IR_VERSION), "
_ONNX += "opset=onnx.defs.onnx_opset_version())"
_SURGEON = (
    "import onnx_graphsurgeon\nfacts.update(version=onnx_graphsurgeon.__version__, file=onnx_graphsurgeon.__file__)"
)
# y = Relu(x) of four floats, IR version 8, opset 13.
_RELU = (
    "08083a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020804620f0a0179120a0a08080112040a0208044204"
    "0a00100d"
)
_ORT = """
import onnxruntime, numpy
session = onnxruntime.InferenceSession(bytes.fromhex(argument), providers=["CPUExecutionProvider"])
result = session.run(None, {"x": numpy.array([-1, 0, 1, 2], numpy.float32)})[0].tolist()
assert result == [0, 0, 1, 2], result
facts.update(version=onnxruntime.__version__, file=onnxruntime.__file__)
facts.update(providers=onnxruntime.get_available_providers())
"""
_PAIR = """
import onnx, onnxruntime
from onnx import helper
value = helper.make_tensor_value_info("x", 1, [1]), helper.make_tensor_value_info("y", 1, [1])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value[0]], [value[1]])
model = helper.make_model(graph, ir_version=onnx.IR_VERSION)
facts.update(ir=int(onnx.IR_VERSION), why="")
try:
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
except Exception as exc:
    facts.update(why=str(exc).split("::")[-1].strip())
"""
# (package, before this version, with this package, from this version on, why, what to do).
_BAD_PAIRS = (
    ("onnxruntime", "1.19", "numpy", "2", "is built for NumPy 1", "pip install -U onnxruntime"),
    ("onnxruntime-gpu", "1.19", "numpy", "2", "is built for NumPy 1", "pip install 'numpy<2'"),
    *((name, "4.10.0.84", "numpy", "2", "is built for NumPy 1", f"pip install -U {name}") for name in OPENCV),
    ("pycuda", "2024.1.1", "numpy", "2", "is built for NumPy 1", "pip install -U pycuda"),
    ("onnx-graphsurgeon", "0.5.9", "onnx", "1.20", "wants what onnx 1.20 removed", "pip install -U onnx-graphsurgeon"),
    ("ml-dtypes", "0.5", "onnx", "1.19", "lacks types that onnx 1.19 wants", "pip install -U 'ml_dtypes>=0.5'"),
)


def check_numpy(machine: Machine) -> list[Finding]:
    """Imported, multiplied, and its version against its metadata: two that are mixed crash later."""
    probe = machine.probe("numpy", _NUMPY)
    if not probe.ok:
        return [failed(_GROUP, "numpy", probe, "numpy")]
    version, recorded = probe.facts["version"], installed(("numpy",)).get("numpy")
    if recorded and recorded != version:
        found = f"{version} is imported, {recorded} is what pip installed: {probe.facts['file']}"
        return [
            Finding(_GROUP, "numpy", "fail", found, "pip uninstall -y numpy, twice, then: pip install 'numpy>=1.26'")
        ]
    if not at_least(version, "1.26"):
        return [Finding(_GROUP, "numpy", "fail", f"{version}, wanted 1.26 or later", "pip install 'numpy>=1.26'")]
    return [shadowed(probe, "numpy") or Finding(_GROUP, "numpy", "ok", version)]


def check_onnx(machine: Machine) -> list[Finding]:
    """What builds bundles: onnx and onnx-graphsurgeon. A machine that only runs them needs neither."""
    findings = []
    for name, module, code in (("onnx", "onnx", _ONNX), ("onnx-graphsurgeon", "onnx_graphsurgeon", _SURGEON)):
        probe = machine.probe(module, code)
        if not probe.ok:
            without: Status = "warn" if probe.missing else "fail"
            missing = "not installed: build needs it, run does not"
            findings.append(failed(_GROUP, name, probe, name, missing=missing, status=without))
            continue
        facts = probe.facts
        more = f", IR {facts['ir']}, opset {facts['opset']}" if "ir" in facts else ""
        findings.append(shadowed(probe, name) or Finding(_GROUP, name, "ok", f"{facts['version']}{more}"))
    return findings


def check_onnxruntime(machine: Machine) -> list[Finding]:
    """Imported, and a graph run: a build for another processor crashes only then."""
    probe = machine.probe("onnxruntime", _ORT, _RELU)
    if not probe.ok:
        return [failed(_GROUP, "onnxruntime", probe, "onnxruntime", missing="not installed: the CPU runtime")]
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in probe.facts["providers"])
    found = f"{probe.facts['version']} ({providers}), ran a graph"
    return [shadowed(probe, "onnxruntime") or Finding(_GROUP, "onnxruntime", "ok", found)]


def check_pairs(machine: Machine) -> list[Finding]:
    """Versions known not to go together, and whether ONNX Runtime reads what this onnx writes."""
    findings = []
    for name, before, other, since, why, what in _BAD_PAIRS:
        there = installed((name, other))
        if len(there) == 2 and not at_least(there[name], before) and at_least(there[other], since):
            found = f"{name} {there[name]} with {other} {there[other]}: it {why}"
            findings.append(Finding(_GROUP, "versions together", "fail", found, what))
    probe = machine.probe("onnxruntime", _PAIR)
    if probe.ok and probe.facts["why"]:
        found = f"ONNX Runtime refuses the newest files of this onnx (IR {probe.facts['ir']}): {probe.facts['why']}"
        remedy_ = "pip install -U onnxruntime; bundles are written in an older IR and run"
        findings.append(Finding(_GROUP, "versions together", "warn", found, remedy_))
    return findings or [Finding(_GROUP, "versions together", "ok", "no pair that is known not to work")]


def check_duplicates(_: Machine) -> list[Finding]:
    """Packages that write over each other's files: the one installed last wins, and uninstalling breaks both."""
    findings = []
    for title, names in (("two ONNX Runtimes", ORT), ("two OpenCVs", OPENCV)):
        there = installed(names)
        if len(there) > 1:
            listed = " and ".join(f"{name} {version}" for name, version in there.items())
            # The one with more in it: contrib or a GPU, and windows.
            keep = [name for name in there if not name.endswith("headless")][-1:] or list(there)[-1:]
            what = f"pip uninstall -y {' '.join(there)} && pip install {keep[0]}"
            findings.append(Finding(_GROUP, title, "warn", f"{listed}, over each other", what))
    return findings


def failed(
    group: str, name: str, probe: Probe, package: str, *, missing: str = "not installed", status: Status = "fail"
) -> Finding:
    """The finding of an import that failed. missing: how to say that there is no such package."""
    return Finding(group, name, status, missing if probe.missing else probe.error, remedy(probe, package))


def shadowed(probe: Probe, name: str) -> Finding | None:
    """A finding where the package is a file or folder of that name in the working folder, not the installed one."""
    file = probe.facts["file"] or ""
    if file.startswith(os.getcwd() + os.sep) and not re.search("(site|dist)-packages", file):
        return Finding(_GROUP, name, "warn", f"imported from {file}", f"rename {file}, or start from another folder")
    return None
