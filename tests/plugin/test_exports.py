"""Every trainer's export that is here: its call, as TensorRT would make it, gives what the call's ONNX body gives."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from emulator.launcher import Layout
from kin import session_of
from plugin.shim import LINEAR, Shim
from plugin.test_enqueue import of, run

from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.decode import FUNCTION

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPORTS = sorted(path.stem for path in FIXTURES.glob("*.onnx"))


@pytest.mark.parametrize("export", EXPORTS)
def test_the_plugin_finds_what_the_body_finds(shim: Shim, export: str) -> None:
    source = load_onnx(FIXTURES / f"{export}.onnx")
    found = import_model(source)
    graph = gs.import_onnx(rewrite(source.graph, found))
    call = next(node for node in graph.nodes if node.op == FUNCTION)
    for tensor in call.inputs:
        tensor.dtype = np.float32
    graph.outputs += call.inputs
    photo = cv2.imread(str(FIXTURES / "photos" / "astronaut.png"))
    assert photo is not None
    frame = cv2.resize(photo, (240, 180), interpolation=cv2.INTER_AREA)
    session = session_of(gs.export_onnx(graph))
    outputs = session.run(None, {"frames": frame[None]})
    values = dict(zip([v.name for v in session.get_outputs()], outputs, strict=True))
    heads, levels = [values[tensor.name] for tensor in call.inputs[:-1]], found.spec.num_levels
    with of(shim, found.spec) as plugin:
        got = run(plugin, found.spec, heads[:levels], heads[levels:], (Layout(), Layout()), LINEAR, (180, 240))
    boxes, scores, labels, count = (values[name] for name in ("boxes", "scores", "labels", "count"))
    assert count[0] > 0
    np.testing.assert_array_equal(got[3], count)
    np.testing.assert_array_equal(got[2], labels)
    np.testing.assert_allclose(got[1], scores, atol=1e-6, rtol=0)
    # Past 512 pixels two float32 numbers lie further apart than 1e-4; exp differs in its last bit.
    np.testing.assert_allclose(got[0], boxes, atol=1e-4, rtol=2.4e-7)
