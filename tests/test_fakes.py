"""The fakes raise at what is undefined on a GPU; a fake that lets it pass would prove nothing."""

from __future__ import annotations

import gc
import importlib
import threading
from contextlib import suppress

import numpy as np
import pytest
from fakes import fake_cuda, fake_engine, fake_tensorrt
from fakes.fake_cuda import POISON, Misuse, misused
from models import rewritten, tiny_model

from edge_retina.lowering import lower

SHAPE = (1, 64, 64, 3)
BYTES = 64 * 64 * 3


@pytest.fixture(scope="module")
def model():
    graph, spec = rewritten(tiny_model()[0])
    return lower(graph.SerializeToString(), "tensorrt", spec, plugin=False)


@pytest.fixture
def gpu():
    with fake_cuda.installed() as gpu:
        yield gpu
        gc.collect()


@pytest.fixture
def cuda(gpu):
    """pycuda.driver with the primary context current."""
    import pycuda.driver as cuda

    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    yield cuda
    context.pop()


@pytest.fixture
def cudart(gpu):
    from cuda.bindings import runtime as cudart

    return cudart


class Rig:
    """An engine with memory for one frame, as a first program would write it."""

    def __init__(self, cuda, plan, version="10.3.0"):
        self.trt = fake_tensorrt.module(version)
        self.runtime = self.trt.Runtime(self.trt.Logger())
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        self.context = self.engine.create_execution_context()
        self.stream = cuda.Stream(1)
        self.frames = cuda.mem_alloc(BYTES)
        self.answer = cuda.mem_alloc(8192)
        self.host = cuda.pagelocked_empty(8192, np.uint8)
        self.offsets = {"boxes": 0, "scores": 2048, "labels": 3072, "count": 4096}

    def bind(self):
        assert self.context.set_input_shape("frames", SHAPE)
        assert self.context.set_tensor_address("frames", int(self.frames))
        for name, offset in self.offsets.items():
            assert self.context.set_tensor_address(name, int(self.answer) + offset)

    def free(self):
        for block in (self.frames, self.answer, self.host.base):
            block.free()


@pytest.fixture
def rig(cuda, model):
    rig = Rig(cuda, fake_engine.make_plan(model))
    yield rig
    rig.stream.synchronize()
    rig.free()
    rig.__dict__.clear()
    gc.collect()


def on_a_thread(call):
    """What a call on another thread raises."""
    raised = []

    def work():
        try:
            call()
        except Exception as exc:
            raised.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_nothing_is_installed_outside():
    with pytest.raises(Misuse, match="no fake GPU"):
        fake_cuda.machine()
    with fake_cuda.installed() as gpu:
        assert fake_cuda.machine() is gpu


@pytest.mark.parametrize("name", ["pycuda.driver", "cuda.bindings.runtime"])
def test_what_is_not_there_cannot_be_imported(name):
    with fake_cuda.installed():
        importlib.import_module(name)
    with fake_cuda.installed(pycuda=False, bindings=False), pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


@pytest.mark.parametrize(
    "make",
    [
        lambda cuda: cuda.mem_alloc(16),
        lambda cuda: cuda.pagelocked_empty(16, np.uint8),
        lambda cuda: cuda.Stream(1),
        lambda cuda: cuda.Event(),
    ],
)
def test_a_leak_is_an_error(make):
    kept = []
    with pytest.raises(AssertionError), fake_cuda.installed() as gpu:  # noqa: PT012
        import pycuda.driver as cuda

        gpu.primary.push()
        kept.append(make(cuda))
        gpu.primary.pop()
    gpu.primary.push()
    kept.clear()


def test_a_context_left_on_the_stack_is_a_leak():
    with pytest.raises(AssertionError, match="stack"), fake_cuda.installed() as gpu:
        gpu.primary.push()


def test_a_swallowed_misuse_is_an_error_at_the_end():
    with pytest.raises(AssertionError, match="without a context"), fake_cuda.installed() as gpu, suppress(Misuse):
        gpu.primary.pop()


def test_calls_want_the_context_on_their_thread(gpu, cuda):
    with misused(gpu, "not current"):
        on_a_thread(lambda: cuda.mem_alloc(16))


def test_a_context_of_its_own_is_refused(gpu, cuda):
    with misused(gpu, "primary"):
        cuda.Device(0).make_context()


def test_a_stream_dropped_without_its_context_is_noticed(gpu, cuda):
    stream = cuda.Stream(1)
    cuda.Context.pop()
    with misused(gpu, "leaked"):
        del stream
    gpu.primary.push()


def test_memory_starts_as_poison_and_counts(gpu, cuda):
    block, host = cuda.mem_alloc(16), cuda.pagelocked_empty((2, 4), np.float32)
    assert host.shape == (2, 4)
    assert set(host.view(np.uint8).ravel()) == {POISON}
    assert gpu.allocations == 1
    assert gpu.calls["mem_alloc"] == 1
    block.free()
    host.base.free()
    with misused(gpu, "twice"):
        block.free()


def test_copies_happen_when_they_are_waited_for(gpu, cuda):
    stream, block = cuda.Stream(1), cuda.mem_alloc(16)
    source, target = cuda.pagelocked_empty(16, np.uint8), cuda.pagelocked_empty(16, np.uint8)
    source[:] = 7
    target[:] = 3
    cuda.memcpy_htod_async(int(block), source, stream)
    cuda.memcpy_dtoh_async(target, int(block), stream)
    assert set(target) == {POISON}
    stream.synchronize()
    assert set(target) == {7}
    assert gpu.waits == 1
    for one in (block, source.base, target.base):
        one.free()


def test_an_event_waits_for_what_came_before_it(cuda):
    stream, other, event, block = cuda.Stream(1), cuda.Stream(1), cuda.Event(), cuda.mem_alloc(16)
    source, target = cuda.pagelocked_empty(16, np.uint8), cuda.pagelocked_empty(16, np.uint8)
    source[:] = 7
    cuda.memcpy_htod_async(int(block), source, stream)
    event.record(stream)
    other.wait_for_event(event)
    cuda.memcpy_dtoh_async(target, int(block), other)
    other.synchronize()
    assert set(target) == {7}
    event.synchronize()
    for one in (block, source.base, target.base):
        one.free()


def test_a_source_overwritten_too_early_is_noticed(gpu, cuda):
    stream, block, source = cuda.Stream(1), cuda.mem_alloc(16), cuda.pagelocked_empty(16, np.uint8)
    cuda.memcpy_htod_async(int(block), source, stream)
    source[3] = 1
    with misused(gpu, "written to while"):
        stream.synchronize()
    block.free()
    source.base.free()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_copies_want_page_locked_memory_a_stream_and_room(gpu, cuda, direction):
    stream, block, host = cuda.Stream(1), cuda.mem_alloc(16), cuda.pagelocked_empty(32, np.uint8)

    def copy(array, address, stream):
        if direction == "up":
            cuda.memcpy_htod_async(address, array, stream)
        else:
            cuda.memcpy_dtoh_async(array, address, stream)

    with misused(gpu, "pageable"):
        copy(np.zeros(16, np.uint8), int(block), stream)
    with misused(gpu, "default stream"):
        copy(host[:16], int(block), None)
    with misused(gpu, "32 bytes wanted"):
        copy(host, int(block), stream)
    with misused(gpu, "no device address"):
        copy(host[:16], host.ctypes.data, stream)
    block.free()
    with misused(gpu, "freed"):
        copy(host[:16], int(block), stream)
    host.base.free()
    other = cuda.mem_alloc(16)
    with misused(gpu, "freed"):
        copy(host[:16], int(other), stream)
    other.free()


def test_memory_freed_before_its_copy_ran_is_noticed(gpu, cuda):
    stream, block, host = cuda.Stream(1), cuda.mem_alloc(16), cuda.pagelocked_empty(16, np.uint8)
    cuda.memcpy_dtoh_async(host, int(block), stream)
    block.free()
    with misused(gpu, "freed"):
        stream.synchronize()
    host.base.free()


def test_the_engine_gives_what_onnx_runtime_gives_once_waited_for(gpu, cuda, rig, model):
    rig.bind()
    gpu.view(int(rig.frames), BYTES, "frames")[:] = np.arange(BYTES) % 251
    assert rig.context.execute_async_v3(rig.stream.handle)
    cuda.memcpy_dtoh_async(rig.host, int(rig.answer), rig.stream)
    assert set(rig.host) == {POISON}
    rig.stream.synchronize()
    frames = (np.arange(BYTES) % 251).astype(np.uint8).reshape(SHAPE)
    outputs = rig.engine.session.run(["boxes", "count"], {"frames": frames})
    count = int(rig.host[4096:4100].view(np.int32)[0])
    assert count == outputs[1][0]
    np.testing.assert_array_equal(rig.host[: count * 16].view(np.float32).reshape(-1, 4), outputs[0][0, :count])


def test_the_engine_runs_a_model_that_calls_the_plugin(cuda, model, tmp_path, capsys):
    graph, spec = rewritten(tiny_model()[0])
    called = lower(graph.SerializeToString(), "tensorrt", spec, plugin=True)
    frames = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    trt = fake_tensorrt.module()
    assert trt.Runtime(trt.Logger()).deserialize_cuda_engine(fake_engine.make_plan(called)) is None
    assert "IPluginCreator not found" in capsys.readouterr().out
    (library := tmp_path / "plugin.so").write_bytes(b"\x7fELF")
    trt.get_plugin_registry().load_library(str(library))
    results = []
    for onnx_bytes in (model, called):
        engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(fake_engine.make_plan(onnx_bytes))
        results.append(engine.session.run(None, {"frames": frames}))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_execution_wants_shape_and_addresses(gpu, rig):
    with misused(gpu, "set_input_shape"):
        rig.context.execute_async_v3(rig.stream.handle)
    assert rig.context.infer_shapes() == ["frames"]
    rig.context.set_input_shape("frames", SHAPE)
    assert rig.context.infer_shapes() == []
    with misused(gpu, "address for frames"):
        rig.context.execute_async_v3(rig.stream.handle)
    assert not rig.context.set_tensor_address("nonsense", 256)


@pytest.mark.parametrize("shape", [(5, 64, 64, 3), (1, 63, 64, 3), (1, 64, 257, 3), (1, 64, 64, 4)])
def test_shapes_outside_of_the_profile_are_refused(gpu, rig, shape):
    with misused(gpu, "profile"):
        rig.context.set_input_shape("frames", shape)


def test_addresses_are_aligned_live_large_enough_and_apart(gpu, cuda, rig):
    with misused(gpu, "256"):
        rig.context.set_tensor_address("boxes", int(rig.answer) + 4)
    rig.bind()
    rig.context.set_tensor_address("scores", int(rig.answer) + 256)  # in the midst of the boxes
    with misused(gpu, "overlaps"):
        rig.context.execute_async_v3(rig.stream.handle)
    rig.bind()
    rig.context.set_tensor_address("boxes", int(rig.answer) + 8192 - 256)
    with misused(gpu, "bytes wanted"):
        rig.context.execute_async_v3(rig.stream.handle)
    gone = cuda.mem_alloc(BYTES)
    rig.bind()
    rig.context.set_tensor_address("frames", int(gone))
    gone.free()
    with misused(gpu, "freed"):
        rig.context.execute_async_v3(rig.stream.handle)


@pytest.mark.parametrize(
    "value", [np.zeros((1, 99), np.float32), np.zeros((1, 100), np.float64)], ids=["shape", "type"]
)
def test_an_output_of_another_shape_or_type_is_noticed(gpu, rig, monkeypatch, value):
    rig.bind()
    run = rig.engine.session.run
    results = dict(
        zip(["boxes", "scores", "labels", "count"], run(None, {"frames": np.zeros(SHAPE, np.uint8)}), strict=True)
    )
    results["scores"] = value

    class Session:
        def run(self, names, inputs):
            return [results[name] for name in names]

    monkeypatch.setattr(rig.engine, "session", Session())
    rig.context.execute_async_v3(rig.stream.handle)
    with misused(gpu, "scores is"):
        rig.stream.synchronize()


@pytest.mark.parametrize("handle", [0, 1, 2, 12345])
def test_execution_wants_a_stream_of_its_own(gpu, rig, handle):
    rig.bind()
    with misused(gpu, "default stream"):
        rig.context.execute_async_v3(handle)


def test_a_context_is_for_one_thread_at_a_time(gpu, rig):
    rig.bind()
    rig.context.execute_async_v3(rig.stream.handle)

    def elsewhere():
        gpu.primary.push()
        try:
            rig.context.set_tensor_address("frames", int(rig.frames))
        finally:
            gpu.primary.pop()

    with misused(gpu, "another thread is running"):
        on_a_thread(elsewhere)
    rig.stream.synchronize()
    on_a_thread(elsewhere)  # when it is done, anybody may


def test_a_stream_is_not_used_after_it_was_dropped(gpu, cuda, rig):
    rig.bind()
    stream = cuda.Stream(1)
    handle = stream.handle
    del stream
    with misused(gpu, "destroyed"):
        rig.context.execute_async_v3(handle)


def test_a_graph_replays_what_was_captured(gpu, cudart, cuda, rig):
    mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    rig.bind()
    rig.context.execute_async_v3(rig.stream.handle)
    rig.stream.synchronize()
    assert cudart.cudaStreamBeginCapture(rig.stream.handle, mode) == (0,)
    rig.context.execute_async_v3(rig.stream.handle)
    cuda.memcpy_dtoh_async(rig.host, int(rig.answer), rig.stream)
    status, graph = cudart.cudaStreamEndCapture(rig.stream.handle)
    assert not status
    status, executable = cudart.cudaGraphInstantiate(graph, 0)
    assert not status
    rig.host[:] = 1
    rig.stream.synchronize()
    assert set(rig.host) == {1}  # captured is not run
    for _ in range(2):
        assert cudart.cudaGraphLaunch(executable, rig.stream.handle) == (0,)
        assert set(rig.host) == {POISON}
        rig.stream.synchronize()
        assert rig.host[4096] != POISON
    rig.context.set_tensor_address("frames", int(rig.frames))
    with misused(gpu, "launched after"):
        cudart.cudaGraphLaunch(executable, rig.stream.handle)
    cudart.cudaGraphExecDestroy(executable)
    with misused(gpu, "destroyed"):
        cudart.cudaGraphLaunch(executable, rig.stream.handle)


def test_the_first_run_of_a_shape_is_not_captured(gpu, cudart, rig):
    rig.bind()
    cudart.cudaStreamBeginCapture(rig.stream.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    with misused(gpu, "plain run"):
        rig.context.execute_async_v3(rig.stream.handle)
    status, graph = cudart.cudaStreamEndCapture(rig.stream.handle)
    assert status.name == "cudaErrorStreamCaptureInvalidated"
    assert graph is None


@pytest.mark.parametrize(
    "call",
    [
        lambda cuda, rig: cuda.mem_alloc(16),
        lambda cuda, rig: cuda.pagelocked_empty(16, np.uint8),
        lambda cuda, rig: rig.stream.synchronize(),
        lambda cuda, rig: cuda.Context.synchronize(),
        lambda cuda, rig: rig.frames.free(),
        lambda cuda, rig: rig.engine.create_execution_context(),
        lambda cuda, rig: cuda.memcpy_htod_async(int(rig.frames), np.zeros(4, np.uint8), rig.stream),
    ],
)
def test_what_no_capture_allows_raises(gpu, cuda, cudart, rig, call):
    cudart.cudaStreamBeginCapture(rig.stream.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    with misused(gpu, ""):
        call(cuda, rig)
        pytest.fail("it was allowed")
    cudart.cudaStreamEndCapture(rig.stream.handle)


def test_other_threads_may_allocate_during_a_capture_of_this_one(gpu, cuda, cudart, rig):
    cudart.cudaStreamBeginCapture(rig.stream.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)

    def elsewhere():
        gpu.primary.push()
        cuda.mem_alloc(16).free()
        gpu.primary.pop()

    on_a_thread(elsewhere)
    assert not cudart.cudaStreamEndCapture(rig.stream.handle)[0]


def test_faults_come_when_they_are_asked_for(gpu, cuda, cudart, rig):
    gpu.fail_allocation(2)
    cuda.mem_alloc(16).free()
    with pytest.raises(cuda.MemoryError):
        cuda.mem_alloc(16)
    cuda.mem_alloc(16).free()
    with pytest.raises(cuda.MemoryError):
        cuda.mem_alloc(gpu.memory)
    rig.bind()
    gpu.launch_fault = "once"
    rig.context.execute_async_v3(rig.stream.handle)
    with pytest.raises(cuda.LaunchError):
        rig.stream.synchronize()
    rig.context.execute_async_v3(rig.stream.handle)
    rig.stream.synchronize()
    gpu.end_capture_fault = True
    cudart.cudaStreamBeginCapture(rig.stream.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    assert cudart.cudaStreamEndCapture(rig.stream.handle)[0]
    gpu.launch_fault = "sticky"
    rig.context.execute_async_v3(rig.stream.handle)
    with pytest.raises(cuda.LogicError, match="illegal"):
        rig.stream.synchronize()
    with pytest.raises(cuda.LogicError, match="illegal"):
        cuda.mem_get_info()
    assert cudart.cudaGraphInstantiate([], 0)[0].name == "cudaErrorIllegalAddress"
    gpu.lost = ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "10.4.0"}, "Version tag"),
        ({"gpu": "Fake Thor"}, "Fake Thor"),
        ({"rtx": True}, "another product"),
        ({"host_code": True}, "host code"),
    ],
)
def test_plans_are_refused_as_tensorrt_does_it(cuda, model, change, words, capsys):
    trt = fake_tensorrt.module()
    runtime = trt.Runtime(trt.Logger())
    assert runtime.deserialize_cuda_engine(fake_engine.make_plan(model, **change)) is None
    assert words in capsys.readouterr().out
    assert runtime.deserialize_cuda_engine(b"nonsense") is None
    if "host_code" in change:
        runtime.engine_host_code_allowed = True
        assert runtime.deserialize_cuda_engine(fake_engine.make_plan(model, **change)) is not None
    with pytest.raises(TypeError, match="ILogger"):
        trt.Runtime(object())
