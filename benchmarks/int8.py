"""INT8 on the CPU: speed of a RetinaNet-R50 against FP32, and what calibrating it costs.

    python benchmarks/int8.py speed [--rounds 9] [--size 640x640]         # ms a frame, FP32 and INT8 in turns
    python benchmarks/int8.py calibration [--counts 8,24,48]              # seconds and peak memory, against inference

The model has torchvision's shape and random weights (tests/retinanet.py): speed does not depend on them. Calibration
runs in a process of its own for every count, so that its peak memory is its own; cost per picture is the slope over the
counts, which leaves out what is done once.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from retinanet import retinanet_r50  # noqa: E402

from edge_retina.calibrate import gather, sample_size  # noqa: E402
from edge_retina.importer import import_model, load_onnx  # noqa: E402
from edge_retina.quantize import Quantizer, Recipe, observed  # noqa: E402
from edge_retina.rewrite import rewrite  # noqa: E402
from edge_retina.runtime.ort import open_session  # noqa: E402


def pictures(count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Noise of changing coarseness, which has edges and flat parts."""
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        yield cv2.GaussianBlur(noise, (0, 0), 1 + number % 4)


def float_graph(size: tuple[int, int], folder: Path) -> onnx.ModelProto:
    """The rewritten FP32 detector."""
    path = folder / "r50.onnx"
    if not path.exists():
        retinanet_r50(path, input_size=size)
    source = load_onnx(path)
    return rewrite(source.graph, import_model(source))


def speed(size: tuple[int, int], rounds: int, folder: Path) -> dict[str, object]:
    """Median ms a frame of FP32 and INT8, frames in turns, all cores."""
    graph = float_graph(size, folder)
    statistics_ = gather(graph, observed(graph), pictures(4, size))
    quantized = Quantizer(graph, statistics_, Recipe()).quantized()
    sessions = {"fp32": open_session(graph.SerializeToString()), "int8": open_session(quantized.SerializeToString())}
    frame = next(pictures(1, size))[None]
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(rounds + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"frames": frame})
            if number:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["fp32"], times["int8"], strict=True)]
    return {
        **{f"{name}_ms": round(value * 1e3, 1) for name, value in medians.items()},
        "ratio": round(medians["fp32"] / medians["int8"], 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "bytes": {"fp32": graph.ByteSize(), "int8": quantized.ByteSize()},
    }


def worker(kind: str, count: int, size: tuple[int, int], folder: Path) -> dict[str, float]:
    """One way over `count` pictures: seconds without making the model, peak memory of the process."""
    graph = float_graph(size, folder)
    start, cpu = time.perf_counter(), time.process_time()
    if kind == "calibrate":
        # As much of each picture as of 128 ones or more.
        gather(graph, observed(graph), pictures(count, size), sample=sample_size(128))
    else:
        session = open_session(graph.SerializeToString())
        for picture in pictures(count, size):
            session.run(None, {"frames": picture[None]})
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mib": round(peak / 1024)}


def calibration(size: tuple[int, int], counts: list[int], folder: Path) -> dict[str, object]:
    """Both ways for every count in turns; slopes between the least and the largest count."""
    float_graph(size, folder)
    results: dict[str, dict[int, dict[str, float]]] = {"infer": {}, "calibrate": {}}
    for count in counts:
        for kind, found in results.items():
            command = [sys.executable, __file__, "worker", kind, str(count), f"{size[1]}x{size[0]}", str(folder)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[count] = json.loads(out)
    low, high = min(counts), max(counts)
    slopes = {
        unit: {kind: (found[high][unit] - found[low][unit]) / (high - low) for kind, found in results.items()}
        for unit in ("seconds", "cpu_seconds")
    }
    peak = max(run["peak_mib"] for run in results["calibrate"].values())
    return {
        "runs": results,
        "seconds_per_picture": {kind: round(value, 3) for kind, value in slopes["seconds"].items()},
        "ratio": round(slopes["seconds"]["calibrate"] / slopes["seconds"]["infer"], 3),
        "cpu_ratio": round(slopes["cpu_seconds"]["calibrate"] / slopes["cpu_seconds"]["infer"], 3),
        "peak_mib": peak,
        "minutes_for_1000": round(1000 * slopes["seconds"]["calibrate"] / 60, 1),
    }


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(height), int(width)


def main() -> None:
    """Measure and print one JSON object."""
    if sys.argv[1:2] == ["worker"]:
        kind, count, size, folder = sys.argv[2:6]
        print(json.dumps(worker(kind, int(count), _size(size), Path(folder))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "calibration"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--counts", default="8,24,48")
    parser.add_argument("--size", type=_size, default=(640, 640), metavar="WIDTHxHEIGHT")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "speed":
            result = speed(options.size, options.rounds, Path(folder))
        else:
            result = calibration(options.size, [int(n) for n in options.counts.split(",")], Path(folder))
    machine = {"processor": _processor(), "onnxruntime": ort.__version__, "python": platform.python_version()}
    print(json.dumps({**result, **machine}, indent=1))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
