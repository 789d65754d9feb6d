"""Mean and deviation read off arithmetic of any order, or not at all."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from edge_retina.importer.heads import affine_before
from edge_retina.importer.normalisation import colour_order, normalisation

MEAN = np.float32([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1)
IMAGE = "image"


def chain(*steps: tuple[str, object, object]) -> gs.Tensor:
    """(operator, first, second) one after the other; IMAGE stands for what came before, numbers for constants."""
    graph = gs.Graph()
    x = gs.Variable(IMAGE, np.float32, [1, 3, 8, 8])
    other = gs.Variable("other", np.float32, [1, 3, 8, 8])
    graph.inputs = [x, other]
    for number, (op, *operands) in enumerate(steps):
        out = gs.Variable(f"out_{number}", np.float32)
        tensors = [
            x if v is IMAGE else other if v is None else gs.Constant(f"c_{number}_{i}", np.asarray(v, np.float32))
            for i, v in enumerate(operands)
        ]
        graph.nodes.append(gs.Node(op, inputs=tensors, outputs=[out]))
        x = out
    return x


def test_no_arithmetic_tells_nothing():
    assert normalisation(chain()) == {}
    assert affine_before(chain(("Relu", IMAGE))) is None


@pytest.mark.parametrize(
    ("steps", "mean", "std"),
    [
        ([("Sub", IMAGE, MEAN), ("Div", IMAGE, 58.0)], (123.675, 116.28, 103.53), (58.0, 58.0, 58.0)),
        ([("Sub", IMAGE, MEAN), ("Mul", 1 / 64, IMAGE)], (123.675, 116.28, 103.53), (64.0, 64.0, 64.0)),
        ([("Mul", 1 / 128, IMAGE), ("Sub", IMAGE, 1.0)], (128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
        ([("Add", -100.0, IMAGE)], (100.0, 100.0, 100.0), (1.0, 1.0, 1.0)),
        ([("Sub", IMAGE, 0.5), ("Div", IMAGE, 0.25)], (127.5, 127.5, 127.5), (63.75, 63.75, 63.75)),
        ([("Mul", IMAGE, 1.0)], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
    ids=["sub div", "constant first", "scaled before", "add first", "pixels 0..1", "nothing changes"],
)
def test_by_hand(steps, mean, std):
    found = normalisation(chain(*steps))
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(found["std"], std, rtol=1e-6)


@pytest.mark.parametrize(
    "step", [("Sub", 255.0, IMAGE), ("Div", 1.0, IMAGE), ("Mul", IMAGE, None), ("Add", IMAGE, np.zeros((1, 3, 8, 8)))]
)
def test_half_a_chain_is_not_read(step):
    """What stands before what can be read changes the pixels, too."""
    assert normalisation(chain(step, ("Sub", IMAGE, MEAN))) == {}


@pytest.mark.parametrize(
    ("mean", "order"),
    [
        ((123.675, 116.28, 103.53), {"color_order": "rgb"}),
        ((103.53, 116.28, 123.675), {"color_order": "bgr"}),
        ((103.939, 116.779, 123.68), {"color_order": "bgr"}),
        ((110.0, 100.0, 95.0), {}),  # of a bluish data set, in BGR?
        ((127.5, 127.5, 127.5), {}),
    ],
)
def test_colour_order_of_imagenet_means_only(mean, order):
    assert colour_order(mean) == order
