"""What is a torchvision RetinaNet and what is not: small graphs by hand."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from edge_retina.errors import SpecError
from edge_retina.importer import Source, deepforest, import_model, mlperf, torchvision


def tiny(
    *,
    classes=3,
    anchors=9,
    size=128,
    sides=(16, 8, 4, 2, 1),
    kernel=3,
    shared=True,
    towers=True,
    extra=False,
    bias=(0, 0),
    dtype=np.float32,
):
    """A stem and two heads on `sides`, joined as rows as torchvision joins them; raw, 3 x size x size."""
    graph = gs.Graph(opset=17)
    image = gs.Variable("image", dtype, (1, 3, size, size))
    rng = np.random.default_rng(0)
    weights = {}

    def node(op, *inputs, **attrs):
        out = gs.Variable(f"t{len(graph.nodes)}", dtype)
        graph.nodes.append(gs.Node(op, inputs=list(inputs), outputs=[out], attrs=attrs))
        return out

    def conv(x, key, channels, size, inputs, stride=1, shift=0.0):
        if key not in weights:
            value = rng.standard_normal((channels, inputs, size, size)).astype(dtype)
            weights[key] = [
                gs.Constant(f"w{len(weights)}", value),
                gs.Constant(f"b{len(weights)}", np.full(channels, shift, dtype)),
            ]
        pads = [size // 2] * 4
        return node("Conv", x, *weights[key], kernel_shape=[size, size], strides=[stride] * 2, pads=pads)

    def shape(*sizes):
        return gs.Constant(f"s{len(graph.nodes)}", np.array(sizes))

    features, x, side = {}, image, size
    while side > min(sides):
        x, side = conv(x, ("stem", side), 4, 3, 3 if side == size else 4, stride=2), -(-side // 2)
        features[side] = x
    widths = (classes, 4, 1) if extra else (classes, 4)
    for head, (width, shift) in enumerate(zip(widths, (*bias, 0), strict=False)):
        rows = []
        for side in sides:
            tower, key = head if towers else 0, 0 if shared else side
            if (tower, side) not in features:  # without towers both heads hang on one convolution, as in an RPN
                features[tower, side] = conv(features[side], ("tower", tower, key), 4, 3, 4)
            x = conv(features[tower, side], ("head", head, key), anchors * width, kernel, 4, shift=shift)
            x = node("Reshape", x, shape(1, -1, width, side, side))
            x = node("Transpose", x, perm=[0, 3, 4, 1, 2])
            rows.append(node("Reshape", x, shape(1, -1, width)))
        graph.outputs.append(node("Concat", *rows, axis=1))
    graph.inputs = [image]
    return graph.cleanup()


def test_nothing_in_an_empty_graph():
    assert torchvision.recognise(gs.Graph(), {}) is None


def test_a_graph_by_hand():
    found = torchvision.recognise(tiny(), {})
    assert found.trunk_input == "image"
    assert found.spec.labels == ("class_0", "class_1", "class_2")
    assert found.spec.level_shapes == tuple((s, s) for s in (16, 8, 4, 2, 1))
    assert found.spec.strides == tuple((s, s) for s in (8, 16, 32, 64, 128))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 1, "kernel": 1, "towers": False, "anchors": 3},  # RPN
        {"towers": False},
        {"shared": False},  # SSD
        {"extra": True, "anchors": 1},  # FCOS
        {"classes": 7, "anchors": 4, "sides": (16,)},  # one level needs no Concat
    ],
)
def test_other_detectors_are_not_ours(changes):
    assert torchvision.recognise(tiny(**changes), {}) is None


def test_per_level_outputs_are_not_ours():
    """Our own exports end in the convolutions themselves."""
    graph = tiny()
    convs = [node.outputs[0] for node in graph.nodes if node.op == "Conv" and node.o().op == "Reshape"]
    graph.outputs = convs
    assert len(convs) == 10
    assert torchvision.recognise(graph.cleanup(), {}) is None


SQUARE = ((-8, -8, 8, 8), (-16, -16, 16, 16))


@pytest.mark.parametrize("changes", [{"anchors": 2}, {"sides": (16, 8)}])
def test_raw_export_with_unknown_anchors_is_refused(changes):
    with pytest.raises(SpecError, match=r"export the whole model.* or give cell_anchors"):
        torchvision.recognise(tiny(**changes), {})


def test_raw_export_with_anchors_that_the_user_gives():
    graph = tiny(anchors=2, sides=(16, 8, 4))
    found = torchvision.recognise(graph, {}, {"cell_anchors": [[list(anchor) for anchor in SQUARE]] * 3})
    assert found.spec.cell_anchors == (SQUARE,) * 3
    assert found.spec.origins["cell_anchors"] == "user"
    assert found.spec.strides == ((8, 8), (16, 16), (32, 32))
    assert [graph.tensors()[name].inputs[0].op for name in (*found.logits, *found.deltas)] == ["Conv"] * 6


@pytest.mark.parametrize("anchors", [3, [], [SQUARE] * 2, [SQUARE[:1]] * 3, [[[1, 2, 3]] * 2] * 3])
def test_anchors_that_do_not_fit_are_refused(anchors):
    with pytest.raises(SpecError, match="cell_anchors"):
        torchvision.recognise(tiny(anchors=2, sides=(16, 8, 4)), {}, {"cell_anchors": anchors})


def test_known_anchors_are_not_asked_for():
    assert torchvision.recognise(tiny(), {}, {"cell_anchors": 3}).spec.origins["cell_anchors"] == "family"


@pytest.mark.parametrize("axes", [("batch", 3, "h", "w"), (1, 3, None, None), (1, 3, -1, 128)])
def test_open_input_size_is_the_users(axes):
    graph = tiny()
    graph.inputs[0].shape = axes
    with pytest.raises(SpecError, match="input_size"):
        torchvision.recognise(graph, {})
    found = import_model(Source(gs.export_onnx(graph), ""), overrides={"input_size": [128, 128]})
    wanted = import_model(Source(gs.export_onnx(tiny()), ""), overrides={"input_size": [128, 128]})
    assert found == wanted
    assert tuple(graph.inputs[0].shape) == axes


@pytest.mark.parametrize("size", [128, [128], [0, 128], ["128", 128], [True, 128]])
@pytest.mark.parametrize("open_size", [False, True])
def test_an_input_size_that_is_none_is_refused(size, open_size):
    graph = tiny()
    if open_size:
        graph.inputs[0].shape = ("batch", 3, "h", "w")
    with pytest.raises(SpecError, match=r"input_size wants height and width.*found "):
        import_model(Source(gs.export_onnx(graph), ""), overrides={"input_size": size})


def test_float16():
    found = torchvision.recognise(tiny(dtype=np.float16), {})
    assert found == torchvision.recognise(tiny(), {})


def test_size_that_torchvision_would_pad():
    """100 pixels in 13, 7, 4, 2 and 1 cells are, padded, 128 in 16, 8, 4, 2 and 1; 100 // 13 would be 7."""
    found = torchvision.recognise(tiny(size=100, sides=(13, 7, 4, 2, 1)), {})
    assert found.spec.input_size == (100, 100)
    assert found.spec.strides == tuple((s, s) for s in (8, 16, 32, 64, 128))


def test_pyramid_of_three_channels_has_its_first_convolution_found():
    graph = tiny()
    narrow = next(node for node in graph.nodes if node.op == "Conv" and node.inputs[0].name != "image")
    narrow.inputs[1] = gs.Constant("narrow", narrow.inputs[1].values[:, :3])
    assert torchvision.recognise(graph, {}).trunk_input == "image"


@pytest.mark.parametrize("family", [torchvision, deepforest, mlperf])
def test_nonsense_for_shapes_is_a_spec_error(family):
    graph = tiny()
    for tensor in graph.outputs:
        tensor.dtype = None
    with pytest.raises(SpecError, match="constants fold"):
        family.recognise(graph, {}, forced=True)


@pytest.mark.parametrize("scores_first", [True, False])
def test_four_classes(scores_first):
    """Both heads have 4 channels: the one with the lower bias has the scores."""
    graph = tiny(classes=4, bias=(-4.6, 0) if scores_first else (0, -4.6))
    found = torchvision.recognise(graph, {})
    tensors = graph.tensors()
    first_bias = [tensors[name].inputs[0].inputs[2].values.mean() for name in (found.logits[0], found.deltas[0])]
    assert first_bias == pytest.approx([-4.6, 0])


def test_four_classes_with_sigmoid():
    """A Sigmoid behind one head says more than biases."""
    graph = tiny(classes=4, bias=(0, -4.6))
    first = graph.outputs[0]
    graph.outputs[0] = gs.Variable("scores", np.float32)
    graph.nodes.append(gs.Node("Sigmoid", inputs=[first], outputs=[graph.outputs[0]]))
    found = torchvision.recognise(graph, {})
    assert graph.tensors()[found.logits[0]].inputs[0].inputs[2].values.mean() == 0


@pytest.mark.parametrize(
    ("steps", "mean", "std"),
    [
        ([("Sub", 0.5), ("Div", 0.25)], 127.5, 63.75),  # pixels 0..1
        ([("Div", 255.0), ("Sub", 0.5), ("Div", 0.25)], 127.5, 63.75),  # pixels 0..255
        ([("Mul", 1 / 64.0), ("Add", -2.0)], 128.0, 64.0),
        ([("Sub", 100.0), ("Div", 50.0)], 100.0, 50.0),
    ],
)
def test_normalisation_in_front_of_a_raw_export(steps, mean, std):
    graph = tiny()
    (image,), first = graph.inputs, graph.inputs[0].outputs[0]
    x = image
    for index, (op, number) in enumerate(steps):
        out = gs.Variable(f"step{index}", np.float32)
        graph.nodes.append(
            gs.Node(op, inputs=[x, gs.Constant(f"n{index}", np.array(number, np.float32))], outputs=[out])
        )
        x = out
    first.inputs[0] = x
    found = torchvision.recognise(graph.toposort(), {})
    assert found.trunk_input == x.name
    assert found.spec.mean == pytest.approx([mean] * 3, rel=1e-6)
    assert found.spec.std == pytest.approx([std] * 3, rel=1e-6)
    assert found.spec.pad_value == found.spec.mean
    assert found.spec.origins["mean"] == found.spec.origins["pad_value"] == "graph"
