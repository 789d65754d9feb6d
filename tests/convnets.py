"""Small convolutional networks, built tensor by tensor, that run as they stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

DOMAIN = "edge_retina"
CHANNELS, SIZE = 4, 8
NEAREST = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
LINEAR = {"coordinate_transformation_mode": "half_pixel", "mode": "linear"}


class Net:
    """From x, float32 (batch, 4, 8, 8), on; a tensor's name is that of the node that makes it."""

    def __init__(self, seed: int = 0, opset: int = 19) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = gs.Variable("x", np.float32, ["batch", CHANNELS, SIZE, SIZE])
        self.graph = gs.Graph(inputs=[self.x], opset=opset, ir_version=9)
        self.channels = {"x": CHANNELS}

    def add(self, op: str, name: str, *inputs: Any, channels: int = 0, domain: str = "", **attrs: Any) -> gs.Variable:
        """One node; channels: of its result, if not those of its first input."""
        tensors = [
            t if isinstance(t, gs.Tensor) else gs.Constant(f"{name}/{i}", np.asarray(t)) for i, t in enumerate(inputs)
        ]
        result = gs.Variable(name, np.float32)
        node = gs.Node(op, f"node/{name}", dict(attrs), tensors, [result])
        node.domain = domain or None
        self.graph.nodes.append(node)
        self.channels[name] = channels or self.channels[tensors[0].name]
        return result

    def weight(self, name: str, out: int, inputs: int, kernel: int) -> gs.Constant:
        values = self.rng.standard_normal((out, inputs, kernel, kernel)) / np.sqrt(inputs * kernel * kernel)
        return gs.Constant(name, values.astype(np.float32))

    def conv(
        self,
        name: str,
        x: gs.Tensor,
        out: int = CHANNELS,
        kernel: int = 1,
        stride: int = 1,
        *,
        group: int = 1,
        bias: bool = True,
        weight: gs.Constant | None = None,
        **attrs: Any,
    ) -> gs.Variable:
        """Padded so that at stride 1 the size stays."""
        inputs = self.channels[x.name]
        weight = self.weight(f"{name}/w", out, inputs // group, kernel) if weight is None else weight
        kernel = weight.values.shape[2]
        biases = [self.rng.standard_normal(len(weight.values)).astype(np.float32) / 4] if bias else []
        attrs = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": group, **attrs}
        return self.add("Conv", name, x, weight, *biases, channels=len(weight.values), **attrs)

    def relu(self, x: gs.Tensor) -> gs.Variable:
        return self.add("Relu", f"{x.name}.relu", x)

    def pool(self, name: str, x: gs.Tensor) -> gs.Variable:
        return self.add("MaxPool", name, x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def up(self, name: str, x: gs.Tensor, how: dict[str, str] = NEAREST) -> gs.Variable:
        return self.add("Resize", name, x, gs.Variable.empty(), np.float32([1, 1, 2, 2]), **how)

    def head(self, x: gs.Tensor) -> gs.Variable:
        """What reads logits and deltas: a function of our domain that leaves them as they are."""
        if not self.graph.functions:
            given, made = gs.Variable("given"), gs.Variable("made")
            body = gs.Node("Identity", "identity", {}, [given], [made])
            opset = self.graph.opset
            function = gs.Function("Detect", DOMAIN, nodes=[body], inputs=[given], outputs=[made], opset=opset)
            self.graph.functions.append(function)
        return self.add("Detect", f"{x.name}.detections", x, domain=DOMAIN)

    def end(self, *outputs: gs.Variable) -> gs.Graph:
        for output in outputs:
            output.shape = ["batch", self.channels[output.name], f"{output.name}_h", f"{output.name}_w"]
        self.graph.outputs = list(outputs)
        return self.graph


def frame(seed: int = 0, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, CHANNELS, SIZE, SIZE)).astype(np.float32)


def session(graph: gs.Graph, *, optimized: bool = False, save: str = "") -> ort.InferenceSession:
    model = gs.export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    if save:
        options.optimized_model_filepath = save
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(graph: gs.Graph, x: np.ndarray, *, optimized: bool = False) -> dict[str, np.ndarray]:
    """The outputs by name; without ONNX Runtime's optimizations unless asked for."""
    made = session(graph, optimized=optimized)
    return dict(zip((t.name for t in graph.outputs), made.run(None, {"x": x}), strict=True))
