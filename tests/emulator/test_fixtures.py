"""Every trainer's export that is here, on a photograph: kernels, NumPy reference and ONNX body give the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx_graphsurgeon as gs
import pytest
from emulator import reference
from emulator.launcher import Emulator
from kin import session_of

from edge_retina.geometry import fit_frame
from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.decode import FUNCTION

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPORTS = sorted(path.stem for path in FIXTURES.glob("*.onnx"))


@pytest.mark.parametrize("export", EXPORTS)
def test_the_kernels_find_what_the_body_and_the_reference_find(emulator: Emulator, export: str) -> None:
    source = load_onnx(FIXTURES / f"{export}.onnx")
    found = import_model(source)
    spec = found.spec
    graph = gs.import_onnx(rewrite(source.graph, found))
    call = next(node for node in graph.nodes if node.op == FUNCTION)
    for tensor in call.inputs:
        tensor.dtype = np.float32
    graph.outputs += call.inputs
    session = session_of(gs.export_onnx(graph))
    photo = cv2.imread(str(FIXTURES / "photos" / "astronaut.png"))
    assert photo is not None
    frame = cv2.resize(photo, (240, 180), interpolation=cv2.INTER_AREA)
    outputs = session.run(None, {"frames": frame[None]})
    values = dict(zip([v.name for v in session.get_outputs()], outputs, strict=True))
    heads = [values[tensor.name] for tensor in call.inputs[:-1]]
    logits, deltas = heads[: spec.num_levels], heads[spec.num_levels :]
    geometry = fit_frame(spec, 180, 240)
    np.testing.assert_array_equal(values[call.inputs[-1].name], np.float32(geometry.vector()))
    run = emulator(spec, logits, deltas, geometry)
    assert run.count[0] > 0
    assert all((loads == 1).all() for loads in run.loads)
    body = tuple(values[name] for name in ("boxes", "scores", "labels", "count"))
    for wanted in (body, reference.detect(logits, deltas, spec, geometry)):
        np.testing.assert_array_equal(run.count, wanted[3])
        np.testing.assert_array_equal(run.labels, wanted[2])
        np.testing.assert_allclose(run.scores, wanted[1], atol=1e-6, rtol=0)
        # Past 512 pixels two float32 numbers lie further apart than 1e-4; exp differs in its last bit.
        np.testing.assert_allclose(run.boxes, wanted[0], atol=1e-4, rtol=2.4e-7)
