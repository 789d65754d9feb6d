"""What edge-retina does from an ONNX to its INT8 version, in a process of its own: no choice, no proof, no report.

    python benchmarks/alone_worker.py '{"model": ..., "inputs": ..., "out": ...}'    # quantization.py says what

model: the ONNX. inputs: a folder of pictures. out: the ONNX to write. method: range of the activations. first, last:
how many of the first convolutions, and whether the last ones of the heads, are left in float. pictures: how many.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from edge_retina.calibrate.pictures import open_calibration
from edge_retina.importer import import_model, load_onnx
from edge_retina.int8 import binding, calibrate
from edge_retina.memory import release
from edge_retina.quantize import Quantizer, Recipe, equalized
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.opset import LEAST_OPSET


def last_convs(graph: gs.Graph) -> Iterator[str]:
    """Outputs of the convolutions that make the heads."""
    todo = [tensor for node in graph.nodes if node.domain == "edge_retina" for tensor in node.inputs]
    while todo:
        for node in todo.pop().inputs:
            if node.op == "Conv":
                yield node.outputs[0].name
            else:
                todo += node.inputs


def left_out(model: onnx.ModelProto, convs: tuple[str, ...], first: int, last: bool) -> list[str]:
    """The convolutions to leave in float."""
    heads = set(last_convs(gs.import_onnx(model))) if last else set()
    return [name for place, name in enumerate(convs) if place < first or name in heads]


def main() -> None:
    """Import, rewrite, calibrate, quantize."""
    job = json.loads(sys.argv[1])
    source = load_onnx(Path(job["model"]))
    found = import_model(source)
    release()
    graph = rewrite(source.graph, found, least_opset=LEAST_OPSET)
    recipe = Recipe(method=job.get("method", Recipe.method))
    pictures = open_calibration(job["inputs"], most=job.get("pictures", 512))
    bound = binding(source.digest, found.spec, None, pictures, recipe)
    del source, found  # the weights once more, as build does
    ranges = calibrate(graph, pictures, bound, recipe, on_step=lambda *_: None)
    quantizer = Quantizer(equalized(graph, ranges.factors), ranges.statistics, recipe)
    skip = left_out(graph, quantizer.everything.convs, job.get("first", 0), job.get("last", False))
    Path(job["out"]).write_bytes(quantizer.quantized(skip).SerializeToString())


if __name__ == "__main__":
    main()
