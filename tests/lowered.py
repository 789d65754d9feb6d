"""What bundles hold, to be lowered and compiled: the digits model, a RetinaNet with ResNet-50, a tiny one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from models import tiny_model
from retinanet import retinanet_r50

from edge_retina.importer import import_model, load_onnx
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.integer_conv import to_integer_convs
from edge_retina.rewrite.opset import raise_opset
from edge_retina.rewrite.placement import layer_name, place
from edge_retina.rewrite.qdq import add_qdq
from edge_retina.spec import DetectorSpec
from edge_retina.weights import half_scale, quantize_weight

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits" / "digits.onnx"
PRECISIONS = ("fp32", "fp16", "int8")


@lru_cache(maxsize=2)  # 140 MB each
def bundled(name: str, precision: str, frame: tuple[int, int] | None) -> tuple[bytes, DetectorSpec]:
    """What a bundle of that precision holds; INT8 with made-up ranges, for only types and shapes matter here."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        make = {"tiny": lambda: tiny_model(path), "r50": lambda: retinanet_r50(path)}
        if name in make:
            make[name]()
        source = load_onnx(DIGITS if name == "digits" else path)
    found = import_model(source)
    graph = source.graph if precision == "fp32" else raise_opset(source.graph)
    model = rewrite(graph, found, frame)
    if precision == "int8":
        model = quantized(model)
    return model.SerializeToString(), found.spec


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = gs.import_onnx(model)
    placement = place(graph)
    shared, weights = {}, {}
    for node in graph.nodes:
        if node.op == "Conv" and layer_name(node) in placement.convs:
            constant = node.inputs[1]
            if constant.name not in shared:
                shared[constant.name] = quantize_weight(constant.values, search=False)
            weights[layer_name(node)] = shared[constant.name]
    scale = float(half_scale(np.float32(0.06)))
    add_qdq(graph, placement, dict.fromkeys(placement.groups.values(), scale), weights, {})
    to_integer_convs(graph)
    return gs.export_onnx(graph)
