"""The NMS pass: needs decode before it, runs once, has two forms that agree (test_decode.py has the numbers)."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest
from decoder import decoder_model, heads_graph, make_spec

from edge_retina.errors import ModelError, UsageError
from edge_retina.rewrite.decode import add_decode
from edge_retina.rewrite.nms import OUTPUTS, add_nms


def test_without_decode_it_is_an_error():
    with pytest.raises(ModelError, match="decode pass"):
        add_nms(heads_graph(make_spec()), make_spec())


def test_unknown_form_names_the_known_ones():
    graph = heads_graph(make_spec())
    add_decode(graph, make_spec())
    with pytest.raises(UsageError, match="operator, fixpoint"):
        add_nms(graph, make_spec(), "soft")


@pytest.mark.parametrize("form", ["operator", "fixpoint"])
def test_runs_once(form):
    graph = heads_graph(make_spec())
    add_decode(graph, make_spec())
    assert add_nms(graph, make_spec(), form) > 0
    before = gs.export_onnx(graph).SerializeToString(deterministic=True)
    assert add_nms(graph, make_spec(), form) == 0
    assert gs.export_onnx(graph).SerializeToString(deterministic=True) == before
    assert tuple(t.name for t in graph.outputs) == OUTPUTS


def test_fixpoint_uses_no_operator_that_tensorrt_rtx_lacks():
    """No NonMaxSuppression, no NonZero: it has kernels for neither (only ONNX Runtime's form may use the first)."""

    def operators(nodes):
        for node in nodes:
            yield node.op_type
            for attribute in node.attribute:
                yield from operators(attribute.g.node)

    used = set(operators(decoder_model(make_spec(), "fixpoint").functions[0].node))
    assert "Loop" in used
    assert not used & {"NonMaxSuppression", "NonZero"}
    assert "NonMaxSuppression" in set(operators(decoder_model(make_spec()).functions[0].node))
