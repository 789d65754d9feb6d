"""Run in an interpreter that has tensorrt_rtx: load the library argv[1], parse the ONNX argv[2], print what is logged.

A process of its own: TensorRT-RTX ends it once it has made the plugin, for it has no plugins.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorrt_rtx as trt


class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        print(severity.name, message, flush=True)


log = Log()
builder = trt.Builder(log)
network = builder.create_network(0)
registry = builder.get_plugin_registry()
loaded = registry.load_library(sys.argv[1])
for creator in registry.all_creators:
    if creator.plugin_namespace == "edge_retina":
        print("creator", creator.name, creator.plugin_version, [f.name for f in creator.field_names], flush=True)
parser = trt.OnnxParser(network, log)
print("parsed", parser.parse(Path(sys.argv[2]).read_bytes()), flush=True)
