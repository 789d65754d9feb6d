r"""What INT8 costs by the usual tools and by edge-retina: AP, share of the work in INT8, time, memory; one table.

    python benchmarks/quantization.py                                       # the digits model
    python benchmarks/quantization.py --model samples/crowns/crowns.onnx --calib samples/crowns/calib \
        --test samples/crowns/test                                          # the tree crowns
    python benchmarks/quantization.py --modelopt-python VENV/bin/python     # with nvidia-modelopt, in its own venv

Every tool gets the same trunk (what lies between the preprocessed picture and the heads) and the same pictures,
already preprocessed; edge-retina starts from the pictures themselves. What a tool returns is put back between the same
frame input and the same decoder and run by ONNX Runtime, so that nothing but the quantization differs. Each runs in a
process of its own: seconds and peak memory are those of the whole process, imports included.

Which nodes to leave in float is for the user of those tools to find: some sets are tried, calibrated on 32 pictures,
on the first --select test pictures, and the best one is kept. So they are chosen by what they are then measured with;
edge-retina never sees the test set. Seconds and peak memory are those of the final run alone; "with search" adds the
trials, calibrations and evaluations together. edge-retina's own search is part of its run, and so is the proof, the
measuring of FP32 and INT8 on calibration pictures; "calibration and quantization
alone" is a run of no more than the tools do, without search, proof, report and bundle.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from trunk import WAYS, exclusions, extract_trunk, int8_share, preprocessor, whole_detector

from edge_retina import Detector, build
from edge_retina.bundle import Bundle, read_bundle
from edge_retina.evaluate import average_precision, read_coco
from edge_retina.images import IMAGE_SUFFIXES, read_image
from edge_retina.rewrite.macs import conv_macs
from edge_retina.runtime import cores
from edge_retina.runtime.ort import OrtRuntime, open_session
from edge_retina.types import U8

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "samples" / "digits"
WORKER, ALONE = (Path(__file__).with_name(f"{name}_worker.py") for name in ("quantization", "alone"))
METHODS = {
    "fp32": "FP32",
    "ort-minmax": "quantize_static, MinMax",
    "ort-entropy": "quantize_static, Entropy",
    "ort-percentile": "quantize_static, Percentile",
    "modelopt-max": "modelopt, max",
    "modelopt-entropy": "modelopt, entropy",
    "edge-retina": "edge-retina build --int8",
    "edge-retina-alone": "edge-retina, calibration and quantization alone, all in INT8",
    "ours-mse": "edge-retina alone, MSE, nodes left in float chosen as the tools' are",
    "ours-max": "edge-retina alone, max, nodes left in float chosen as the tools' are",
}
# Calibration pictures while exclusions are tried.
TRIAL_PICTURES = 32
PACKAGES = ("edge-retina", "faster-coco-eval", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "opencv-python")
# Runs a command; its stderr is ours. Alone in a small process, so that the child's peak memory is not the parent's.
MEASURE = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
seconds, used = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
print(json.dumps({"code": code, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mib": round(peak)}))
"""


@dataclass(frozen=True, eq=False)
class Task:
    """What all methods share.

    bundle: the FP32 detector; trunk: the ONNX that tools quantize; truth: COCO annotations of the pictures in `test`;
    calib: the calibration pictures, inputs: the same preprocessed, one .npy each; work: a folder for results;
    macs: multiply-accumulates of all convolutions.
    """

    model: Path
    bundle: Bundle
    trunk: Path
    truth: dict[str, Any]
    test: Path
    calib: Path
    inputs: Path
    work: Path
    modelopt_python: str | None
    select: int
    macs: int


def accuracy(task: Task, model: bytes, limit: int | None = None) -> dict[str, float]:
    """COCO metrics of a whole detector on the first `limit` test pictures."""
    images = task.truth["images"][:limit]
    chosen = {image["id"] for image in images}
    annotations = [row for row in task.truth["annotations"] if row["image_id"] in chosen]
    categories = tuple(sorted(category["id"] for category in task.truth["categories"]))
    results = []
    with Detector(task.bundle, OrtRuntime(model)) as detector:
        for image in images:
            picture = read_image(task.test / image["file_name"])
            results += detector(picture).to_coco(image["id"], categories)
    truth = {**task.truth, "images": images, "annotations": annotations}
    return average_precision(truth, results)


def measured(command: Sequence[str | Path]) -> dict[str, Any]:
    """Run a command; its seconds, cpu_seconds and peak_mib. Raises RuntimeError with what it said last if it fails."""
    words = [sys.executable, "-c", MEASURE, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    report: dict[str, Any] = json.loads(done.stdout)
    code = report.pop("code")
    if code:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"exit code {code}: {said[-1][:300] if said else 'killed, out of memory?'}")
    return report


def quantize(task: Task, method: str, way: str, **more: Any) -> tuple[bytes, dict[str, Any]]:
    """One quantization in a process of its own: the whole detector, and what it cost."""
    tool, _, calibration = method.partition("-")
    out = task.work / f"{method}.onnx"
    first, last = WAYS[way]
    if tool == "ours":
        job = {"model": task.model, "inputs": task.calib, "method": calibration, "first": first, "last": last}
        costs = measured([sys.executable, ALONE, json.dumps({**job, "out": out, **more}, default=str)])
        return out.read_bytes(), costs
    python = sys.executable if tool == "ort" else task.modelopt_python
    if python is None:
        raise RuntimeError("needs --modelopt-python")
    exclude = exclusions(onnx.load(task.trunk), first, last)
    job = {"tool": tool, "method": calibration, "trunk": task.trunk, "inputs": task.inputs, "exclude": exclude}
    if "pictures" in more:
        job["cache"] = task.work / f"{method}.ranges"
    costs = measured([python, WORKER, json.dumps({**job, "out": out, **more}, default=str)])
    return whole_detector(onnx.load(out), task.bundle.spec).SerializeToString(), costs


def run_tool(task: Task, method: str) -> dict[str, Any]:
    """Row of a tool: with each exclusion on fewer pictures, then the best one in full."""
    tried, start = {}, time.monotonic()
    for way in WAYS:
        model, _ = quantize(task, method, way, pictures=TRIAL_PICTURES)
        tried[way] = round(accuracy(task, model, task.select)["AP"], 4)
        print(f"  {method}, left in float: {way}: AP {tried[way]:.4f}", file=sys.stderr)
    searching = time.monotonic() - start
    best = max(tried, key=tried.__getitem__)
    model, costs = quantize(task, method, best)
    costs["with_search"] = round(searching + costs["seconds"], 1)
    found = {**accuracy(task, model), "int8_share": int8_share(onnx.load_from_string(model), task.macs)}
    return {**found, **costs, "excluded": best, "tried": tried}


def run_fp32(task: Task, _: str) -> dict[str, Any]:
    """Row of the model as it is."""
    return {**accuracy(task, task.bundle.model()), "int8_share": 0.0}


def run_ours(task: Task, method: str) -> dict[str, Any]:
    """Row of edge-retina, through its command."""
    out = task.work / f"{method}.edge"
    build_command = ["build", task.model, "--int8", "--calib", task.calib, "-o", out]
    costs = measured([sys.executable, "-m", "edge_retina", *build_command])
    model = read_bundle(out).model()
    share = int8_share(onnx.load_from_string(model), task.macs)
    return {**accuracy(task, model), "int8_share": share, **costs, "with_search": costs["seconds"]}


def run_alone(task: Task, method: str) -> dict[str, Any]:
    """Row of what in edge-retina does the same as a tool with given exclusions."""
    out = task.work / f"{method}.onnx"
    job = {"model": task.model, "inputs": task.calib, "out": out}
    costs = measured([sys.executable, ALONE, json.dumps(job, default=str)])
    model = out.read_bytes()
    return {**accuracy(task, model), "int8_share": int8_share(onnx.load_from_string(model), task.macs), **costs}


def run(task: Task, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A row per method; one that fails says why in `failed`."""
    ways: dict[str, Callable[[Task, str], dict[str, Any]]] = {
        "fp32": run_fp32,
        "edge-retina": run_ours,
        "edge-retina-alone": run_alone,
    }
    rows = []
    for method in methods:
        start = time.monotonic()
        try:
            row = ways.get(method, run_tool)(task, method)
        except (RuntimeError, subprocess.SubprocessError, OSError) as exc:
            row = {"failed": str(exc)}
        rows.append({"method": method, **{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}})
        print(f"{method}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a markdown table; a difference needs the FP32 row."""
    head = ["method", "AP", "against FP32", "AP50", "AP75", "INT8 share"]
    head += ["seconds", "CPU seconds", "with search", "peak MiB", "left in float"]
    lines = [head, ["---"] * len(head)]
    whole = next((row["AP"] for row in rows if row["method"] == "fp32" and "AP" in row), None)
    for row in rows:
        name = METHODS[row["method"]]
        if "failed" in row:
            lines.append([name, f"failed: {row['failed']}", *[""] * (len(head) - 2)])
            continue
        gap = "" if whole is None or row["method"] == "fp32" else f"{row['AP'] - whole:+.4f}"
        metrics = [f"{row['AP']:.4f}", gap, f"{row['AP50']:.4f}", f"{row['AP75']:.4f}", f"{row['int8_share']:.1%}"]
        costs = [str(row.get(name, "")) for name in ("seconds", "cpu_seconds", "with_search", "peak_mib")]
        lines.append([name, *metrics, *costs, row.get("excluded", "")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(modelopt_python: str | None) -> dict[str, Any]:
    """Date, processor and versions."""
    facts = Path("/proc/cpuinfo").read_text()
    name = next((row.partition(": ")[2] for row in facts.splitlines() if row.startswith("model name")), "unknown")
    found = {"date": time.strftime("%Y-%m-%d"), "cpu": name, "avx512_vnni": "avx512_vnni" in facts, "cores": cores()}
    found |= {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    if modelopt_python:
        asked = "from importlib.metadata import version as v; print(v('nvidia-modelopt'), v('onnxruntime'))"
        said = subprocess.run([modelopt_python, "-c", asked], capture_output=True, text=True, check=True).stdout
        found |= dict(zip(("nvidia-modelopt", "onnxruntime of modelopt"), said.split(), strict=True))
    return found


def turned(truth: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    """Test pictures in their eight orientations, written to `out` as PNG, and their annotations."""
    out.mkdir()
    boxes: dict[int, list[dict[str, Any]]] = {}
    for row in truth["annotations"]:
        boxes.setdefault(row["image_id"], []).append(row)
    images, annotations = [], []
    for image in truth["images"]:
        picture = read_image(folder / image["file_name"])
        for way in range(8):
            number, name = len(images) + 1, f"{Path(image['file_name']).stem}_{way}.png"
            seen = _turn(picture, way)
            cv2.imwrite(str(out / name), seen)
            images.append({"id": number, "file_name": name, "height": seen.shape[0], "width": seen.shape[1]})
            for row in boxes.get(image["id"], []):
                x, y, w, h = row["bbox"]
                corners = _turn_points(np.array([[x, y], [x + w, y + h]]), picture.shape, way)
                (x, y), (right, low) = corners.min(0).tolist(), corners.max(0).tolist()
                annotations.append(
                    {**row, "id": len(annotations) + 1, "image_id": number, "bbox": [x, y, right - x, low - y]}
                )
    return {**truth, "images": images, "annotations": annotations}


def _turn(picture: U8, way: int) -> U8:
    """A picture (H, W, 3), mirrored for odd ways, then turned by 90 degrees anticlockwise way // 2 times."""
    return np.ascontiguousarray(np.rot90(picture[:, ::-1] if way % 2 else picture, way // 2))


def _turn_points(points: npt.NDArray[np.float64], shape: tuple[int, ...], way: int) -> npt.NDArray[np.float64]:
    """Points (N, 2) x, y of a picture of `shape`, where `_turn` puts them."""
    height, width = shape[:2]
    x, y = points.T
    x = width - x if way % 2 else x
    for _ in range(way // 2):
        x, y, height, width = y, width - x, width, height
    return np.stack([x, y], 1)


def prepare(given: argparse.Namespace, work: Path) -> Task:
    """Build the FP32 detector, cut the trunk, preprocess the calibration pictures."""
    trunk, spec = extract_trunk(given.model)
    onnx.save(trunk, work / "trunk.onnx")
    (work / "inputs").mkdir()
    session = open_session(preprocessor(trunk, spec).SerializeToString())
    files = sorted(path for path in given.calib.iterdir() if path.suffix in IMAGE_SUFFIXES)
    for i, path in enumerate(files):
        np.save(work / "inputs" / f"{i:05d}.npy", session.run(None, {"frames": read_image(path)[None]})[0])
    truth = read_coco(given.test / "annotations.json")
    truth["images"] = truth["images"][: given.limit]
    if given.turned:
        truth = turned(truth, given.test, work / "test")
        given.test = work / "test"
    bundle = build(given.model, work / "fp32.edge")
    places = (given.test, given.calib, work / "inputs", work, given.modelopt_python)
    macs = sum(conv_macs(onnx.load_from_string(bundle.model())).values())
    return Task(given.model, bundle, work / "trunk.onnx", truth, *places, given.select, macs)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DIGITS / "digits.onnx")
    parser.add_argument("--calib", type=Path, default=ROOT / "calib" / "digits", help="folder of pictures")
    parser.add_argument("--test", type=Path, default=DIGITS / "test", help="folder of pictures with annotations.json")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[*METHODS], metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument("--modelopt-python", help="python of an environment with nvidia-modelopt and onnxruntime")
    parser.add_argument("--limit", type=int, help="test pictures, all by default")
    parser.add_argument("--turned", action="store_true", help="test pictures in their eight orientations")
    parser.add_argument("--select", type=int, default=100, help="test pictures to choose exclusions on")
    parser.add_argument("--json", type=Path, help="where to keep the rows, beside those of other models")
    given = parser.parse_args()
    given.model, given.calib, given.test = (path.resolve() for path in (given.model, given.calib, given.test))
    return given


def keep(path: Path, task: Task, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the rows; those of another model, or of a method that was not run, stay."""
    runs = json.loads(path.read_text()) if path.is_file() else {}
    old = {row["method"]: row for row in runs.get(task.model.stem, {}).get("rows", [])}
    new = old | {row["method"]: row for row in rows}
    counts = {"test_pictures": len(task.truth["images"]), "calibration_pictures": len([*task.inputs.iterdir()])}
    ordered = [new[method] for method in METHODS if method in new]
    runs[task.model.stem] = {**facts, **counts, "select": task.select, "rows": ordered}
    path.write_text(json.dumps(runs, indent=1) + "\n")


def main() -> None:
    """Measure, keep, print the table."""
    given = arguments()
    facts = machine(given.modelopt_python)
    with tempfile.TemporaryDirectory() as folder:
        task = prepare(given, Path(folder))
        rows = run(task, given.methods)
        if given.json:
            keep(given.json, task, facts, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
