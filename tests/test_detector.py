"""A bundle through Detector: against the NumPy reference, single against batch, fixed against dynamic frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from models import tiny_model

from edge_retina import Detector, boxes, build
from edge_retina.errors import UsageError
from edge_retina.geometry import fit_frame
from edge_retina.spec import DetectorSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "m.onnx"
    tiny_model(path, spec_overrides={"placement": "center", "pad_value": (114.0, 114.0, 114.0)})
    return path


@pytest.fixture(scope="module")
def detector(model: Path) -> Iterator[Detector]:
    with Detector.load(build(model).path, threads=1) as opened:
        yield opened


def picture(seed: int, height: int, width: int) -> Any:
    """Low-frequency noise, so that resizing keeps some of it."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(4, 0).repeat(4, 1)[:height, :width])


def reference(model: Path, spec: DetectorSpec, image: Any) -> Any:
    """The user's ONNX as it is, with NumPy before and after it."""
    height, width = image.shape[:2]
    fit = fit_frame(spec, height, width)
    rows, columns = fit.content
    y = np.clip((np.arange(rows) + 0.5) * height / rows - 0.5, 0, height - 1)
    x = np.clip((np.arange(columns) + 0.5) * width / columns - 0.5, 0, width - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, height - 1), np.minimum(x0 + 1, width - 1)
    wy, wx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    f = image.astype(np.float64)
    top, bottom = ((1 - wx) * f[r][:, x0] + wx * f[r][:, x1] for r in (y0, y1))
    canvas = np.empty((*spec.input_size, 3))
    canvas[:] = spec.pad_value[::-1] if spec.color_order == "rgb" else spec.pad_value
    canvas[fit.offset[0] : fit.offset[0] + rows, fit.offset[1] : fit.offset[1] + columns] = (1 - wy) * top + wy * bottom
    channels = canvas[..., ::-1] if spec.color_order == "rgb" else canvas
    network = ((channels - spec.mean) / spec.std).transpose(2, 0, 1)[None].astype(np.float32)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    heads = session.run(None, {session.get_inputs()[0].name: network})
    levels = spec.num_levels
    return boxes.detect([h[0] for h in heads[:levels]], [h[0] for h in heads[levels:]], spec, fit)


@pytest.mark.parametrize("size", [(64, 64), (48, 120), (201, 99), (40, 200)], ids=str)
def test_detections_are_those_of_the_model_with_numpy_around_it(model, detector, size):
    image = picture(1, *size)
    found = detector(image)
    wanted_boxes, wanted_scores, wanted_labels = reference(model, detector.spec, image)
    assert len(found) == len(wanted_scores) > 0
    np.testing.assert_array_equal(found.labels, wanted_labels)
    np.testing.assert_allclose(found.xyxy, wanted_boxes, atol=2e-3 * max(size) / 64)
    np.testing.assert_allclose(found.scores, wanted_scores, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    assert found.shape == size
    assert found.xyxy.min() >= 0
    assert (found.xyxy[:, 2] <= size[1]).all()
    assert (found.xyxy[:, 3] <= size[0]).all()


def test_an_empty_batch_is_empty(detector):
    assert detector.batch([]) == []


def test_a_batch_of_any_sizes_equals_its_pictures_one_by_one(detector):
    images = [picture(2, 64, 64), picture(3, 80, 40), picture(4, 64, 64), picture(5, 64, 64)]
    for one, together in zip(map(detector, images), detector.batch(images), strict=True):
        np.testing.assert_array_equal(one.xyxy, together.xyxy)
        np.testing.assert_array_equal(one.scores, together.scores)
        np.testing.assert_array_equal(one.labels, together.labels)
        assert one.shape == together.shape


def test_detections_own_their_arrays(detector):
    first = detector(picture(6, 64, 64))
    kept = first.xyxy.copy()
    detector(picture(7, 64, 64))
    np.testing.assert_array_equal(first.xyxy, kept)
    with pytest.raises(ValueError, match="read-only"):
        first.xyxy[0, 0] = 1


def test_fixed_and_dynamic_frame_size_give_the_same(model, detector, tmp_path):
    image = picture(8, 50, 90)
    with Detector.load(build(model, tmp_path / "fixed.edge", frame_size=(50, 90)).path, threads=1) as fixed:
        np.testing.assert_array_equal(fixed(image).xyxy, detector(image).xyxy)
        with pytest.raises(UsageError, match=r"90x50 only, found 64x64.*without --frame-size"):
            fixed(picture(8, 64, 64))


def test_stream_yields_every_frame_with_what_a_call_gives(detector):
    seen = list(detector.stream("test://?size=96x64&frames=4"))
    assert [frame.index for frame, _ in seen] == [0, 1, 2, 3]
    for frame, detections in seen:
        np.testing.assert_array_equal(detections.xyxy, detector(frame.image).xyxy)


@pytest.mark.parametrize("parallel", [1, 3])
def test_calls_batches_and_streams_from_many_threads_are_what_each_is_alone(model, detector, tmp_path, parallel):
    """Nine threads begin together on one detector: three of each kind, with pictures of different sizes."""
    images = [picture(20 + i, 40 + 8 * i, 96 - 8 * i) for i in range(6)]
    source = "test://?size=96x64&frames=6"
    wanted = [detector(image).xyxy for image in images]
    streamed = [found.xyxy for _, found in detector.stream(source)]
    together = threading.Barrier(9)

    def work(kind: int) -> bool:
        together.wait(30)
        for _ in range(4):
            if kind == 0:
                pairs = zip([shared(image) for image in images], wanted, strict=True)
            elif kind == 1:
                pairs = zip(shared.batch(images), wanted, strict=True)
            else:
                pairs = zip([found for _, found in shared.stream(source)], streamed, strict=True)
            if not all(np.array_equal(found.xyxy, alone) for found, alone in pairs):
                return False
        return True

    path = build(model, tmp_path / "shared.edge").path
    with Detector.load(path, threads=1, parallel=parallel) as shared, ThreadPoolExecutor(9) as pool:
        assert list(pool.map(work, [0, 1, 2] * 3)) == [True] * 9
    shared.close()


def test_unknown_target_names_the_known_ones(detector):
    with pytest.raises(UsageError, match="auto, tensorrt, tensorrt_rtx, ort"):
        Detector.load(detector.bundle.path, target="tpu")
    with pytest.raises(UsageError, match="1 or more"):
        Detector.load(detector.bundle.path, threads=0)
