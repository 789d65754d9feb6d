"""A stand-in for tritonserver, for tests of the client: what the KServe v2 protocol and Triton's documents say.

Not Triton: it runs each request alone and never batches. It parses config.pbtxt with Triton's own protobuf, runs the
version's ONNX in ONNX Runtime, and refuses whatever the configuration does not allow. Sources: predict-v2 of KServe,
docs/protocol/extension_binary_data.md and extension_model_configuration.md of triton-inference-server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

TYPES = {"UINT8": np.uint8, "FP32": np.float32, "INT32": np.int32}
_LENGTH = "Inference-Header-Content-Length"


def read_config(model: Path) -> Any:
    """config.pbtxt, parsed by Triton's own definition: an unknown field or value is an error."""
    return text_format.Parse((model / "config.pbtxt").read_text("utf-8"), model_config_pb2.ModelConfig())


class Served:
    """A model of the repository as the ONNX Runtime backend has it."""

    def __init__(self, model: Path) -> None:
        self.config = read_config(model)
        assert self.config.name == model.name
        versions = sorted(int(path.name) for path in model.iterdir() if path.name.isdecimal())
        self.version = versions[-1]  # version_policy: the latest one
        file = model / str(self.version) / self.config.default_model_filename
        self.session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])

    def infer(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name, shaped as the configuration says. Raises ValueError for what Triton would refuse."""
        (wanted,) = self.config.input
        if not 1 <= len(frames) <= self.config.max_batch_size:
            raise ValueError(f"batch of {len(frames)}, max_batch_size is {self.config.max_batch_size}")
        fits = [dim in (-1, size) for dim, size in zip(wanted.dims, frames.shape[1:], strict=True)]
        if not all(fits):
            raise ValueError(f"unexpected shape {frames.shape}, expecting [-1, {wanted.dims}]")
        names = [output.name for output in self.config.output]
        answers = self.session.run(names, {wanted.name: frames})
        for output, answer in zip(self.config.output, answers, strict=True):
            given = list(output.reshape.shape if output.HasField("reshape") else output.dims)
            assert list(answer.shape) == [len(frames), *given]
            kind = model_config_pb2.DataType.Name(output.data_type)
            assert answer.dtype == TYPES[kind.removeprefix("TYPE_")]
        return {o.name: a.reshape(len(frames), *o.dims) for o, a in zip(self.config.output, answers, strict=True)}


@contextmanager
def serve(repository: Path) -> Iterator[str]:
    """HOST:PORT of a server over all models of a repository."""
    models = {path.name: Served(path) for path in repository.iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"models": models}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: dict[str, Served]

    def do_GET(self) -> None:
        model = self.models.get(self.path.split("/")[3])
        if model is None or not self.path.endswith("/config"):
            self._answer(400, {"error": f"no such model or no such thing: {self.path}"})
            return
        self._answer(200, json_format.MessageToDict(model.config, preserving_proto_field_name=True))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        split = int(self.headers.get(_LENGTH, len(body)))
        request, binary = json.loads(body[:split]), body[split:]
        model = self.models.get(self.path.split("/")[3])
        try:
            if model is None:
                raise ValueError("unknown model")
            (tensor,) = request["inputs"]
            assert tensor["parameters"]["binary_data_size"] == len(binary)
            frames = np.frombuffer(binary, TYPES[tensor["datatype"]]).reshape(tensor["shape"])
            outputs = model.infer(frames)
        except ValueError as exc:
            self._answer(400, {"error": str(exc)})
            return
        rows = [
            {
                "name": name,
                "datatype": kind,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in outputs.items()
            for kind in (next(kind for kind, dtype in TYPES.items() if dtype == array.dtype),)
        ]
        facts = {"model_name": model.config.name, "model_version": str(model.version), "outputs": rows}
        self._answer(200, facts, b"".join(array.tobytes() for array in outputs.values()))

    def _answer(self, code: int, facts: dict[str, Any], binary: bytes = b"") -> None:
        text = json.dumps(facts).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/octet-stream" if binary else "application/json")
        if binary:
            self.send_header(_LENGTH, str(len(text)))
        self.send_header("Content-Length", str(len(text) + len(binary)))
        self.end_headers()
        self.wfile.write(text + binary)

    def log_message(self, *_: object) -> None:
        """Not on stderr."""
