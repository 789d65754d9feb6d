"""The TensorRT runtime, on a GPU of Python that raises at misuse: nothing here says that it works on a real one."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import fake_cuda, fake_engine, fake_tensorrt
from fakes.fake_engine import make_plan
from models import rewritten, tiny_model

from edge_retina import Detector, build
from edge_retina.errors import PlanRefused, RuntimeFailure, UsageError
from edge_retina.lowering import lower, lower_bundle
from edge_retina.runtime.cuda import open_device
from edge_retina.runtime.ort import OrtRuntime
from edge_retina.runtime.trt import Counts, TrtRuntime

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ((1, 64, 64, 3), (1, 64, 64, 3), (4, 256, 256, 3))


@pytest.fixture(scope="module")
def model():
    graph, spec = rewritten(tiny_model()[0])
    return lower(graph.SerializeToString(), "tensorrt", spec, plugin=False)


@pytest.fixture(scope="module")
def exact(model):
    """What ONNX Runtime gives."""
    return OrtRuntime(model).run


@pytest.fixture
def gpu():
    with fake_cuda.installed() as gpu:
        yield gpu
        gc.collect()


def start(plan, **options):
    return TrtRuntime(fake_tensorrt.module(), plan, open_device(), name="tensorrt", **options)


@pytest.fixture
def runtime(gpu, model):
    with start(make_plan(model)) as runtime:
        yield runtime


def pictures(batch=1, height=64, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def assert_same(outputs, expected):
    for name, one, other in zip(outputs._fields, outputs, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=name)


class OnGpu:
    """Frames in the memory of the fake GPU, as CuPy shows them."""

    def __init__(self, gpu, frames, **changes):
        self.gpu, self.block = gpu, gpu.allocate(frames.nbytes, "device")
        self.block.data[:] = frames.reshape(-1)
        facts = {"shape": frames.shape, "typestr": "|u1", "data": (self.block.start, False), "version": 3}
        self.__cuda_array_interface__ = {**facts, "strides": None, "stream": None, **changes}
        gpu.allocations -= 1  # not the runtime's

    def free(self):
        self.block.live = False


class ByDlpack:
    """The same as PyTorch shows them; strides in elements."""

    def __init__(self, frames, *, device=(2, 0), strides=None, code=1, bits=8, offset=0):
        self.frames, self.device, self.streams = frames, device, []
        shape = frames.__cuda_array_interface__["shape"]
        sizes = ctypes.c_int64 * len(shape)
        self.shape, self.strides = sizes(*shape), None if strides is None else sizes(*strides)
        tensor = fake_dlpack_tensor()
        tensor.data, tensor.byte_offset = frames.block.start - offset, offset
        tensor.device_type, tensor.device_id = device
        tensor.ndim, tensor.code, tensor.bits, tensor.lanes = len(shape), code, bits, 1
        tensor.shape = self.shape
        if self.strides is not None:
            tensor.strides = self.strides
        self.tensor = tensor

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(ctypes.addressof(self.tensor), b"dltensor", None)


def fake_dlpack_tensor():
    from edge_retina.runtime import device_frames

    return device_frames._DLTensor()


# What it gives.


def test_one_frame_gives_what_onnx_runtime_gives(runtime, exact):
    outputs = runtime.run(pictures())
    assert outputs.count[0] > 0
    assert_same(outputs, exact(pictures()))


@pytest.mark.parametrize("bindings", [True, False])
@pytest.mark.parametrize("integrated", [True, False])
def test_any_shape_in_any_order_gives_what_onnx_runtime_gives(model, exact, bindings, integrated):
    shapes = [
        (1, 64, 64),
        (1, 64, 64),
        (1, 64, 64),
        (4, 100, 80),
        (4, 100, 80),
        (1, 64, 64),
        (2, 256, 256),
        (1, 65, 64),
    ]
    with (
        fake_cuda.installed(bindings=bindings, integrated=integrated) as gpu,
        start(make_plan(model)) as runtime,
    ):
        for seed, shape in enumerate(shapes):
            frames = pictures(*shape, seed=seed)
            assert_same(runtime.run(frames), exact(frames))
            assert gpu.waits == seed + 1  # one wait a run


def test_what_a_run_gave_stays_when_others_follow(runtime, exact):
    first = runtime.run(pictures())
    copies = [array.copy() for array in first]
    for seed in range(1, 4):
        runtime.run(pictures(seed=seed))
    assert_same(first, copies)
    assert_same(first, exact(pictures()))


def test_frames_need_not_be_contiguous_and_stay_the_callers(runtime, exact):
    frames = pictures(1, 64, 128)[:, :, ::2]
    before = frames.copy()
    assert_same(runtime.run(frames), exact(before))
    np.testing.assert_array_equal(frames, before)
    frames[:] = 0  # may change as soon as run returns


@pytest.mark.parametrize("most", [1, 2])
def test_more_pictures_than_a_plan_takes_at_once_run_one_after_another(gpu, tmp_path, most):
    tiny_model(tmp_path / "m.onnx")
    bundle = build(tmp_path / "m.onnx")
    shapes = ((1, 64, 64, 3), (1, 64, 64, 3), (most, 256, 256, 3))
    plan = make_plan(lower_bundle(bundle, "tensorrt", plugin=False), profile=shapes)
    images = list(pictures(batch=5))
    with Detector(bundle, start(plan)) as detector:
        assert detector.runtime.batch_most == most
        together = detector.batch(images)
        alone = [detector(image) for image in images]
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)


def test_a_plan_of_one_size_runs_that_size(gpu, exact):
    graph, spec = rewritten(tiny_model()[0], frame_size=(64, 64))
    fixed = lower(graph.SerializeToString(), "tensorrt", spec, plugin=False)
    with start(make_plan(fixed, profile=((1, 64, 64, 3),) * 3)) as runtime:
        assert_same(runtime.run(pictures()), exact(pictures()))
        with pytest.raises(UsageError, match=r"from \[1, 64, 64, 3\] to \[1, 64, 64, 3\], found \[1, 64, 65, 3\]"):
            runtime.run(pictures(1, 64, 65))


def test_the_plugin_is_loaded_before_the_plan_once_and_by_name(gpu, tmp_path, exact):
    graph, spec = rewritten(tiny_model()[0])
    plan = make_plan(lower(graph.SerializeToString(), "tensorrt", spec, plugin=True))
    library = tmp_path / "plugin.so"
    library.write_bytes(b"\x7fELF")
    trt = fake_tensorrt.module()
    for _ in range(2):  # a second runtime finds it registered
        with TrtRuntime(trt, plan, open_device(), name="tensorrt", plugin_library=library) as runtime:
            assert_same(runtime.run(pictures()), exact(pictures()))
    assert trt.get_plugin_registry().loaded == [str(library)]


# Graphs, memory, counts.


def test_a_shape_runs_once_plainly_is_captured_and_then_launched(runtime):
    assert runtime.counts[:3] == (0, 0, 0)
    for _ in range(4):
        runtime.run(pictures())
    assert runtime.counts[:3] == (3, 1, 1)
    runtime.run(pictures(2, 64, 64))
    assert runtime.counts[:3] == (3, 2, 1)
    runtime.run(pictures(2, 64, 64))
    assert runtime.counts[:3] == (4, 2, 2)


def test_a_graph_is_one_call_to_the_driver(gpu, runtime):
    for _ in range(2):
        runtime.run(pictures())
    gpu.calls.clear()
    runtime.run(pictures())
    assert dict(gpu.calls) == {"Context.push": 1, "cudaGraphLaunch": 1, "Stream.synchronize": 1, "Context.pop": 1}


def test_without_bindings_every_run_is_plain(model):
    with fake_cuda.installed(bindings=False) as gpu, start(make_plan(model)) as runtime:
        for _ in range(3):
            gpu.calls.clear()
            runtime.run(pictures())
        assert runtime.counts[:3] == (0, 3, 0)
        assert gpu.calls["execute_async_v3"] == gpu.calls["memcpy_htod_async"] == gpu.calls["memcpy_dtoh_async"] == 1
        assert gpu.calls["mem_alloc"] == gpu.calls["set_tensor_address"] == gpu.calls["set_input_shape"] == 0


def test_where_memory_is_shared_nothing_is_downloaded(model):
    with fake_cuda.installed(integrated=True) as gpu, start(make_plan(model)) as runtime:
        for _ in range(3):
            runtime.run(pictures())
        assert gpu.calls["memcpy_dtoh_async"] == 0
        assert runtime.counts == (2, 1, 1, 1, 64 * 64 * 3)  # the frame alone


def test_memory_is_taken_for_the_largest_frame_that_came(gpu, runtime):
    answers = sum(-(-4 * size // 256) * 256 for size in (100 * 16, 100 * 4, 100 * 4, 4))
    assert runtime.counts == Counts(allocations=1, bytes_held=answers)
    held = []
    for shape in ((1, 64, 64), (1, 100, 100), (1, 64, 64), (1, 100, 100), (2, 100, 100)):
        runtime.run(pictures(*shape))
        held.append((runtime.counts.allocations, runtime.counts.bytes_held - answers))
    assert held == [(2, 12288), (3, 30000), (3, 30000), (3, 30000), (4, 60000)]
    assert gpu.allocations == 4


def test_a_network_that_cannot_be_captured_runs_plainly(gpu, model, exact, caplog):
    with start(make_plan(model, control_flow=True)) as runtime:
        for _ in range(4):
            assert_same(runtime.run(pictures()), exact(pictures()))
        assert runtime.counts[:3] == (0, 4, 0)
    assert caplog.text.count("no CUDA graph") == 1  # not tried at every frame
    assert gpu.calls["cudaStreamBeginCapture"] == 1


def test_where_the_end_of_capture_fails_it_runs_plainly(gpu, runtime, exact):
    gpu.end_capture_fault = True
    for _ in range(3):
        assert_same(runtime.run(pictures()), exact(pictures()))
    assert runtime.counts[:3] == (0, 3, 0)


@pytest.mark.parametrize("capturable", [True, False])
def test_rtx_is_asked_whether_it_can_be_captured(gpu, model, exact, capturable):
    gpu.capturable = capturable
    plan = make_plan(model, rtx=True, version="1.7.1", gpu="")
    with TrtRuntime(fake_tensorrt.module("1.7.1", rtx=True), plan, open_device(), name="tensorrt_rtx") as runtime:
        for _ in range(3):
            assert_same(runtime.run(pictures()), exact(pictures()))
        assert runtime.counts[:3] == ((2, 1, 1) if capturable else (0, 3, 0))
    assert gpu.calls["is_stream_capturable"] == 1
    assert gpu.calls["cudaStreamBeginCapture"] == (1 if capturable else 0)


@pytest.mark.parametrize("bindings", [True, False])
def test_instant_kernels_leave_no_allocation_and_no_growth(tmp_path, bindings):
    tiny_model(tmp_path / "m.onnx")
    bundle = build(tmp_path / "m.onnx")
    plan = make_plan(lower_bundle(bundle, "tensorrt", plugin=False))
    with fake_cuda.installed(bindings=bindings) as gpu, Detector(bundle, start(plan)) as detector:
        no_growth(gpu, detector)


def no_growth(gpu, detector):
    frame = pictures()[0]
    count = [len(detector(frame)) for _ in range(3)][-1]
    gpu.instant = True
    for _ in range(500):
        detector(frame)
    blocks, allocations = len(gpu.blocks), gpu.allocations
    gc.collect()
    objects, rss = len(gc.get_objects()), resident()
    start_ns = time.perf_counter_ns()
    for _ in range(3000):
        detections = detector(frame)
    spent_us = (time.perf_counter_ns() - start_ns) / 3000 / 1000
    gc.collect()
    assert len(detections) == count > 0
    assert (len(gpu.blocks), gpu.allocations) == (blocks, allocations)
    assert abs(len(gc.get_objects()) - objects) < 100
    assert resident() - rss < 1 << 20
    assert spent_us < 2000  # machines of tests are busy; benchmarks/trt_host.py has the figure
    gpu.instant = False


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Threads.


@pytest.mark.parametrize("parallel", [1, 3])
def test_many_threads_get_their_own_results(gpu, model, exact, parallel):
    frames = [pictures(seed=seed) for seed in range(12)]
    with start(make_plan(model), parallel=parallel) as runtime, ThreadPoolExecutor(4) as pool:
        assert runtime.parallel == parallel
        for outputs, one in zip(pool.map(runtime.run, frames), frames, strict=True):
            assert_same(outputs, exact(one))
    assert all(not stack for stack in gpu.stacks.values())


def test_two_workers_overlap(gpu, model):
    """While one run is on the GPU another is given to it: both wait at once."""
    both = threading.Barrier(2, timeout=20)
    with start(make_plan(model), parallel=2) as runtime:
        for worker in runtime._pool.workers:
            worker.stream.wait = meeting(both, worker.stream.wait)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(runtime.run, [pictures(), pictures(seed=1)]))
        for worker in runtime._pool.workers:
            del worker.stream.wait


def meeting(barrier, wait):
    def met():
        barrier.wait()
        wait()

    return met


def test_each_of_two_sizes_keeps_its_graph(gpu, model):
    """Two cameras through two workers: a free worker that knows the size is taken first."""
    small, large = pictures(), pictures(1, 128, 128)
    with start(make_plan(model), parallel=2) as runtime:
        for _ in range(10):
            runtime.run(small)
            runtime.run(large)
        assert runtime.counts[:3] == (18, 2, 2)


def test_two_runtimes_side_by_side(gpu, model, exact):
    with start(make_plan(model)) as one, start(make_plan(model)) as other:
        for seed in range(3):
            frames = pictures(seed=seed)
            assert_same(one.run(frames), exact(frames))
            assert_same(other.run(frames), exact(frames))


def test_what_was_current_before_is_current_after(gpu, runtime):
    other = object()
    stack = gpu.stacks[threading.get_ident()]
    stack.append(other)
    runtime.run(pictures())
    with pytest.raises(UsageError):
        runtime.run(pictures(5))
    assert stack == [other]
    stack.pop()


# Frames on the GPU.


@pytest.mark.parametrize("kind", ["interface", "dlpack"])
@pytest.mark.parametrize("bindings", [True, False])
def test_frames_on_the_gpu_run_where_they_lie(model, exact, kind, bindings):
    with fake_cuda.installed(bindings=bindings) as gpu, start(make_plan(model)) as runtime:
        for seed in range(3):
            frames = pictures(2, seed=seed)
            there = OnGpu(gpu, frames)
            outputs = runtime.run(there if kind == "interface" else ByDlpack(there, offset=64))
            assert_same(outputs, exact(frames))
            there.free()
        assert gpu.calls["memcpy_htod_async"] == 0
        assert runtime.counts[:4] == (0, 3, 0, 1)
        assert gpu.waits == 3


def test_one_frame_may_come_without_a_batch(gpu, runtime, exact):
    there = OnGpu(gpu, pictures()[0])
    for frames in (there, ByDlpack(there), ByDlpack(there, strides=(192, 3, 1))):
        assert_same(runtime.run(frames), exact(pictures()))
    there.free()


def test_host_and_gpu_frames_take_turns(gpu, runtime, exact):
    there = OnGpu(gpu, pictures(seed=5))
    for seed in range(3):
        for _ in range(3):
            assert_same(runtime.run(pictures(seed=seed)), exact(pictures(seed=seed)))
        assert_same(runtime.run(there), exact(pictures(seed=5)))
    assert runtime.counts[:3] == (6, 6, 3)
    there.free()


@pytest.mark.parametrize(("version", "stream", "followed"), [(3, None, None), (3, 1, 1), (3, 2, 2), (2, None, 1)])
def test_the_producers_stream_is_followed(gpu, runtime, exact, version, stream, followed):
    there = OnGpu(gpu, pictures(), version=version, stream=stream)
    expected = exact(pictures())
    if followed is not None:  # the producer's kernel has not run yet

        def late():
            there.block.data[:] = pictures().reshape(-1)

        there.block.data[:] = 0
        gpu.put(gpu.queues[followed], fake_cuda.Op("the producer's kernel", late))
    assert_same(runtime.run(there), expected)
    assert gpu.waits == 1
    there.free()


def test_dlpack_is_told_our_stream(gpu, runtime):
    there = OnGpu(gpu, pictures())
    frames = ByDlpack(there)
    runtime.run(frames)
    (handle,) = frames.streams
    assert gpu.queues[handle].flags == 1
    there.free()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"typestr": "<f4"}, "found <f4"),
        ({"version": 1}, "version 1"),
        ({"mask": object()}, "mask"),
        ({"stream": 0}, "stream 0"),
        ({"shape": (64, 64)}, r"found shape \(64, 64\)"),
        ({"shape": (1, 64, 64, 4)}, r"found shape \(1, 64, 64, 4\)"),
        ({"shape": (0, 64, 64, 3)}, r"found shape \(0, 64, 64, 3\)"),
        ({"shape": (1, 32, 64, 3), "strides": (12288, 384, 3, 1)}, "found strides"),
        ({"shape": (1, 32, 32, 3)}, r"from \[1, 64, 64, 3\]"),
        ({"data": (0x7F0000000000, False)}, "host memory"),
        ({"data": "odd"}, "multiple of 256"),
        ({"data": "other"}, "memory of GPU 1"),
    ],
)
def test_frames_on_the_gpu_that_cannot_be_taken(gpu, runtime, changes, words):
    there = OnGpu(gpu, pictures())
    if changes.get("data") == "odd":
        changes = {"data": (there.block.start + 3, False), "shape": (1, 60, 64, 3)}
    if changes.get("data") == "other":
        there.block.gpu, changes = 1, {}
    there.__cuda_array_interface__ |= changes
    with pytest.raises(UsageError, match=words):
        runtime.run(there)
    there.free()
    runtime.run(pictures())  # and goes on


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": (1, 0)}, r"found DLPack device \(1, 0\)"),
        ({"device": (2, 1)}, r"found DLPack device \(2, 1\)"),
        ({"code": 2, "bits": 32}, "type code 2 of 32 bits"),
        ({"strides": (1, 64, 4096)}, "found strides"),
    ],
)
def test_dlpack_frames_that_cannot_be_taken(gpu, runtime, changes, words):
    there = OnGpu(gpu, pictures()[0])
    with pytest.raises(UsageError, match=words):
        runtime.run(ByDlpack(there, **changes))
    there.free()


def test_what_gives_no_dlpack_says_why(gpu, runtime):
    class NeedsGradient(ByDlpack):
        def __dlpack__(self, *, stream=None):
            raise BufferError("use tensor.detach()")

    there = OnGpu(gpu, pictures())
    with pytest.raises(UsageError, match=r"tensor\.detach"):
        runtime.run(NeedsGradient(there))
    there.free()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 64, 64, 4), np.uint8),
        np.zeros((5, 64, 64, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((1, 63, 64, 3), np.uint8),
        np.zeros((1, 64, 257, 3), np.uint8),
        [[1, 2, 3]],
        None,
    ],
)
def test_frames_that_cannot_be_taken(gpu, runtime, exact, frames):
    runtime.run(pictures())
    with pytest.raises(UsageError, match=r"frames .*B, H, W, 3.*found"):
        runtime.run(frames)
    assert_same(runtime.run(pictures()), exact(pictures()))
    assert runtime.counts[:3] == (1, 1, 1)  # the graph is as good as before


# Plans.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "10.4.0"}, r"TensorRT 10\.3\.0 refuses the plan: Version tag does not match: 10\.4\.0"),
        ({"gpu": "Fake Thor"}, "Fake Thor, this is Fake Orin.*build it again"),
        ({"rtx": True}, "another product"),
        ({"host_code": True}, "host code .*allowed by name"),
    ],
)
def test_a_foreign_plan_is_refused_in_tensorrts_words(gpu, model, change, words, caplog):
    with caplog.at_level(logging.ERROR, "edge_retina.tensorrt"), pytest.raises(RuntimeFailure, match=words):
        start(make_plan(model, **change))
    assert [record.name for record in caplog.records] == ["edge_retina.tensorrt"]
    with start(make_plan(model)) as runtime:  # and a good one loads afterwards
        runtime.run(pictures())


def test_no_room_for_a_plan_says_nothing_against_the_plan(gpu, model, monkeypatch):
    trt = fake_tensorrt.module()
    told = "Requested amount of GPU memory (99 bytes) could not be allocated. There may not be enough free memory"
    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", lambda runtime, _: runtime._refuse(told))
    with pytest.raises(RuntimeFailure, match=r"out of memory while loading a plan of .* allocated") as caught:
        TrtRuntime(trt, make_plan(model), open_device(), name="tensorrt")
    assert not isinstance(caught.value, PlanRefused)  # or a good plan would leave the cache


def test_a_tensorrt_that_cannot_start_says_so(gpu, model, monkeypatch):
    trt = fake_tensorrt.module()

    def init(_self, _logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt.Runtime, "__init__", init)
    with pytest.raises(RuntimeFailure, match=r"TensorRT 10\.3\.0 cannot start: pybind11.*nvidia-smi"):
        TrtRuntime(trt, make_plan(model), open_device(), name="tensorrt")


@pytest.mark.parametrize("plan", [b"", b"nonsense"])
def test_what_is_no_plan_is_refused(gpu, plan):
    with pytest.raises(RuntimeFailure, match="Magic tag"):
        start(plan)


def test_host_code_runs_only_where_it_is_allowed(gpu, model):
    plan = make_plan(model, host_code=True)
    with start(plan, allow_host_code=True) as runtime:
        runtime.run(pictures())
    with pytest.raises(RuntimeFailure, match="host code"):
        start(plan)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda graph: setattr(graph.output[0], "name", graph.output[0].name), ""),
        (lambda graph: graph.output.pop(), "no plan of edge-retina's.*count OUTPUT INT32"),
        (lambda graph: setattr(graph.output[1].type.tensor_type, "elem_type", 6), "scores OUTPUT INT32"),
        (lambda graph: setattr(graph.output[2].type.tensor_type.shape.dim[1], "dim_value", 7), r"labels .*\[-1, 7\]"),
        (lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[3], "dim_value", 4), r"frames .*-1, 4\]"),
    ],
)
def test_inputs_and_outputs_are_checked(gpu, model, monkeypatch, edit, words):
    monkeypatch.setattr(fake_engine.ort, "InferenceSession", lambda *_, **__: None)
    proto = onnx.load_from_string(model)
    edit(proto.graph)
    if not words:
        start(make_plan(proto.SerializeToString())).close()
        return
    with pytest.raises(RuntimeFailure, match=words):
        start(make_plan(proto.SerializeToString()))


@pytest.mark.parametrize("odd", [{"location": {"count": "HOST"}}, {"format": {"count": "CHW4"}}])
def test_outputs_on_the_host_or_packed_are_refused(gpu, model, odd):
    with pytest.raises(RuntimeFailure, match="the plan wants count on the host or in a packed format"):
        start(make_plan(model, **odd))


def test_a_plugin_that_does_not_load_is_refused(gpu, model, tmp_path):
    library = tmp_path / "plugin.so"
    library.write_bytes(b"text")
    with pytest.raises(RuntimeFailure, match=r"cannot load the plugin .*plugin\.so"):
        start(make_plan(model), plugin_library=library)


def test_rtx_is_never_given_a_plugin(gpu, model, tmp_path):
    trt = fake_tensorrt.module("1.7.1", rtx=True)
    with pytest.raises(UsageError, match="no plugins"):
        TrtRuntime(trt, b"", open_device(), name="tensorrt_rtx", plugin_library=tmp_path / "plugin.so")
    assert not trt.get_plugin_registry().loaded


def test_nonsense_options_are_refused(gpu, model):
    with pytest.raises(UsageError, match="parallel wants 1 or more, found 0"):
        start(make_plan(model), parallel=0)


def test_tensorrt_talks_through_logging(gpu, caplog):
    from edge_retina.runtime.load import logger

    trt = fake_tensorrt.module()
    log = logger(trt)
    assert logger(trt) is log
    with caplog.at_level(logging.DEBUG, "edge_retina.tensorrt"):
        for severity in trt.ILogger.Severity:
            message = f"a message of {severity.name} 100%"
            log.log(severity, message)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING", "INFO", "DEBUG"]
    assert log.told() == "a message of INTERNAL_ERROR 100%; a message of ERROR 100%"
    assert log.told() == ""


def test_the_error_recorder_keeps_what_it_is_told(gpu):
    from edge_retina.runtime.load import _error_recorder

    trt = fake_tensorrt.module()
    recorder = _error_recorder(trt)
    assert (recorder.num_errors(), recorder.has_overflowed(), recorder.told()) == (0, False, "")
    for number in range(7):
        assert recorder.report_error(trt.ErrorCodeTRT.INVALID_STATE, f"error {number}")
    assert (recorder.num_errors(), recorder.has_overflowed()) == (6, True)
    assert (recorder.get_error_code(0), recorder.get_error_desc(0)) == (trt.ErrorCodeTRT.INVALID_STATE, "error 1")
    assert recorder.told() == "error 1; error 2; error 3; error 4; error 5; error 6"
    recorder.report_error(trt.ErrorCodeTRT.INVALID_STATE, "another")
    recorder.clear()
    assert recorder.told() == ""


# Faults.


def allocations_of_a_start(model, parallel):
    with fake_cuda.installed() as gpu, start(make_plan(model), parallel=parallel) as runtime:
        before = len(gpu.blocks)
        runtime.run(pictures())
        return before, len(gpu.blocks)


def test_every_allocation_may_fail_and_all_is_given_back(model, exact):
    at_start, after_a_run = allocations_of_a_start(model, 2)
    assert (at_start, after_a_run) == (4, 6)
    for number in range(1, after_a_run + 1):
        with fake_cuda.installed() as gpu:
            gpu.fail_allocation(number)
            if number <= at_start:
                with pytest.raises(RuntimeFailure, match=r"out of memory on Fake Orin while loading.*2 at once"):
                    start(make_plan(model), parallel=2)
                gc.collect()
                assert not gpu.leaks()
            else:
                with start(make_plan(model), parallel=2) as runtime:
                    with pytest.raises(RuntimeFailure, match=r"out of memory .*\[1, 64, 64, 3\]"):
                        runtime.run(pictures())
                    assert_same(runtime.run(pictures()), exact(pictures()))
            with start(make_plan(model)) as runtime:
                assert_same(runtime.run(pictures()), exact(pictures()))
            gc.collect()


@pytest.mark.parametrize("number", [1, 2])
def test_memory_that_cannot_grow_leaves_smaller_frames_running(gpu, runtime, exact, number):
    for _ in range(2):
        runtime.run(pictures())
    gpu.fail_allocation(number)
    with pytest.raises(RuntimeFailure, match="out of memory"):
        runtime.run(pictures(1, 200, 200))
    for _ in range(3):
        assert_same(runtime.run(pictures()), exact(pictures()))
    large = pictures(1, 200, 200)
    assert_same(runtime.run(large), exact(large))


def test_no_room_for_a_context_is_told_in_tensorrts_words(gpu, model):
    with pytest.raises(RuntimeFailure, match=r"no room for 17179869184 bytes.*fewer frames at once"):
        start(make_plan(model, device_memory=16 << 30))
    with start(make_plan(model)) as runtime:
        runtime.run(pictures())


@pytest.mark.parametrize("runs_before", [0, 1, 3])
def test_a_launch_that_fails_is_an_error_once(gpu, runtime, exact, runs_before):
    for _ in range(runs_before):
        runtime.run(pictures())
    gpu.launch_fault = "once"
    with pytest.raises(RuntimeFailure, match=r"CUDA failed on Fake Orin while running frames \[1, 64, 64, 3\]"):
        runtime.run(pictures())
    for _ in range(3):
        assert_same(runtime.run(pictures()), exact(pictures()))


def test_what_tensorrt_refuses_to_run_is_told_in_its_words(gpu, runtime, exact, monkeypatch):
    context = runtime._pool.workers[0]._context
    monkeypatch.setattr(context, "execute_async_v3", lambda stream: context._fail("no implementation"))
    with pytest.raises(RuntimeFailure, match=r"TensorRT failed on frames \[1, 64, 64, 3\]: no implementation"):
        runtime.run(pictures())
    monkeypatch.undo()
    other = pictures(seed=1)  # its upload must not meet that of the run that failed
    assert_same(runtime.run(other), exact(other))


@pytest.mark.parametrize(("method", "answer"), [("set_input_shape", False), ("infer_shapes", ["frames"])])
def test_shapes_that_tensorrt_does_not_take_are_told(gpu, runtime, exact, monkeypatch, method, answer):
    context = runtime._pool.workers[0]._context
    monkeypatch.setattr(context, method, lambda *_: answer)
    with pytest.raises(RuntimeFailure, match=r"TensorRT does not take frames of \[1, 64, 64, 3\]"):
        runtime.run(pictures())
    monkeypatch.undo()
    assert_same(runtime.run(pictures()), exact(pictures()))


def test_a_lost_gpu_ends_in_typed_errors_and_frees_what_is_the_hosts(model, exact):
    with fake_cuda.installed() as gpu:
        with start(make_plan(model), parallel=2) as runtime:
            for _ in range(3):
                runtime.run(pictures())
            gpu.launch_fault = "sticky"
            for _ in range(3):
                with pytest.raises(RuntimeFailure, match=r"is lost to this process .*start the process again"):
                    runtime.run(pictures())
        gc.collect()
        assert not gpu.leaks()
        with pytest.raises(RuntimeFailure, match="start the process again"):
            start(make_plan(model))
    with fake_cuda.installed(), start(make_plan(model)) as runtime:  # the process started again
        assert_same(runtime.run(pictures()), exact(pictures()))


def test_a_gpu_lost_while_a_plan_loads(gpu, model):
    device = open_device()
    gpu.lost = "an illegal memory access was encountered"
    with pytest.raises(RuntimeFailure, match="illegal memory access"):
        TrtRuntime(fake_tensorrt.module(), make_plan(model), device, name="tensorrt")
    gpu.lost = ""


# Closing.


def test_closing_twice_is_harmless_and_a_closed_one_says_so(gpu, model):
    runtime = start(make_plan(model))
    runtime.run(pictures())
    runtime.close()
    gc.collect()
    assert not gpu.leaks()
    assert runtime.counts.bytes_held == 0
    runtime.close()
    with pytest.raises(RuntimeFailure, match="this runtime is closed"):
        runtime.run(pictures())


def test_closing_waits_for_runs_under_way(gpu, model, exact):
    runtime = start(make_plan(model))
    runtime.run(pictures())
    inside, go = threading.Event(), threading.Event()
    wait = runtime._pool.workers[0].stream.wait

    def slow():
        inside.set()
        assert go.wait(20)
        wait()

    runtime._pool.workers[0].stream.wait = slow
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(runtime.run, pictures())
        assert inside.wait(20)
        late = pool.submit(runtime.run, pictures())
        closing = pool.submit(runtime.close)
        with pytest.raises(RuntimeFailure, match="closed"):
            late.result(20)
        assert not closing.done()
        assert gpu.leaks()
        del runtime._pool.workers[0].stream.wait
        go.set()
        assert_same(running.result(20), exact(pictures()))
        closing.result(20)
    gc.collect()
    assert not gpu.leaks()


def test_one_that_is_dropped_gives_all_back(gpu, model):
    runtime = start(make_plan(model))
    runtime.run(pictures())
    del runtime
    gc.collect()
    assert not gpu.leaks()


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise KeyError('as it was')"])
def test_the_interpreter_may_end_with_it_open(model, tmp_path, end):
    (tmp_path / "plan").write_bytes(make_plan(model))
    code = f"""
import atexit, sys
from fakes import fake_cuda, fake_tensorrt
import numpy as np
from edge_retina.runtime.cuda import open_device
from edge_retina.runtime.trt import TrtRuntime
installed = fake_cuda.installed()
gpu = installed.__enter__()
atexit.register(lambda: print(gpu.leaks(), gpu.misuses))
plan = open({str(tmp_path / "plan")!r}, "rb").read()
runtime = TrtRuntime(fake_tensorrt.module(), plan, open_device(), name="tensorrt")
runtime.run(np.zeros((1, 64, 64, 3), np.uint8))
{end}
"""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout == "[] []\n", done.stderr
    assert "leaked" not in done.stderr
    assert done.returncode == {"pass": 0, "sys.exit(3)": 3}.get(end, 1)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_in_whatever_order(model, exact, seed):
    """Sizes, host and GPU frames, refusals and faults at random: the right answer or a typed error, and no leak."""
    rng = np.random.default_rng(seed)
    shapes = [(1, 64, 64), (2, 64, 64), (1, 100, 90), (4, 128, 128), (1, 256, 256), (1, 300, 64)]
    answers = errors = 0
    with (
        fake_cuda.installed(bindings=bool(seed % 2), integrated=seed > 1) as gpu,
        start(make_plan(model), parallel=1 + seed % 3) as runtime,
    ):
        for step in range(60):
            frames = pictures(*shapes[rng.integers(len(shapes))], seed=step)
            there = OnGpu(gpu, frames) if rng.random() < 0.3 else None
            fault = rng.random()
            gpu.launch_fault = "once" if fault < 0.1 else ""
            gpu.fail_allocation(int(rng.integers(1, 3)) if 0.1 < fault < 0.3 else 0)
            try:
                outputs = runtime.run(frames if there is None else there)
            except (RuntimeFailure, UsageError) as exc:
                assert fault < 0.3 or "found [1, 300, 64, 3]" in str(exc)  # noqa: PT017
                errors += 1
            else:
                assert_same(outputs, exact(frames))
                answers += 1
            gpu.launch_fault = ""
            gpu.fail_allocation(0)
            if there is not None:
                there.free()
    assert answers > 30
    assert errors > 3


def test_closing_in_the_midst_of_many_threads(model, exact):
    expected = [exact(pictures(seed=seed)) for seed in range(4)]
    ends = []

    def run_until_closed(runtime, seed):
        while True:
            try:
                outputs = runtime.run(pictures(seed=seed))
            except RuntimeFailure as exc:
                ends.append((seed, str(exc).partition(";")[0]))
                return
            assert_same(outputs, expected[seed])

    for _ in range(3):
        with fake_cuda.installed() as gpu:
            with start(make_plan(model), parallel=2) as runtime, ThreadPoolExecutor(4) as pool:
                for seed in range(4):
                    pool.submit(run_until_closed, runtime, seed)
                while sum(runtime.counts[:2]) < 20:
                    time.sleep(0.001)
                runtime.close()
            gc.collect()
            assert not gpu.leaks()
    assert sorted(ends) == [(seed, "this runtime is closed") for seed in range(4) for _ in range(3)]
