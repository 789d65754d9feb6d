"""Our own exports: a spec in the metadata, or from a person, paired with the outputs of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from models import tiny_model
from onnx import helper, numpy_helper

from edge_retina.errors import SpecError
from edge_retina.importer import own
from edge_retina.spec import METADATA_KEY, DetectorSpec

LOGITS, DELTAS = ("logits_3", "logits_4"), ("deltas_3", "deltas_4")


def dimensions(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


def test_an_empty_graph_has_no_spec() -> None:
    assert own.recognise(gs.Graph(), {}) is None


def test_an_empty_graph_does_not_fit() -> None:
    _, spec = tiny_model()
    with pytest.raises(SpecError, match=r"wanted one image input \[B, 3, H, W\], found none"):
        own.recognise(gs.Graph(), {METADATA_KEY: spec.to_json()})


def test_metadata_that_are_no_spec() -> None:
    with pytest.raises(SpecError, match="wanted JSON"):
        own.recognise(gs.Graph(), {METADATA_KEY: "{"})


def test_the_spec_comes_from_the_metadata() -> None:
    model, spec = tiny_model()
    found = own.recognise(gs.import_onnx(model), {METADATA_KEY: spec.to_json()})
    assert found is not None
    assert (found.spec, found.trunk_input, found.logits, found.deltas) == (spec, "images", LOGITS, DELTAS)
    assert set(found.spec.origins.values()) == {"metadata"}


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_levels(levels: int) -> None:
    # Levels 4 and 5 of 64 x 64 are both 1 x 1: there the order of the outputs decides.
    model, spec = tiny_model(levels=levels)
    found = own.from_spec(gs.import_onnx(model), spec)
    assert found.logits == tuple(f"logits_{i + 3}" for i in range(levels))
    assert found.deltas == tuple(f"deltas_{i + 3}" for i in range(levels))


def test_four_classes_look_like_boxes() -> None:
    # A * K = A * 4 = 12: logits come first.
    model, spec = tiny_model(classes=4)
    found = own.from_spec(gs.import_onnx(model), spec)
    assert (found.logits, found.deltas) == (LOGITS, DELTAS)


def test_outputs_in_another_order() -> None:
    model, spec = tiny_model()
    graph = gs.import_onnx(model)
    graph.outputs.reverse()
    found = own.from_spec(graph, spec)
    assert (found.logits, found.deltas) == (LOGITS, DELTAS)


def test_other_outputs_are_passed_over() -> None:
    model, spec = tiny_model()
    model.graph.output.insert(0, helper.make_tensor_value_info("stem", onnx.TensorProto.FLOAT, ["batch", 6, 8, 8]))
    assert own.from_spec(gs.import_onnx(model), spec).logits == LOGITS


# What the graph leaves open


def with_shape_arithmetic() -> tuple[onnx.ModelProto, DetectorSpec]:
    """Logits through a Reshape whose sizes are computed, recorded with names for sizes, as exporters leave them."""
    model, spec = tiny_model()
    for output in model.graph.output:
        if output.name.startswith("logits"):
            node = next(n for n in model.graph.node if n.output[0] == output.name)
            node.output[0] = raw = f"{output.name}.raw"
            model.graph.node.extend(
                [
                    helper.make_node("Shape", [raw], [f"{raw}.shape"]),
                    helper.make_node("Reshape", [raw, f"{raw}.shape"], [output.name]),
                ]
            )
        for axis, name in ((1, "channels"), (2, "height"), (3, "width")):
            dimensions(output)[axis].dim_param = f"{output.name}_{name}"
    return model, spec


def test_open_output_shapes_are_inferred() -> None:
    model, spec = with_shape_arithmetic()
    graph = gs.import_onnx(model)
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    found = own.from_spec(graph, spec)
    assert (found.logits, found.deltas) == (LOGITS, DELTAS)
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before


def test_an_open_input_size_is_the_specs() -> None:
    model, spec = with_shape_arithmetic()
    for axis in (2, 3):
        dimensions(model.graph.input[0])[axis].dim_param = "side"
    assert own.from_spec(gs.import_onnx(model), spec).deltas == DELTAS
    other = spec.override("user", input_size=(128, 128))  # levels are then 16 x 16 and 8 x 8
    with pytest.raises(SpecError, match=r"level 1 as an output \[B, 9, 4, 4\]; .* logits_3 \['batch', 9, 16, 16\]"):
        own.from_spec(gs.import_onnx(model), other)


# Contradictions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": ("a", "b")}, r"wants logits of level 0 as an output \[B, 6, 8, 8\]; .* outputs are logits_3"),
        ({"input_size": (64, 32)}, r"wants an input \[B, 3, 64, 32\]; the graph's input images is \['batch', 3, 64"),
        ({"level_shapes": ((8, 8), (2, 2))}, r"wants logits of level 1 as an output \[B, 9, 2, 2\]"),
        ({"cell_anchors": (((0, 0, 8, 8),),) * 2}, r"wants logits of level 0 as an output \[B, 3, 8, 8\]"),
    ],
)
def test_a_spec_that_contradicts_the_graph(values: dict[str, Any], message: str) -> None:
    model, spec = tiny_model()
    with pytest.raises(SpecError, match=message):
        own.from_spec(gs.import_onnx(model), spec.override("user", **values))


def test_boxes_are_missing() -> None:
    model, spec = tiny_model()
    graph = gs.import_onnx(model)
    del graph.outputs[2:]
    with pytest.raises(SpecError, match=r"wants deltas of level 0 as an output \[B, 12, 8, 8\]"):
        own.from_spec(graph, spec)


def test_channels_last_is_no_image_input() -> None:
    model, spec = tiny_model()
    dimensions(model.graph.input[0])[1].dim_value, dimensions(model.graph.input[0])[3].dim_value = 64, 3
    with pytest.raises(SpecError, match=r"the graph's input images is \['batch', 64, 64, 3\]"):
        own.from_spec(gs.import_onnx(model), spec)


def test_two_image_inputs() -> None:
    model, spec = tiny_model()
    model.graph.input.append(helper.make_tensor_value_info("depth", onnx.TensorProto.FLOAT, [1, 1, 64, 64]))
    with pytest.raises(SpecError, match=r"wanted one image input .* found images .*, depth \[1, 1, 64, 64\]"):
        own.from_spec(gs.import_onnx(model), spec)


def test_a_weight_listed_as_an_input_is_none() -> None:
    # As files of ONNX before IR version 4 have it.
    model, spec = tiny_model()
    stem = next(t for t in model.graph.initializer if t.name == "stem.weight")
    model.graph.input.append(
        helper.make_tensor_value_info("stem.weight", onnx.TensorProto.FLOAT, numpy_helper.to_array(stem).shape)
    )
    graph = gs.import_onnx(model)
    assert own.from_spec(graph, spec).trunk_input == "images"
    assert isinstance(graph.tensors()["stem.weight"], gs.Constant)
    assert np.isfinite(graph.tensors()["stem.weight"].values).all()
