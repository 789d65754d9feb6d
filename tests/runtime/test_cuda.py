"""The CUDA part, on a GPU of Python that raises at misuse: nothing here says that it works on a real one."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
from fakes import fake_cuda

from edge_retina.errors import MissingPackage, RuntimeFailure, UsageError
from edge_retina.runtime.cuda import DeviceMemory, HostMemory, Stream, open_device
from edge_retina.runtime.graph import CudaError


@pytest.fixture
def gpu():
    with fake_cuda.installed() as gpu:
        yield gpu
        gc.collect()


def test_importing_it_imports_no_cuda():
    code = "import edge_retina.runtime.trt, sys; print(*{n.split('.')[0] for n in sys.modules} & {'cuda', 'pycuda'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_pycuda_it_says_how_to_get_it():
    with fake_cuda.installed(pycuda=False), pytest.raises(MissingPackage, match="pip install 'edge-retina"):
        open_device()


def test_without_a_gpu_it_says_so():
    with fake_cuda.installed(count=0), pytest.raises(RuntimeFailure, match=r"no CUDA-capable device.*nvidia-smi"):
        open_device()


def test_without_a_driver_it_says_so(monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "pycuda.driver":
                raise ImportError("libcuda.so.1: cannot open shared object file")

    with fake_cuda.installed() as gpu:
        monkeypatch.delitem(sys.modules, "pycuda.driver")
        monkeypatch.delattr(sys.modules["pycuda"], "driver")
        monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
        with pytest.raises(RuntimeFailure, match=r"no NVIDIA driver: libcuda\.so\.1.*nvidia-smi"):
            open_device()
        assert not gpu.calls


@pytest.mark.parametrize("index", [-1, 1])
def test_a_number_that_no_gpu_has_is_refused(gpu, index):
    with pytest.raises(UsageError, match=rf"GPU {index}, found 1 .*nvidia-smi -L"):
        open_device(index)


def test_what_a_device_tells(gpu):
    device = open_device()
    told = (device.index, device.name, device.compute_capability, device.driver, device.integrated, device.memory)
    assert told == (0, "Fake Orin", "8.7", "12.6", False, 8 << 30)
    assert device.graphs
    assert device.free_memory() == 8 << 30


def test_a_jetson_is_integrated_and_without_bindings_there_are_no_graphs():
    with fake_cuda.installed(integrated=True, bindings=False, driver=13010):
        device = open_device()
        assert device.integrated
        assert not device.graphs
        assert device.driver == "13.1"
        with device.current():
            stream = Stream(device)
            assert stream.capture(lambda: pytest.fail("not to be called")) is None
            stream.free()


def test_bindings_of_a_newer_cuda_than_the_drivers_are_left_with_a_warning(gpu, caplog):
    gpu.bindings_version = 13040
    device = open_device()
    assert not device.graphs
    assert "cuda-bindings are of CUDA 13.4, the driver of 12.6; run: pip install 'cuda-bindings==12.*'" in caplog.text
    with device.current():
        memory = DeviceMemory(device, 256)
        assert device.place_of(memory.address) == 0  # and nobody is told that it is the host's
        memory.free()


def test_the_primary_context_is_retained_once_and_current_only_inside(gpu):
    device, again = open_device(), open_device()
    assert gpu.calls["retain_primary_context"] == 1
    assert gpu.stacks[threading.get_ident()] == []
    other = object()  # what PyTorch or anybody has current
    gpu.stacks[threading.get_ident()].append(other)
    with device.current(), again.current():
        assert gpu.stacks[threading.get_ident()] == [other, gpu.primary, gpu.primary]
    assert gpu.stacks[threading.get_ident()] == [other]
    with pytest.raises(ValueError, match="as it was"), device.current():
        raise ValueError("as it was")
    assert gpu.stacks[threading.get_ident()].pop() is other


def test_every_thread_makes_it_current_for_itself(gpu):
    device, sizes = open_device(), []

    def work():
        sizes.append(device.free_memory())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sizes == [8 << 30]


def test_bytes_go_up_and_come_down(gpu):
    device = open_device()
    with device.current():
        stream, block = Stream(device), DeviceMemory(device, 1000)
        source, target = HostMemory(device, 1000), HostMemory(device, 1000)
        assert (block.nbytes, source.nbytes, source.address) == (1000, 1000, 0)
        source.array[:] = np.arange(1000) % 256
        stream.upload(block.address, source.array)
        stream.download(target.array, block.address)
        stream.wait()
        np.testing.assert_array_equal(target.array, source.array)
        assert gpu.waits == 1
        for one in (block, source, target, stream):
            one.free()


def test_mapped_memory_has_an_address_on_the_gpu(gpu):
    device = open_device()
    with device.current():
        block = HostMemory(device, 16, mapped=True)
        block.array[:] = 5
        assert set(gpu.view(block.address, 16, "test")) == {5}
        block.free()


def test_a_jetson_waits_by_an_event_that_lets_the_core_sleep():
    with fake_cuda.installed(integrated=True) as gpu:
        device = open_device()
        with device.current():
            stream = Stream(device)
            assert stream._done.flags == fake_cuda.EventFlags.BLOCKING_SYNC | fake_cuda.EventFlags.DISABLE_TIMING
            stream.wait()
            assert (gpu.calls["Event.synchronize"], gpu.calls["Stream.synchronize"]) == (1, 0)
            stream.free()


@pytest.mark.parametrize("bindings", [True, False])
@pytest.mark.parametrize("handle", [1, 2])
def test_a_stream_follows_anothers_work(bindings, handle):
    with fake_cuda.installed(bindings=bindings) as gpu:
        device, done = open_device(), []
        with device.current():
            stream = Stream(device)
            gpu.put(gpu.queues[handle], fake_cuda.Op("another library's kernel", lambda: done.append(1)))
            stream.follow(handle)
            waited = gpu.waits
            stream.wait()
            stream.free()
        assert done == [1]
        # Only pycuda alone, which takes no foreign stream, waits on the host.
        assert waited == (1 if handle == 2 and not bindings else 0)


def test_a_stream_that_is_none_cannot_be_followed(gpu):
    device = open_device()
    with device.current():
        stream = Stream(device)
        with pytest.raises(CudaError, match="cudaEventRecord: cudaErrorInvalidValue"):
            stream.follow(12345)
        stream.free()


@pytest.mark.parametrize("bindings", [True, False])
def test_where_an_address_lies(bindings):
    with fake_cuda.installed(bindings=bindings) as gpu:
        device = open_device()
        with device.current():
            block = DeviceMemory(device, 16)
            assert device.place_of(block.address) == 0
            assert device.place_of(np.zeros(16).ctypes.data) is None
            gpu.blocks[-1].gpu = 1
            assert device.place_of(block.address) == (1 if bindings else 0)  # pycuda cannot tell
            block.free()


def test_a_graph_runs_what_was_captured(gpu):
    device = open_device()
    with device.current():
        stream, block = Stream(device), DeviceMemory(device, 16)
        source, target = HostMemory(device, 16), HostMemory(device, 16)

        def work():
            stream.upload(block.address, source.array)
            stream.download(target.array, block.address)

        graph = stream.capture(work)
        for value in (1, 2):
            source.array[:] = value
            stream.launch(graph)
            stream.wait()
            assert set(target.array) == {value}
        for one in (graph, block, source, target, stream):
            one.free()
    assert gpu.calls["cudaGraphDestroy"] == 1


@pytest.mark.parametrize("broken", ["end", "work", "tensorrt"])
def test_what_cannot_be_captured_gives_no_graph_and_a_warning(gpu, caplog, broken):
    device = open_device()
    gpu.end_capture_fault = broken == "end"

    def work():
        if broken == "work":
            raise device.cuda.LogicError("operation not permitted when stream is capturing")
        if broken == "tensorrt":
            raise RuntimeFailure("a Loop cannot be captured")

    with device.current(), caplog.at_level(logging.WARNING, "edge_retina.runtime.graph"):
        stream = Stream(device)
        assert stream.capture(work) is None
        stream.wait()  # and the stream is no longer capturing
        stream.free()
    assert "no CUDA graph" in caplog.text
    assert gpu.calls["cudaStreamEndCapture"] == 1


def test_an_error_that_is_not_cudas_ends_the_capture_and_comes_through(gpu):
    device = open_device()
    with device.current():
        stream = Stream(device)
        with pytest.raises(KeyboardInterrupt):
            stream.capture(interrupted)
        stream.wait()
        stream.free()


def interrupted():
    raise KeyboardInterrupt


def test_out_of_memory_says_what_is_free(gpu):
    device = open_device()
    with device.current(), pytest.raises(device.cuda.MemoryError) as caught:
        DeviceMemory(device, 9 << 30)
    failure = device.failure("running frames", caught.value)
    assert isinstance(failure, RuntimeFailure)
    assert "out of memory on Fake Orin while running frames: 8192 MiB of 8192 are free" in str(failure)
    assert "smaller batch" in str(failure)


def test_other_errors_say_what_was_done(gpu):
    device = open_device()
    assert str(device.failure("copying", CudaError("odd"))) == "CUDA failed on Fake Orin while copying: odd"


def test_a_lost_gpu_says_that_the_process_must_start_again(gpu):
    device = open_device()
    gpu.lost = "an illegal memory access was encountered"
    assert "lost to this process since copying: odd" in str(device.failure("copying", CudaError("odd")))
    with pytest.raises(RuntimeFailure, match="start the process again"):
        device.free_memory()
    with pytest.raises(RuntimeFailure, match="start the process again"):
        open_device()
    gpu.lost = ""
    assert open_device().free_memory() == 8 << 30
