"""ONNX Runtime: what it refuses is one typed error, what it gives has the documented shapes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from models import tiny_model

from edge_retina import build
from edge_retina.errors import RuntimeFailure
from edge_retina.runtime import open_runtime
from edge_retina.runtime.ort import OrtRuntime


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ort")
    tiny_model(folder / "m.onnx")
    return build(folder / "m.onnx")


@pytest.mark.parametrize("model", [b"", b"not a model", b"\x08\x08"])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(RuntimeFailure, match="ONNX Runtime"):
        OrtRuntime(model)


def test_outputs_have_the_documented_shapes(bundle):
    most = bundle.spec.max_detections
    with open_runtime(bundle) as runtime:
        outputs = runtime.run(np.zeros((3, 40, 50, 3), np.uint8))
    assert [(a.dtype.name, a.shape) for a in outputs] == [
        ("float32", (3, most, 4)),
        ("float32", (3, most)),
        ("int32", (3, most)),
        ("int32", (3,)),
    ]


def test_frames_of_the_wrong_type_are_refused(bundle):
    with open_runtime(bundle) as runtime:
        for frames in (np.zeros((1, 40, 50, 3), np.float32), np.zeros((40, 50, 3), np.uint8)):
            with pytest.raises(RuntimeFailure, match="frames"):
                runtime.run(frames)
        runtime.run(np.zeros((1, 40, 50, 3), np.uint8))  # and it still works


def test_several_threads_may_run_at_once(bundle):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8) for _ in range(12)]
    with open_runtime(bundle, parallel=3) as runtime:
        assert runtime.parallel == 3
        alone = [runtime.run(frame) for frame in frames]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(runtime.run, frames))
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_closing_twice_is_harmless(bundle):
    runtime = open_runtime(bundle)
    runtime.close()
    runtime.close()
