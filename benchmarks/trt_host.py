"""What a frame costs the host on the TensorRT path, kernels and copies being instant: NumPy in, Detections out.

    python benchmarks/trt_host.py [--frames 100000] [--size 720 1280]

No GPU is needed and none is used: driver and TensorRT are the fakes of tests/fakes, whose calls here do nothing and
return. Two things that are not our cost are measured in the same run and subtracted from each round's median: the copy
of the frame into page-locked memory (any runtime must make it), and the fakes' own functions, called as often as a
frame calls them. What the real driver's calls cost is not in the figure; it says what we add.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fakes import fake_cuda, fake_engine, fake_tensorrt  # noqa: E402
from models import tiny_model  # noqa: E402

from edge_retina import Detector, build  # noqa: E402
from edge_retina.lowering import lower_bundle  # noqa: E402
from edge_retina.runtime.cuda import open_device  # noqa: E402
from edge_retina.runtime.trt import TrtRuntime  # noqa: E402

ROUND = 1000  # frames between two looks at the clock of the other things
TARGETS_US = {True: 60.0, False: 120.0}


class Cost(NamedTuple):
    """Microseconds of a frame, medians over rounds; GPU blocks and bytes of RSS that came after warming up."""

    frames: int
    whole: float
    memcpy: float
    fakes: float
    allocations: int
    growth: int

    @property
    def host(self) -> float:
        """What is ours."""
        return self.whole - self.memcpy - self.fakes


def measure(folder: Path, *, graphs: bool, frames: int, size: tuple[int, int]) -> Cost:
    """The cost of frames of (H, W), with CUDA graphs or piece by piece."""
    tiny_model(folder / "m.onnx")
    bundle = build(folder / "m.onnx", folder / "m.edge")
    shape = (1, *size, 3)
    plan = fake_engine.make_plan(lower_bundle(bundle, "tensorrt", plugin=False), profile=(shape, shape, shape))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with fake_cuda.installed(bindings=graphs) as gpu:
        runtime = TrtRuntime(fake_tensorrt.module(), plan, open_device(), name="tensorrt")
        with Detector(bundle, runtime) as detector:
            found = [len(detector(image)) for _ in range(3)]  # plain, captured, launched
            assert found[0] > 0
            gpu.instant = True
            once = _fake_calls(runtime, graphs)
            staging = np.empty(shape, np.uint8)
            whole, memcpy, fakes = [], [], []
            allocations = rss = 0
            for number in range(-(-frames // ROUND) + 1):
                if number == 1:  # the first round warms up
                    gc.collect()
                    allocations, rss = gpu.allocations, resident()
                whole.append(_median(lambda: detector(image)))
                memcpy.append(_median(lambda: np.copyto(staging, image[None]), 100))
                fakes.append(_median(once, 100))
            gc.collect()
            del once  # it holds the stream
            grown = resident() - rss
            assert len(detector(image)) == found[0]
            gpu.instant = False
            medians = [statistics.median(times[1:]) for times in (whole, memcpy, fakes)]
            return Cost((len(whole) - 1) * ROUND, *medians, gpu.allocations - allocations, grown)


def _fake_calls(runtime: TrtRuntime, graphs: bool) -> Callable[[], None]:
    """The fakes' functions that one frame calls, and nothing else."""
    worker, cuda, cudart = runtime._pool.workers[0], runtime.device.cuda, runtime.device.cudart
    context, stream, execution = runtime.device.current(), worker.stream._stream, worker._context
    handle, source, answer = stream.handle, worker._source, worker._results.array

    def launched() -> None:
        with context:
            cudart.cudaGraphLaunch(None, handle)
            stream.synchronize()

    def plain() -> None:
        with context:
            cuda.memcpy_htod_async(0, source, stream)
            execution.execute_async_v3(handle)
            cuda.memcpy_dtoh_async(answer, 0, stream)
            stream.synchronize()

    return launched if graphs else plain


def _median(call: Callable[[], object], times: int = ROUND) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter_ns()
        call()
        spent.append(time.perf_counter_ns() - start)
    return statistics.median(spent) / 1000


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    """Print the table; exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("H", "W"))
    options = parser.parse_args()
    failed = False
    print("launch   frames  whole us  memcpy us  fakes us  host us  wanted us  GPU allocations  RSS growth KiB")
    for graphs, wanted in TARGETS_US.items():
        with tempfile.TemporaryDirectory() as name:
            cost = measure(Path(name), graphs=graphs, frames=options.frames, size=tuple(options.size))
        print(
            f"{'graph' if graphs else 'plain'} {cost.frames:9} {cost.whole:9.1f} {cost.memcpy:10.1f} {cost.fakes:9.1f} "
            f"{cost.host:8.1f} {wanted:10.0f} {cost.allocations:16} {cost.growth >> 10:15}"
        )
        failed |= cost.host > wanted or cost.allocations > 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
