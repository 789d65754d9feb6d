"""Calibration: frames in, statistics of tensors out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_retina.calibrate import gather, look
from edge_retina.calibrate.probes import open_probes
from edge_retina.errors import InputError, ModelError


def model_of(scale: float = 2.0) -> onnx.ModelProto:
    """y = scale * pixel, channel by channel; z = 1 / y."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["images"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["images", "scale"], ["y"]),
        helper.make_node("Reciprocal", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ("batch", "height", "width", 3))],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(scale), "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def frame(*pixel: int, size: tuple[int, int] = (2, 2)) -> Any:
    return np.broadcast_to(np.array(pixel, np.uint8), (*size, 3))


def test_no_frames():
    with pytest.raises(InputError, match="wants pictures, found none; name them with --calib"):
        gather(model_of(), {"y"}, [])


def test_no_tensors():
    assert gather(model_of(), (), [frame(1, 2, 3)]) == {}


def test_by_hand():
    """Frames of any size, each counting alike: y is 2 4 6 and then 4 4 4."""
    found = gather(model_of(), {"y", "images"}, iter([frame(1, 2, 3), frame(2, 2, 2, size=(5, 3))]))
    assert list(found) == ["images", "y"]
    assert found["y"].mean.tolist() == [3, 4, 5]
    assert found["y"].energy.tolist() == [10, 16, 26]
    assert found["y"].peak.tolist() == [4, 4, 6]
    assert found["y"].maximum == 6
    assert found["images"].maximum == 3
    assert found["y"].histogram.counts.sum() == 3 * (2 * 2 + 5 * 3)


def test_it_tells_of_each_frame():
    told: list[int] = []
    gather(model_of(), {"y"}, [frame(1, 2, 3)] * 3, on_frame=lambda: told.append(1))
    assert len(told) == 3


def test_infinity_names_the_tensor():
    with pytest.raises(ModelError, match="'z' is NaN or infinite on calibration frame 1"):
        gather(model_of(), {"z"}, [frame(1, 2, 3), frame(1, 0, 3)])


def test_a_tensor_that_is_not_there():
    with pytest.raises(ModelError, match="'nothing'"):
        gather(model_of(), {"nothing"}, [frame(1, 2, 3)])


def test_an_interrupt_passes_through():
    def frames() -> Iterator[Any]:
        yield frame(1, 2, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model_of(), {"y"}, frames())


def test_an_error_of_the_source_passes_through():
    def frames() -> Iterator[Any]:
        yield frame(1, 2, 3)
        raise InputError("camera unplugged")

    with pytest.raises(InputError, match="unplugged"):
        gather(model_of(), {"y"}, frames())


def test_the_same_frames_give_the_same():
    frames = [np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8) for i in range(4)]
    first, second = (gather(model_of(1 / 3), {"y"}, frames)["y"] for _ in range(2))
    assert first.maximum == second.maximum
    np.testing.assert_array_equal(first.histogram.counts, second.histogram.counts)
    np.testing.assert_array_equal(first.energy, second.energy)


def test_statistics_of_divided_channels_are_those_of_the_divided_tensor():
    frames = [np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8) for i in range(3)]
    factor = np.float32([1, 0.25, 2])
    model, probes = model_of(1 / 3), open_probes(model_of(1 / 3), {"y", "images"})
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(1 / 3) / factor[:, None, None], "scale"))
    divided, wanted = look(probes, frames, factors={"y": factor}), gather(model, {"y", "images"}, frames)
    assert divided.keys() == wanted.keys()
    for name, found in divided.items():
        np.testing.assert_array_equal(found.histogram.counts, wanted[name].histogram.counts)
        for field in ("mean", "energy", "peak", "maximum"):
            np.testing.assert_array_equal(getattr(found, field), getattr(wanted[name], field))
