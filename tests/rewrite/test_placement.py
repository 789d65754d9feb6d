"""Where Q/DQ pairs go, rule by rule on small graphs; the rules are those of NVIDIA's Model Optimizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from convnets import LINEAR, Net
from hypothesis import given, settings
from hypothesis import strategies as st
from retinanet import retinanet_r50

from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.placement import Placement, layer_name, place, quantizable

FIXTURES = Path(__file__).parents[1] / "fixtures"


def edges_of(placement: Placement) -> dict[str, str]:
    """'reader:index' to tensor."""
    return {f"{reader}:{i}": name for (reader, i), name in placement.edges.items()}


def cpu_edges_of(placement: Placement) -> dict[str, str]:
    return {f"{reader}:{i}": name for (reader, i), name in placement.cpu_edges.items()}


def test_nothing_to_quantize():
    net = Net()
    found = place(net.end(net.relu(net.x)))
    assert found == Placement((), {}, {}, {}, {}, frozenset())
    assert found.tensors() == set()


def test_a_chain_has_pairs_in_front_of_convolutions_only():
    """Nothing between conv and Relu, nothing behind the last one, whose logits stay float."""
    net = Net()
    hidden = net.relu(net.conv("a", net.x))
    found = place(net.end(net.head(net.conv("b", hidden))))
    assert found.convs == ("a", "b")
    assert edges_of(found) == {"a:0": "x", "b:0": "a.relu"}
    assert found.cpu_edges == {}
    assert found.groups == {"x": "x", "a.relu": "a.relu"}
    assert found.observed == {"x": ("x",), "a.relu": ("a.relu",)}
    assert found.signed == {"x"}


def test_a_skipped_convolution_has_no_pairs():
    net = Net()
    hidden = net.relu(net.conv("b", net.relu(net.conv("a", net.x))))
    graph = net.end(net.head(net.conv("c", hidden)))
    found = place(graph, ["b"])
    assert found.convs == ("a", "c")
    assert edges_of(found) == {"a:0": "x", "c:0": "b.relu"}
    # ONNX Runtime runs "a" in integers only if its result is quantized.
    assert cpu_edges_of(found) == {"b:0": "a.relu"}
    assert place(graph, ["a", "b", "c"]).groups == {}


def test_a_convolution_with_computed_weights_is_left_alone():
    net = Net()
    weight = net.add("Identity", "w", net.weight("base", 4, 4, 1), channels=4)
    plain = net.add("Conv", "a", net.x, weight)
    graph = net.end(net.head(net.conv("b", plain)))
    assert [layer_name(n) for n in quantizable(graph)] == ["b"]
    assert edges_of(place(graph)) == {"b:0": "a"}


def bottleneck(net: Net, name: str, x: gs.Tensor, *, project: bool = False, swap: bool = False) -> gs.Variable:
    y = net.relu(net.conv(f"{name}1", x))
    y = net.conv(f"{name}2", y, kernel=3)
    skip = net.conv(f"{name}_down", x) if project else x
    return net.relu(net.add("Add", f"{name}_add", *((skip, y) if swap else (y, skip))))


@pytest.mark.parametrize("swap", [False, True])
def test_of_a_residual_only_the_skip_is_quantized(swap):
    net = Net()
    stem = net.relu(net.conv("stem", net.x))
    found = place(net.end(net.head(net.conv("last", bottleneck(net, "b", stem, swap=swap)))))
    skip, absorbed = (0, 1) if swap else (1, 0)
    assert edges_of(found) == {
        "stem:0": "x",
        "b1:0": "stem.relu",
        "b2:0": "b1.relu",
        f"b_add:{skip}": "stem.relu",
        "last:0": "b_add.relu",
    }
    assert cpu_edges_of(found) == {f"b_add:{absorbed}": "b2"}
    assert found.signed == {"x", "b2"}


@pytest.mark.parametrize("swap", [False, True])
def test_of_a_projected_residual_the_projection_is_the_skip(swap):
    net = Net()
    stem = net.relu(net.conv("stem", net.x))
    block = bottleneck(net, "b", stem, project=True, swap=swap)
    graph = net.end(net.head(net.conv("last", block)))
    found = place(graph)
    skip, absorbed = (0, 1) if swap else (1, 0)
    assert edges_of(found)[f"b_add:{skip}"] == "b_down"
    assert cpu_edges_of(found) == {f"b_add:{absorbed}": "b2"}
    # Without the projection in INT8 it is still the skip, of which Add takes a quantized copy.
    assert edges_of(place(graph, ["b_down"]))[f"b_add:{skip}"] == "b_down"
    # Without the long path the projection absorbs the Add.
    turned = place(graph, ["b2"])
    assert edges_of(turned)[f"b_add:{absorbed}"] == "b2"
    assert cpu_edges_of(turned) == {f"b_add:{skip}": "b_down", "b2:0": "b1.relu"}
    # Without both the Add stays float; its result is quantized for whom reads it.
    assert not any(key.startswith("b_add") for key in edges_of(place(graph, ["b2", "b_down"])))


def test_a_sum_that_no_convolution_can_absorb_stays_float():
    """Behind a Relu, or where something else reads the convolution's result too."""
    net = Net()
    one, other = net.relu(net.conv("a", net.x)), net.relu(net.conv("b", net.x))
    graph = net.end(net.head(net.conv("last", net.add("Add", "sum", one, other))))
    found = place(graph)
    assert edges_of(found) == {"a:0": "x", "b:0": "x", "last:0": "sum"}
    assert cpu_edges_of(found) == {"sum:0": "a.relu", "sum:1": "b.relu"}

    net = Net()
    one = net.conv("a", net.x)
    total = net.add("Add", "sum", one, net.relu(one))
    assert not any(key.startswith("sum") for key in edges_of(place(net.end(net.head(net.conv("last", total))))))

    net = Net()
    one = net.conv("a", net.x)
    twice = net.add("Add", "sum", one, one)
    assert edges_of(place(net.end(net.head(net.conv("last", twice))))) == {"a:0": "x", "last:0": "sum"}


def test_the_sum_with_a_constant_is_left_alone():
    net = Net()
    one = net.add("Add", "shifted", net.conv("a", net.x), np.ones((1, 4, 1, 1), np.float32))
    found = place(net.end(net.head(net.conv("last", one))))
    assert edges_of(found) == {"a:0": "x", "last:0": "shifted"}


def pyramid(how: dict[str, str] | None = None) -> gs.Graph:
    """Two levels: inner_3 plus what is upsampled from inner_4."""
    net = Net()
    c3 = net.relu(net.conv("c3", net.x))
    c4 = net.relu(net.conv("c4", c3, kernel=3, stride=2))
    inner_4 = net.conv("inner_4", c4)
    up = net.up("up", inner_4, how) if how else net.up("up", inner_4)
    p3 = net.add("Add", "sum", net.conv("inner_3", c3), up)
    heads = [net.head(net.conv("out_3", p3, kernel=3)), net.head(net.conv("out_4", inner_4, kernel=3))]
    return net.end(*heads)


def test_of_an_fpn_sum_the_upsampled_side_is_quantized_and_shares_its_scale():
    found = place(pyramid())
    assert {key: edges_of(found)[key] for key in ("sum:1", "up:0", "out_4:0", "out_3:0")} == {
        "sum:1": "up",
        "up:0": "inner_4",
        "out_4:0": "inner_4",
        "out_3:0": "sum",
    }
    assert found.groups["up"] == found.groups["inner_4"] == "inner_4"
    # Nearest neighbours are values of its input: that is what decides the scale.
    assert found.observed["inner_4"] == ("inner_4",)
    assert cpu_edges_of(found) == {"sum:0": "inner_3"}


def test_linear_resize_is_not_moved_through():
    """It makes new values: its result has a scale of its own, and it does not run on codes."""
    found = place(pyramid(LINEAR))
    assert edges_of(found)["sum:1"] == "up"
    assert found.groups["up"] == "up"
    # inner_4 has a pair anyway, for out_4, and a tensor has one pair.
    assert edges_of(found)["up:0"] == "inner_4"
    assert found.observed == {name: (name,) for name in found.groups}


def test_without_the_lateral_in_int8_nothing_is_quantized_for_the_sum():
    found = place(pyramid(), ["inner_3"])
    assert "sum:1" not in edges_of(found)
    assert "up" not in found.groups


@pytest.mark.parametrize("activation", ["Relu", "Clip", ""])
def test_a_max_pool_shares_the_scale_of_its_input(activation):
    net = Net()
    stem = net.conv("stem", net.x)
    if activation == "Relu":
        stem = net.relu(stem)
    elif activation:
        stem = net.add("Clip", "clipped", stem, np.float32(0), np.float32(6))
    pooled = net.pool("pool", stem)
    found = place(net.end(net.head(net.conv("a", pooled)), net.head(net.conv("b", pooled, kernel=3))))
    assert edges_of(found) == {"stem:0": "x", "pool:0": stem.name, "a:0": "pool", "b:0": "pool"}
    assert found.groups["pool"] == found.groups[stem.name] == stem.name
    assert found.observed[stem.name] == (stem.name,)
    assert (stem.name in found.signed) == (not activation)


def test_a_max_pool_with_a_float_side_stays_float():
    net = Net()
    pooled = net.pool("pool", net.relu(net.conv("stem", net.x)))
    graph = net.end(net.head(net.conv("a", pooled)))
    before = place(graph, ["stem"])  # nothing quantized before it
    assert edges_of(before) == {"a:0": "pool"}
    assert before.groups == {"pool": "pool"}
    behind = place(graph, ["a"])  # nothing quantized behind it
    assert edges_of(behind) == {"stem:0": "x"}
    assert cpu_edges_of(behind) == {"pool:0": "stem.relu"}


def test_behind_a_residual_block_a_max_pool_shares_too():
    net = Net()
    block = bottleneck(net, "b", net.relu(net.conv("stem", net.x)))
    found = place(net.end(net.head(net.conv("last", net.pool("pool", block)))))
    assert edges_of(found)["pool:0"] == "b_add.relu"
    assert found.groups["pool"] == "b_add.relu"


def test_all_inputs_of_a_concat_share_one_scale():
    net = Net()
    parts = [net.relu(net.conv("a", net.x)), net.conv("b", net.x), net.relu(net.conv("c", net.x))]
    joined = net.add("Concat", "joined", *parts, channels=12, axis=1)
    found = place(net.end(net.head(net.conv("last", joined))))
    members = ("a.relu", "b", "c.relu")
    assert {key: name for key, name in edges_of(found).items() if key.startswith("joined")} == dict(
        zip(("joined:0", "joined:1", "joined:2"), members, strict=True)
    )
    group = found.groups["joined"]
    assert {name for name, g in found.groups.items() if g == group} == {*members, "joined"}
    assert found.observed[group] == members
    assert group in found.signed  # because of b


def test_a_concat_with_a_float_input_is_not_moved_through():
    net = Net()
    parts = [net.relu(net.conv("a", net.x)), net.add("Sigmoid", "gate", net.x)]
    joined = net.add("Concat", "joined", *parts, channels=8, axis=1)
    found = place(net.end(net.head(net.conv("last", joined))))
    assert edges_of(found) == {"a:0": "x", "last:0": "joined"}
    assert cpu_edges_of(found) == {"joined:0": "a.relu"}
    assert "joined" not in found.signed or found.groups["joined"] == "joined"


def test_moves_in_a_row_form_one_group():
    """Pyramid pooling: a Concat of a tensor and its MaxPool, and that of the MaxPool; and a Resize behind it."""
    net = Net()
    stem = net.relu(net.conv("stem", net.x))
    once = net.add("MaxPool", "once", stem, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    twice = net.add("MaxPool", "twice", once, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    joined = net.add("Concat", "joined", stem, once, twice, channels=12, axis=1)
    graph = net.end(net.head(net.conv("last", net.up("up", joined))))
    found = place(graph)
    group = found.groups["up"]
    assert {name for name, g in found.groups.items() if g == group} == {"stem.relu", "once", "twice", "joined", "up"}
    assert found.observed[group] == ("stem.relu",)
    assert group not in found.signed
    assert found.cpu_edges == {}
    assert edges_of(place(graph, ["stem"])) == {"last:0": "up"}


def test_a_tensor_with_many_readers_has_one_pair():
    net = Net()
    shared = net.relu(net.conv("stem", net.x))
    block = bottleneck(net, "b", shared)
    graph = net.end(net.head(net.conv("one", shared)), net.head(net.conv("two", block)))
    found = place(graph)
    readers = {key for key, name in edges_of(found).items() if name == "stem.relu"}
    assert readers == {"b1:0", "b_add:1", "one:0"}
    assert list(found.groups) == sorted({*found.edges.values(), *found.cpu_edges.values()})


def test_what_has_a_pair_for_a_convolution_needs_none_for_onnx_runtime():
    """stem goes into a convolution and into a Sigmoid: both read the one pair."""
    net = Net()
    stem = net.conv("stem", net.x)
    gate = net.add("Sigmoid", "gate", stem)
    graph = net.end(net.head(net.conv("last", stem)), net.head(gate))
    found = place(graph)
    assert edges_of(found) == {"stem:0": "x", "last:0": "stem", "gate:0": "stem"}
    assert found.cpu_edges == {}


def test_head_levels_share_weights_but_not_scales():
    net = Net()
    weight, levels = net.weight("tower", 4, 4, 3), []
    for level, x in enumerate((net.conv("p3", net.x), net.conv("p4", net.x, stride=2))):
        tower = net.relu(net.conv(f"tower_{level}", x, weight=weight))
        levels.append(net.head(net.conv(f"logits_{level}", tower)))
    found = place(net.end(*levels))
    assert edges_of(found) == {
        "p3:0": "x",
        "p4:0": "x",
        "tower_0:0": "p3",
        "tower_1:0": "p4",
        "logits_0:0": "tower_0.relu",
        "logits_1:0": "tower_1.relu",
    }
    assert found.cpu_edges == {}
    assert all(name == group for name, group in found.groups.items())


def test_a_depthwise_convolution():
    net = Net()
    deep = net.relu(net.conv("deep", net.relu(net.conv("a", net.x)), kernel=3, group=4))
    found = place(net.end(net.head(net.conv("point", deep))))
    assert found.convs == ("a", "deep", "point")
    assert edges_of(found) == {"a:0": "x", "deep:0": "a.relu", "point:0": "deep.relu"}


@pytest.mark.parametrize(
    ("op", "constants", "signed"),
    [
        ("Relu", (), False),
        ("Sigmoid", (), False),
        ("Clip", (0.0, 6.0), False),
        ("Clip", (-1.0, 6.0), True),
        ("Clip", (), True),
        ("Tanh", (), True),
    ],
)
def test_what_can_be_negative(op, constants, signed):
    net = Net()
    made = net.add(op, "made", net.conv("a", net.x), *(np.float32(c) for c in constants))
    found = place(net.end(net.head(net.conv("b", made))))
    assert ("made" in found.signed) == signed


# Real detectors.


def rewritten(path: Path) -> gs.Graph:
    source = load_onnx(path)
    return gs.import_onnx(rewrite(source.graph, import_model(source)))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> gs.Graph:
    path = tmp_path_factory.mktemp("model") / "r.onnx"
    retinanet_r50(path, width=1 / 8, channels=8, depth=26, classes=2, input_size=(64, 64))
    return rewritten(path)


def test_a_retinanet(resnet):
    found = place(resnet)
    assert len(found.convs) == len([n for n in resnet.nodes if n.op == "Conv"])
    adds = [n for n in resnet.nodes if n.op == "Add" and layer_name(n).rsplit("/")[-1].startswith(("layer", "fpn"))]
    assert len(adds) == 8 + 2  # two blocks in each of four stages, and two merges
    for node in adds:
        sides = [i for i in (0, 1) if (layer_name(node), i) in found.edges]
        assert sides == [1], node.name
    # The stem's MaxPool and each nearest Resize share a scale with what they read.
    for node in resnet.nodes:
        if layer_name(node) in found.groups and node.op in ("MaxPool", "Resize"):
            assert found.groups[layer_name(node)] == found.groups[node.inputs[0].name]
    logits = {t.name for n in resnet.nodes if n.domain for t in n.inputs if t.inputs and t.inputs[0].op == "Conv"}
    assert len(logits) == 10
    assert not logits & set(found.groups)
    assert logits <= set(found.convs)
    # A Relu's input is never quantized, unless the convolution's result has other readers as well.
    relus = {layer_name(n) for n in resnet.nodes if n.op == "Relu"}
    quantized = {(reader, name) for (reader, _), name in found.edges.items() if reader in relus}
    assert {name.rsplit("/")[-1] for _, name in quantized} <= {"fpn.p6"}


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_whatever_is_skipped_calibration_has_seen_what_is_needed(resnet, data):
    whole = place(resnet)
    skip = data.draw(st.sets(st.sampled_from(whole.convs)))
    found = place(resnet, skip)
    assert set(found.groups) <= set(whole.groups)
    assert found.tensors() <= set(whole.groups)
    assert set(found.convs) == set(whole.convs) - skip
    assert all(found.observed[group] for group in found.groups.values())
    assert set(found.observed) == set(found.groups.values())
    # A group that can be negative was so before: weights were rounded with that in mind.
    signed = {name for name, group in whole.groups.items() if group in whole.signed}
    assert {name for name, group in found.groups.items() if group in found.signed} <= signed


@pytest.mark.parametrize("name", ["tv_v1_raw_ts", "tv_v1_raw_dynamo", "tv_v2_raw_ts"])
def test_torchvision(name):
    """v2 has GroupNorm in its heads: what it reads is quantized for ONNX Runtime only, what it makes for the next."""
    graph = rewritten(FIXTURES / f"{name}.onnx")
    found = place(graph)
    assert len(found.convs) == len([n for n in graph.nodes if n.op == "Conv"])
    for node in graph.nodes:
        if node.op in ("Conv", "Add"):
            assert sum((layer_name(node), i) in found.edges for i in (0, 1)) <= 1
        if node.op in ("InstanceNormalization", "Reshape", "Sigmoid"):
            assert not any((layer_name(node), i) in found.edges for i in range(len(node.inputs)))
    assert not {t.name for n in graph.nodes if n.domain for t in n.inputs} & set(found.groups)
