"""Multiply-accumulates per convolution: sizes small enough to count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from models import tiny_model
from onnx import helper, numpy_helper
from retinanet import retinanet_r50

from edge_retina.errors import ModelError
from edge_retina.rewrite.macs import conv_macs


def graph_of(*nodes: onnx.NodeProto, shape: list[Any], **weights: tuple[int, ...]) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_a_graph_without_convolutions_has_none():
    assert conv_macs(graph_of(helper.make_node("Relu", ["x"], ["y"]), shape=[1, 3, 4, 4])) == {}


@pytest.mark.parametrize("batch", ["batch", 1, 8])
def test_a_convolution_by_hand(batch):
    """8 x 6 pixels, 3x3 kernel, stride 2, padded: 4 x 3 outputs of 5 channels, each 2 * 9 products: 60 * 18."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    assert conv_macs(graph_of(conv, shape=[batch, 2, 8, 6], w=(5, 2, 3, 3))) == {"y": 1080}


def test_groups_see_their_own_channels_only():
    """4 channels in, 6 out, 2 groups: 6 outputs of 2 * 1 products at 10 x 10 pixels."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    assert conv_macs(graph_of(conv, shape=[1, 4, 10, 10], w=(6, 2, 1, 1))) == {"y": 1200}


def test_depthwise():
    """8 outputs of 9 products each at 4 x 4 pixels."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], group=8, pads=[1, 1, 1, 1])
    assert conv_macs(graph_of(conv, shape=["b", 8, 4, 4], w=(8, 1, 3, 3))) == {"y": 1152}


def test_a_transposed_convolution_spreads_each_input():
    """3 channels of 5 x 5 inputs, each to 4 channels of 2 x 2 outputs: 75 * 16."""
    conv = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    assert conv_macs(graph_of(conv, shape=["b", 3, 5, 5], w=(3, 4, 2, 2))) == {"y": 1200}


def test_weights_behind_dequantize_and_cast():
    """16 outputs of 16 * 9 products at 2 x 2 pixels, twice."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "s"], ["w32"], axis=0),
        helper.make_node("Conv", ["x", "w32"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["w32"], ["w16"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["y"], ["y16"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Conv", ["y16", "w16"], ["z"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["z"], ["z32"], to=onnx.TensorProto.FLOAT),
    ]
    model = graph_of(*nodes, shape=["b", 16, 2, 2], s=(16,))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((16, 16, 3, 3), np.int8), "w8"))
    assert conv_macs(model) == {"y": 9216, "z": 9216}


def test_sizes_that_the_graph_leaves_open_are_an_error():
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="first")
    with pytest.raises(ModelError, match=r"'first'.*y \[.*None"):
        conv_macs(graph_of(conv, shape=[1, 2, "height", "width"], w=(5, 2, 3, 3)))


@pytest.mark.parametrize("frame", [None, (48, 80)])
def test_a_bundle_has_the_work_of_its_trunk_whatever_the_frame(frame, tmp_path):
    """Of tiny_model: stem 8 x 8 x 6 of 3 * 25, down 4 x 4 x 6 of 6 * 9, heads (9 + 12) x (64 + 16) of 6 * 9."""
    from edge_retina import build

    tiny_model(tmp_path / "m.onnx")
    bundle = build(tmp_path / "m.onnx", frame_size=frame)
    macs = conv_macs(onnx.load_from_string(bundle.model()))
    assert sum(macs.values()) == 64 * 6 * 75 + 16 * 6 * 54 + 21 * 80 * 54
    assert macs["logits_0"] == 64 * 9 * 54


def test_resnet_50_has_the_work_that_torchvision_states():
    """151.54 G for RetinaNet_ResNet50_FPN_Weights.COCO_V1, at 800 x 800; all but 0.2 % of it convolutions."""
    model, _ = retinanet_r50(input_size=(320, 320))
    assert sum(conv_macs(model).values()) * (800 / 320) ** 2 == pytest.approx(151.54e9, rel=2e-3)
