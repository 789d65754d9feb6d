"""What only a GPU can show: `make test-gpu`, which ends with a table. Skipped, with the reason, where there is none.

Plans of the digits model in FP32, FP16 and INT8 against ONNX Runtime, the plugin against the body, graph capture,
batches, frames of many sizes, frames that lie on the GPU, and 10,000 frames without growth.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from matching import match

from edge_retina import Bundle, Detections, Detector, build
from edge_retina.boxes import iou
from edge_retina.engine import Place, Wanted, prepare
from edge_retina.errors import EdgeRetinaError
from edge_retina.plans import Plan
from edge_retina.profile import Profile
from edge_retina.runtime.choose import gpu_place, load_module, plugin_for
from edge_retina.runtime.cuda import Device, open_device
from edge_retina.runtime.trt import TrtRuntime

pytestmark = pytest.mark.gpu

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits"
CALIB = Path(__file__).resolve().parent.parent / "calib" / "digits"
PRECISIONS = ("fp32", "fp16", "int8")
FRAMES, SOAK, WARM = 100, 10_000, 1_000
TABLE: list[tuple[str, ...]] = []


@dataclass(frozen=True, eq=False)
class Machine:
    """The GPU, its TensorRT, and the plugin where it is built or can be."""

    device: Device
    trt: ModuleType
    place: Place
    plugin: Path | None


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Each TensorRT that is here."""
    os.environ["EDGE_RETINA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    try:
        device, trt = open_device(), load_module(request.param)
    except EdgeRetinaError as exc:
        pytest.skip(str(exc))
    place = gpu_place(request.param, trt, device)
    yield Machine(device, trt, place, plugin_for(place))
    os.environ.pop("EDGE_RETINA_CACHE")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The digits model in each precision."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        precision: build(
            DIGITS / "digits.onnx",
            folder / f"{precision}.edge",
            precision=precision,
            calib=CALIB if precision == "int8" else None,
        )
        for precision in PRECISIONS
    }


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray[Any, Any]]:
    """Test scenes of the digits sample."""
    return [cv2.imread(str(path)) for path in sorted((DIGITS / "test").glob("*.jpg"))[:FRAMES]]


def compiled(machine: Machine, bundle: Bundle, *, batch: int = 1, plugin: bool = True) -> Plan:
    wanted = Wanted(Profile.for_frames(None, batch), plugin=machine.plugin if plugin else None)
    return prepare(bundle, machine.place, wanted)


def opened(machine: Machine, bundle: Bundle, *, batch: int = 1, plugin: bool = True, parallel: int = 1) -> Detector:
    plan = compiled(machine, bundle, batch=batch, plugin=plugin)
    library = machine.plugin if plugin else None
    runtime = TrtRuntime(
        machine.trt, plan.data, machine.device, name=machine.place.target, parallel=parallel, plugin_library=library
    )
    return Detector(bundle, runtime)


def rows(found: Detections) -> tuple[Any, Any, Any]:
    return found.xyxy, found.scores, found.labels


def found_again(found: list[Detections], wanted: list[Detections], min_score: float = 0.3) -> float:
    """Of the wanted detections the share that has one of the same label with IoU over 0.8."""
    hits = total = 0
    for ours, theirs in zip(found, wanted, strict=True):
        theirs = theirs.mask(min_score=min_score)
        total += len(theirs)
        if len(ours) and len(theirs):
            same = (theirs.labels[:, None] == ours.labels[None]) & (iou(theirs.xyxy, ours.xyxy) > 0.8)
            hits += int(same.any(axis=1).sum())
    assert total
    return hits / total


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_plan_detects_what_onnx_runtime_does(machine, bundles, pictures, precision):
    bundle = bundles[precision]
    plan = compiled(machine, bundle)
    with Detector.load(bundle.path, target="ort") as reference, opened(machine, bundle) as detector:
        wanted = [reference(picture) for picture in pictures]
        found = [detector(picture) for picture in pictures]
        again, back = found_again(found, wanted), found_again(wanted, found)
        times = []
        for picture in pictures:
            start = time.perf_counter()
            detector(picture)
            times.append((time.perf_counter() - start) * 1000)
    convolutions = ", ".join(f"{kind} {share:.0%}" for kind, share in plan.about["shares"].items() if share)
    figures = (f"{len(plan.data) / 1e6:.1f} MB", f"{plan.about['seconds']} s", f"{statistics.median(times):.3f} ms")
    name = f"{machine.place.target} {precision}{' plugin' if machine.plugin else ''}"
    TABLE.append((name, *figures, convolutions, f"{again:.1%} / {back:.1%}"))
    # In INT8 a value between two codes may fall on either side, and a detection near a limit with it.
    least = {"fp32": 0.999, "fp16": 0.98, "int8": 0.95}[precision]
    assert min(again, back) >= least
    if precision == "fp32":
        for ours, theirs in zip(found, wanted, strict=True):
            assert match(rows(ours), rows(theirs), px=0.1, score=1e-3, threshold=bundle.spec.score_threshold).ok


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_plugin_gives_what_the_body_gives(machine, bundles, pictures, precision):
    if machine.plugin is None:
        pytest.skip("no plugin: edge-retina plugin status says what it wants; TensorRT-RTX takes none")
    with opened(machine, bundles[precision]) as ours, opened(machine, bundles[precision], plugin=False) as theirs:
        for picture in pictures:
            assert match(rows(ours(picture)), rows(theirs(picture)), px=0.1, score=1e-3).ok


def test_captured_graphs_give_the_same_bits(machine, bundles, pictures):
    with opened(machine, bundles["fp16"]) as detector:
        plain = detector(pictures[0])
        later = [detector(pictures[0]) for _ in range(20)]
        counts = detector.runtime.counts
    for found in later:
        np.testing.assert_array_equal(found.xyxy, plain.xyxy)
        np.testing.assert_array_equal(found.scores, plain.scores)
    if not machine.device.graphs:
        assert counts.captured_launches == 0
        pytest.skip("no cuda-bindings of this CUDA's major version: nothing was captured")
    if counts.captures == 0:
        pytest.skip("this engine cannot be captured: its NMS has a loop or sizes that the data decides")
    assert counts.captured_launches == 20


@pytest.mark.parametrize("batch", [2, 4])
def test_a_batch_is_its_frames_one_by_one(machine, bundles, pictures, batch):
    with opened(machine, bundles["fp32"], batch=batch) as detector:
        single = [detector(picture) for picture in pictures[:batch]]
        for ours, theirs in zip(detector.batch(pictures[:batch]), single, strict=True):
            assert match(rows(ours), rows(theirs), px=0.1, score=1e-3).ok


def test_frames_of_many_sizes(machine, bundles, pictures):
    with Detector.load(bundles["fp32"].path, target="ort") as reference, opened(machine, bundles["fp32"]) as detector:
        for width, height in ((200, 320), (641, 479), (1280, 720), (1920, 1080), (3840, 2160), (640, 480)):
            resized = [cv2.resize(picture, (width, height)) for picture in pictures[:4]]
            assert found_again([detector(p) for p in resized], [reference(p) for p in resized]) >= 0.98


def test_a_frame_on_the_gpu_is_not_copied(machine, bundles, pictures):
    torch = pytest.importorskip("torch", reason="frames on the GPU are made with PyTorch here")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    with opened(machine, bundles["fp32"]) as detector:
        wanted = detector(pictures[0])
        held = detector.runtime.counts.bytes_held
        found = detector(torch.from_numpy(pictures[0]).cuda())
        assert detector.runtime.counts.bytes_held == held
    np.testing.assert_array_equal(found.xyxy, wanted.xyxy)


def test_two_at_once_overlap(machine, bundles, pictures):
    from edge_retina.stream import infer
    from edge_retina.types import Frame

    frames = [Frame(picture) for picture in pictures]
    rates = {}
    for parallel in (1, 2):
        with opened(machine, bundles["fp16"], parallel=parallel) as detector:
            list(infer(detector, frames[:10]))
            start = time.perf_counter()
            assert len(list(infer(detector, frames))) == len(frames)
            rates[parallel] = len(frames) / (time.perf_counter() - start)
    TABLE.append((f"{machine.place.target} fp16, frames/s with 1 and 2 at once", f"{rates[1]:.0f}", f"{rates[2]:.0f}"))
    assert rates[2] > 0.9 * rates[1]


def test_ten_thousand_frames_do_not_grow(machine, bundles, pictures):
    resident = Path("/proc/self/statm")
    with opened(machine, bundles["fp16"], parallel=1) as detector:
        for number in range(SOAK):
            found = detector(pictures[number % len(pictures)])
            if number == WARM - 1:
                gc.collect()
                free, pages = machine.device.free_memory(), int(resident.read_text().split()[1])
                allocations = detector.runtime.counts.allocations
        assert len(found) >= 0
        gc.collect()
        grown = (int(resident.read_text().split()[1]) - pages) * os.sysconf("SC_PAGE_SIZE")
        taken = free - machine.device.free_memory()
    TABLE.append(
        (
            f"{machine.place.target}: {SOAK - WARM} frames later",
            f"{grown / 1e6:+.1f} MB host",
            f"{taken / 1e6:+.1f} MB GPU",
        )
    )
    assert detector.runtime.counts.allocations == allocations
    assert grown < 16 << 20
    assert taken < 64 << 20


def test_the_table(machine, capsys):
    """Printed last; the fixture is named so that it is skipped where all else is."""
    with capsys.disabled():
        print(
            f"\n{machine.device.name} ({machine.device.compute_capability}), CUDA {machine.device.driver}, "
            f"{machine.place.target} {machine.trt.__version__}"
        )
        print("plan | size | compiled in | median of a frame | convolutions | found again / back")
        for row in TABLE:
            print(" | ".join(row))
    assert TABLE
