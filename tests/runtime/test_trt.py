"""The TensorRT runtime, on a GPU of Python that raises at misuse: nothing here says that it works on a real one."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import fake_cuda, fake_engine, fake_tensorrt
from models import rewritten, tiny_model

from edge_retina.runtime.cuda import open_device
from edge_retina.runtime.ort import OrtRuntime
from edge_retina.runtime.trt import TrtRuntime


@pytest.fixture(scope="module")
def model():

    from edge_retina.lowering import lower

    graph, spec = rewritten(tiny_model()[0])
    return lower(graph.SerializeToString(), "tensorrt", spec, plugin=False)


def test_slice(model):
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    want = OrtRuntime(model).run(frames)
    print(want.count)
    with fake_cuda.installed() as gpu:
        device = open_device()
        with TrtRuntime(fake_tensorrt.module(), fake_engine.make_plan(model), device, name="tensorrt") as runtime:
            for _ in range(4):
                got = runtime.run(frames)
                for a, b in zip(want, got, strict=True):
                    np.testing.assert_array_equal(a, b)
            print(runtime.counts, gpu.calls)
