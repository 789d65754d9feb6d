"""How an original graph is fed: tiny graphs whose scores are the pixel they were given first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from edge_retina.errors import RuntimeFailure, SpecError
from edge_retina.importer import HeadLayout, Imported, load_onnx
from edge_retina.spec import DetectorSpec, cell_anchors
from edge_retina.verify.original import Original, detection_outputs, scaled

MEAN, STD = np.float32([0.5, 0.25, 0.125]), np.float32([0.5, 1.0, 2.0])
PIXEL = (40, 30, 20)  # of the picture, BGR


def spec(order: str = "rgb") -> DetectorSpec:
    return DetectorSpec(
        family="mine",
        labels=("a",),
        input_size=(4, 6),
        color_order=order,
        mean=(1.0, 2.0, 3.0),
        std=(2.0, 2.0, 2.0),
        strides=((4, 6),),
        level_shapes=((1, 1),),
        cell_anchors=(cell_anchors([4.0], [1.0]),),
    )


def whole(
    path: Path, shape: list[object], mean: np.ndarray | None, std: np.ndarray | None, *, second: bool = False
) -> Path:
    """Sub and Div, which give "trunk"; three detections whose scores are the trunk's first pixel."""
    graph = gs.Graph(opset=17, ir_version=8)
    image = gs.Variable("image", np.float32, shape)
    graph.inputs = [image, gs.Variable("size", np.int64, [2])] if second else [image]
    last = shape[-1] == 3
    x = image
    for op, value in (("Sub", mean), ("Div", std)):
        if value is not None:
            out = gs.Variable(op)
            held = gs.Constant(f"{op}/by", value if last else value.reshape(3, 1, 1))
            graph.nodes.append(gs.Node(op, op, inputs=[x, held], outputs=[out]))
            x = out
    trunk = x
    if trunk is not image:
        trunk.name, trunk.dtype = "trunk", np.dtype(np.float32)
    axis = len(shape) - 1 if last else len(shape) - 3
    space = [a for a in range(len(shape)) if a != axis]
    ends = gs.Constant("ends", np.ones(len(space), np.int64))
    starts = gs.Constant("starts", np.zeros(len(space), np.int64))
    pixel = gs.Variable("pixel", np.float32)
    axes = gs.Constant("axes", np.array(space))
    graph.nodes.append(gs.Node("Slice", "cut", inputs=[trunk, starts, ends, axes], outputs=[pixel]))
    scores = gs.Variable("scores", np.float32, [3])
    three = gs.Constant("three", np.array([3]))
    graph.nodes.append(gs.Node("Reshape", "flat", inputs=[pixel, three], outputs=[scores]))
    for name, value in (("boxes", np.zeros((3, 4), np.float32)), ("labels", np.arange(3))):
        held = gs.Variable(name, value.dtype, list(value.shape))
        graph.nodes.append(gs.Node("Constant", name, {"value": gs.Constant(f"{name}/v", value)}, outputs=[held]))
        graph.outputs.append(held)
    graph.outputs.append(scores)
    onnx.save(gs.export_onnx(graph), path)
    return path


def opened(path: Path, order: str = "rgb", trunk: str = "trunk", layout: str = "nchw") -> Original:
    source = load_onnx(path)
    outputs = detection_outputs(source)
    assert outputs is not None
    return Original(path, source, Imported(spec(order), trunk, ("l",), ("d",), HeadLayout(input=layout)), outputs)


PICTURE = np.full((4, 6, 3), PIXEL, np.uint8)
NORMALISED = np.arange(1, 4, dtype=np.float32).reshape(1, 3, 1, 1) * np.ones((1, 3, 4, 6), np.float32)


@pytest.mark.parametrize("shape", [[3, 4, 6], [1, 3, 4, 6], [4, 6, 3], [3, "h", "w"]], ids=str)
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_normalises_gets_pixels_in_its_own_range(tmp_path: Path, shape: list[object], order: str) -> None:
    layout = "nhwc" if shape[-1] == 3 else "nchw"
    for by, mean, std in ((255, MEAN, STD), (1, MEAN * 20, STD)):
        original = opened(whole(tmp_path / "m.onnx", shape, mean, std), order, layout=layout)
        assert original.range == ("unit" if by == 255 else "pixel")
        assert original.fed.endswith(f"{order.upper()}, {'0..1' if by == 255 else '0..255'}")
        pixel = np.float32(PIXEL[::-1] if order == "rgb" else PIXEL)
        wanted = (pixel / by - mean) / std
        found = original(PICTURE, NORMALISED).found
        kept = wanted > 0  # others read as padding
        np.testing.assert_allclose(found[1], wanted[kept], rtol=1e-6)
        assert found[2].tolist() == np.flatnonzero(kept).tolist()


@pytest.mark.parametrize("shape", [[3, 4, 6], [1, 4, 6, 3]], ids=str)
def test_what_does_not_normalise_gets_the_network_input(tmp_path: Path, shape: list[object]) -> None:
    layout = "nhwc" if shape[-1] == 3 else "nchw"
    original = opened(whole(tmp_path / "m.onnx", shape, None, None), trunk="image", layout=layout)
    assert original.range == "normalised"
    assert original(PICTURE, NORMALISED).found[1].tolist() == [1, 2, 3]


def test_the_trunk_is_seen(tmp_path: Path) -> None:
    original = opened(whole(tmp_path / "m.onnx", [1, 3, 4, 6], MEAN, STD))
    seen = original(PICTURE, NORMALISED)
    assert seen.content is None  # nothing resizes
    assert seen.network_input is not None
    pixel = np.float32(PIXEL[::-1])
    np.testing.assert_allclose(seen.network_input[0, :, 3, 5], (pixel / 255 - MEAN) / STD, rtol=1e-5)


@pytest.mark.parametrize(("shape", "size"), [([3, 4, 6], (4, 6)), ([3, 8, 10], (8, 10)), ([3, "h", "w"], (4, 6))])
def test_size(tmp_path: Path, shape: list[object], size: tuple[int, int]) -> None:
    original = opened(whole(tmp_path / "m.onnx", shape, MEAN, STD))
    assert (original.size, original.fits) == (size, False)


def test_two_inputs_and_odd_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"wants one input, the picture, found image \[3, 4, 6\], size \[2\]"):
        opened(whole(tmp_path / "m.onnx", [3, 4, 6], MEAN, STD, second=True))
    with pytest.raises(SpecError, match=r"wants a picture \[3, H, W\] or \[B, 3, H, W\], found image"):
        opened(whole(tmp_path / "m.onnx", [1, 1, 3, 4, 6], MEAN, STD))


def test_a_graph_that_fails_on_the_picture(tmp_path: Path) -> None:
    original = opened(whole(tmp_path / "m.onnx", [3, 4, 6], MEAN, STD))
    with pytest.raises(RuntimeFailure, match="picture of 9x4; give recorded detections with --reference"):
        original(np.zeros((4, 9, 3), np.uint8), NORMALISED)


def test_scaled() -> None:
    assert scaled(PICTURE, (4, 6)) is PICTURE
    assert scaled(PICTURE, (2, 3)).tolist() == np.full((2, 3, 3), PIXEL).tolist()
    assert scaled(PICTURE, (8, 3)).shape == (8, 3, 3)
