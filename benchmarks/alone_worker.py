"""What edge-retina does from an ONNX to its INT8 version, in a process of its own: no choice, no proof, no report.

python benchmarks/alone_worker.py MODEL PICTURES OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_retina.calibrate.pictures import open_calibration
from edge_retina.importer import import_model, load_onnx
from edge_retina.int8 import binding, calibrate
from edge_retina.memory import release
from edge_retina.quantize import Quantizer, Recipe, equalized
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.opset import LEAST_OPSET


def main() -> None:
    """Import, rewrite, calibrate, quantize everything."""
    model, folder, out = sys.argv[1:]
    source = load_onnx(Path(model))
    found = import_model(source)
    release()
    graph = rewrite(source.graph, found, least_opset=LEAST_OPSET)
    pictures, recipe = open_calibration(folder), Recipe()
    bound = binding(source.digest, found.spec, None, pictures, recipe)
    del source, found  # the weights once more, as build does
    ranges = calibrate(graph, pictures, bound, recipe, on_step=lambda *_: None)
    quantizer = Quantizer(equalized(graph, ranges.factors), ranges.statistics, recipe)
    Path(out).write_bytes(quantizer.quantized().SerializeToString())


if __name__ == "__main__":
    main()
