"""A started spec: what a graph's inputs and outputs say, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from edge_retina.importer import Source, own
from edge_retina.outline import outline
from edge_retina.spec import DetectorSpec

HEADS = {"input": "nchw", "heads": "nchw", "class_major": False, "delta_order": [0, 1, 2, 3], "activated": False}


def started(
    outputs: dict[str, list[Any]], image: list[Any] | None = None, *, sigmoid: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The outline of a graph that has these outputs and does nothing."""
    graph = gs.Graph(opset=17, ir_version=8)
    graph.inputs = [gs.Variable("images", np.float32, image if image is not None else [1, 3, 128, 256])]
    for name, shape in outputs.items():
        held = gs.Variable(name, np.float32, shape)
        given = gs.Variable(f"{name}/in", np.float32, shape)
        graph.inputs.append(given)
        raw = gs.Variable(f"{name}/raw", np.float32, shape)
        graph.nodes.append(gs.Node("Relu", f"{name}/relu", inputs=[given], outputs=[raw]))
        op = "Sigmoid" if name in sigmoid else "Identity"
        graph.nodes.append(gs.Node(op, name, inputs=[raw], outputs=[held]))
        graph.outputs.append(held)
    # The pictures are the only input with four axes: the others are given as rows and columns.
    for tensor in graph.inputs[1:]:
        tensor.shape = None
    return outline(Source(gs.export_onnx(graph, do_type_check=False), "0" * 64))


def test_no_outputs_and_no_picture() -> None:
    found = started({}, [3, 128, 256])
    assert found["heads"] == {**HEADS, "trunk_input": None, "logits": None, "deltas": None}
    empty = [name for name, value in found.items() if value is None]
    assert empty == ["labels", "input_size", "mean", "std", "shortest_side", "strides", "level_shapes", "cell_anchors"]
    usual = {name: value for name, value in found.items() if name not in (*empty, "heads", "family")}
    fields = DetectorSpec.__dataclass_fields__
    assert all(fields[name].default == (tuple(v) if isinstance(v, list) else v) for name, v in usual.items())


def test_levels_in_nchw_whatever_their_order() -> None:
    found = started({"a": [1, 36, 8, 16], "b": [1, 90, 8, 16], "c": [1, 90, 16, 32], "d": [1, 36, 16, 32]})
    assert found["input_size"] == [128, 256]
    assert (found["level_shapes"], found["strides"]) == ([[16, 32], [8, 16]], [[8, 8], [16, 16]])
    # 36 boxes' channels are 9 anchors; 90 / 9 classes. 90 / 4 is no whole number of anchors.
    assert (found["heads"]["deltas"], found["heads"]["logits"], len(found["labels"])) == (["d", "a"], ["c", "b"], 10)
    assert found["heads"] | {"logits": 0, "deltas": 0} == {**HEADS, "trunk_input": "images", "logits": 0, "deltas": 0}


def test_nhwc() -> None:
    shapes = {"c3": [1, 16, 32, 15], "c4": [1, 8, 16, 15], "b3": [1, 16, 32, 12], "b4": [1, 8, 16, 12]}
    found = started(shapes, [1, 128, 256, 3])
    assert (found["heads"]["input"], found["heads"]["heads"]) == ("nhwc", "nhwc")
    assert (found["heads"]["logits"], found["heads"]["deltas"]) == (["c3", "c4"], ["b3", "b4"])
    assert (found["input_size"], found["strides"], len(found["labels"])) == ([128, 256], [[8, 8], [16, 16]], 5)


@pytest.mark.parametrize(
    ("names", "logits"),
    [(("cls_0", "box_0"), ["cls_0"]), (("reg", "score"), ["score"]), (("x", "y"), None), (("box", "y"), None)],
)
def test_where_widths_do_not_tell_names_do(names: tuple[str, str], logits: list[str] | None) -> None:
    # 12 and 12: 3 anchors and 4 classes either way.
    found = started({name: [1, 12, 16, 32] for name in names})
    assert found["heads"]["logits"] == logits
    assert (found["labels"] is None) == (logits is None)
    assert found["level_shapes"] == [[16, 32]]


def test_joined_rows_tell_the_pyramid() -> None:
    # 128 x 256: 16 x 32 + 8 x 16 + 4 x 8 + 2 x 4 + 1 x 2 = 682 cells of 9 anchors.
    found = started({"scores": [1, 6138, 7], "boxes": [1, 6138, 4]})
    assert (found["heads"]["heads"], found["heads"]["logits"], found["heads"]["deltas"]) == (
        "joined",
        ["scores"],
        ["boxes"],
    )
    assert found["level_shapes"] == [[16, 32], [8, 16], [4, 8], [2, 4], [1, 2]]
    assert found["strides"][-1] == [128, 128]
    assert len(found["labels"]) == 7
    unknown = started({"scores": [1, 6139, 7], "boxes": [1, 6139, 4]})
    assert (unknown["level_shapes"], unknown["strides"], len(unknown["labels"])) == (None, None, 7)


def test_rows_per_level() -> None:
    shapes = {f"{kind}{level}": [1, 3 * (16 >> level) * (32 >> level), width]
              for level in range(3) for kind, width in (("c", 2), ("b", 4))}  # fmt: skip
    found = started(shapes)
    assert (found["heads"]["heads"], found["heads"]["logits"]) == ("rows", ["c0", "c1", "c2"])
    assert found["level_shapes"] == [[16, 32], [8, 16], [4, 8]]


def test_scores_are_taken_before_the_sigmoid() -> None:
    found = started({"s": [1, 15, 16, 32], "b": [1, 12, 16, 32]}, sigmoid=("s",))
    assert found["heads"]["logits"] == ["s/raw"]
    assert found["heads"]["activated"] is False


@pytest.mark.parametrize(
    "shapes",
    [
        {"a": [1, 36, 8, 16], "b": [1, 90, 8, 16], "centre": [1, 9, 8, 16]},  # three to a level
        {"a": [1, 36, 8, 16], "b": [1, 90, 8, 16], "c": [1, 36, 4, 8], "d": [1, 80, 4, 8]},  # widths that change
        {"a": [1, 36, 8, 16], "b": [1, 91, 8, 16]},  # 91 classes' channels over 9 anchors
        {"boxes": ["n", 4], "scores": ["n"], "labels": ["n"]},
        {"a": [1, 1000]},  # a classifier
    ],
)
def test_what_is_not_clear_stays_null(shapes: dict[str, list[Any]]) -> None:
    heads = started(shapes)["heads"]
    assert (heads["logits"], heads["deltas"]) == (None, None)


def test_open_sizes() -> None:
    found = started({"a": [1, 36, 8, 16], "b": [1, 90, 8, 16]}, [1, 3, "height", "width"])
    assert (found["input_size"], found["strides"], found["level_shapes"]) == (None, None, [[8, 16]])
    assert found["heads"]["trunk_input"] == "images"


def test_odd_sizes_double_their_strides() -> None:
    # 100 rows: 13, 7, 4, 2, 1 of strides 8 to 128; 1 row alone would fit any stride from 100 on.
    shapes = {f"{kind}{i}": [1, width, h, h] for i, h in enumerate((13, 7, 4, 2, 1)) for kind, width in ("c9", "b4")}
    shapes = {name: [1, 9 if name[0] == "c" else 4, h, w] for name, (_, _, h, w) in shapes.items()}
    found = started(shapes, [1, 3, 100, 100])
    assert found["strides"] == [[8, 8], [16, 16], [32, 32], [64, 64], [128, 128]]


def test_it_fits_the_importer_once_filled_in() -> None:
    found = started({"a": [1, 4, 16, 32], "b": [1, 3, 16, 32]})
    assert found["heads"]["deltas"] == ["a"]
    filled = {**found, "mean": [0, 0, 0], "std": [1, 1, 1], "cell_anchors": [[[-4, -4, 4, 4]]]}
    graph = gs.Graph(opset=17)
    graph.inputs = [gs.Variable("images", np.float32, [1, 3, 128, 256])]
    graph.outputs = [gs.Variable(n, np.float32, [1, c, 16, 32]) for n, c in (("a", 4), ("b", 3))]
    for tensor in graph.outputs:
        graph.nodes.append(gs.Node("Conv", tensor.name, inputs=[graph.inputs[0]], outputs=[tensor]))
    imported = own.described(graph, filled, "user")
    assert (imported.logits, imported.deltas, imported.spec.num_classes) == (("b",), ("a",), 3)
