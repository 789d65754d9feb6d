"""AnchorDecode on its own: a graph whose inputs are the head tensors and the geometry, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from edge_retina.geometry import Geometry
from edge_retina.rewrite.decode import add_decode
from edge_retina.rewrite.nms import add_nms
from edge_retina.spec import DetectorSpec, cell_anchors

F32 = npt.NDArray[np.float32]


def make_spec(
    shapes: tuple[tuple[int, int], ...] = ((8, 8), (4, 4)), classes: int = 3, per_cell: int = 2, **values: object
) -> DetectorSpec:
    anchors = tuple(cell_anchors([8 * 2**i], [1.0, 0.5, 2.0][:per_cell]) for i in range(len(shapes)))
    defaults: dict[str, object] = {
        "family": "test",
        "labels": tuple(f"c{i}" for i in range(classes)),
        "input_size": (shapes[0][0] * 8, shapes[0][1] * 8),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "strides": tuple((8 * 2**i, 8 * 2**i) for i in range(len(shapes))),
        "level_shapes": shapes,
        "cell_anchors": anchors,
        "max_detections": 50,
    }
    return DetectorSpec(**{**defaults, **values})  # type: ignore[arg-type]


def random_heads(
    spec: DetectorSpec, rng: np.random.Generator, batch: int = 1, mean: float = -2.0, deviation: float = 2.0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    logits, deltas = [], []
    for (h, w), cell in zip(spec.level_shapes, spec.cell_anchors, strict=True):
        logits.append(rng.normal(mean, deviation, (batch, len(cell) * spec.num_classes, h, w)).astype(np.float32))
        deltas.append(rng.normal(0, 0.5, (batch, len(cell) * 4, h, w)).astype(np.float32))
    return logits, deltas


def heads_graph(spec: DetectorSpec, opset: int = 18) -> gs.Graph:
    """Heads and geometry handed straight through."""
    graph = gs.Graph(opset=opset, ir_version=8)
    shapes = [
        (f"{kind}_{level}", ["batch", len(spec.cell_anchors[level]) * channels, *spec.level_shapes[level]])
        for kind, channels in (("logits", spec.num_classes), ("deltas", 4))
        for level in range(spec.num_levels)
    ]
    for name, shape in [*shapes, ("geometry", [8])]:
        given, out = gs.Variable(f"in_{name}", np.float32, shape), gs.Variable(name, np.float32, shape)
        graph.inputs.append(given)
        graph.outputs.append(out)
        graph.nodes.append(gs.Node("Identity", f"pass_{name}", inputs=[given], outputs=[out]))
    return graph


def decoder_model(spec: DetectorSpec, form: str = "operator", opset: int = 18) -> onnx.ModelProto:
    graph = heads_graph(spec, opset)
    assert add_decode(graph, spec, static=form == "fixpoint") == 1
    assert add_nms(graph, spec, form) > 0
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    return model


class Decoder:
    """The decoder of a spec as a function of heads (B, C, H, W)."""

    def __init__(self, spec: DetectorSpec, form: str = "operator", opset: int = 18) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        model = decoder_model(spec, form, opset).SerializeToString()
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(
        self, logits: Sequence[F32], deltas: Sequence[F32], geometry: Geometry
    ) -> list[npt.NDArray[np.generic]]:
        feed = {f"in_logits_{i}": value for i, value in enumerate(logits)}
        feed |= {f"in_deltas_{i}": value for i, value in enumerate(deltas)}
        feed["in_geometry"] = np.float32(geometry.vector())
        return self.session.run(["boxes", "scores", "labels", "count"], feed)
